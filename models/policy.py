"""How a server is to queue, batch and run a model: the part `serving` of its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


class PolicyError(ValueError):
    """The part `serving` of a card cannot be meant as it stands."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How requests of one priority wait: the longest time, and the most of them at once."""

    name: str
    timeout_s: float
    max_requests: int


@dataclass(frozen=True, slots=True)
class Serving:
    """The numbers behind config.pbtxt; `priorities` go down from the most urgent, which is level 1 of Triton.

    `instances` run beside each other on each GPU, or on the CPU, each with `threads` threads of a CPU.
    """

    max_batch_size: int = 16
    preferred_batch_sizes: tuple[int, ...] = (4, 8, 16)
    max_queue_delay_ms: float = 2.0
    # A request that waits longer is refused, and the node asks again: sooner where someone waits for it.
    priorities: tuple[Waiting, ...] = (
        Waiting("stat", timeout_s=60, max_requests=256),
        Waiting("urgent", timeout_s=120, max_requests=256),
        Waiting("routine", timeout_s=300, max_requests=1024),
    )
    default_priority: str = "routine"
    instances: int = 1
    # The members of an ensemble run beside each other: with more threads they take each other's cores.
    threads: int = 1

    def __post_init__(self) -> None:
        """Raise PolicyError where a number is out of range or a name unknown."""
        counts = (self.max_batch_size, self.instances, self.threads, *self.preferred_batch_sizes)
        waits = [value for one in self.priorities for value in (one.timeout_s, one.max_requests)]
        if min(*counts, *waits) <= 0 or self.max_queue_delay_ms < 0:
            raise PolicyError("serving: sizes, counts and times must be above 0")
        if max(self.preferred_batch_sizes) > self.max_batch_size:
            raise PolicyError(f"serving: a preferred batch is larger than {self.max_batch_size}, the largest")
        if self.default_priority not in (names := [one.name for one in self.priorities]):
            raise PolicyError(f"serving: default_priority is {self.default_priority}, not one of {names}")

    @property
    def default_level(self) -> int:
        """The level of a request that names none; 1 is the most urgent."""
        return [one.name for one in self.priorities].index(self.default_priority) + 1


def to_card(serving: Serving) -> dict[str, Any]:
    """Return the part of the card."""
    return asdict(serving)


def from_card(part: Mapping[str, Any]) -> Serving:
    """Return what the card says; raises PolicyError for an unknown, missing or impossible entry."""
    if differing := {field.name for field in fields(Serving)} ^ part.keys():
        raise PolicyError(f"serving: unknown or missing: {', '.join(sorted(differing))}")
    values = dict(part)
    try:
        values["priorities"] = tuple(Waiting(**one) for one in part["priorities"])
        values["preferred_batch_sizes"] = tuple(part["preferred_batch_sizes"])
        return Serving(**values)
    except TypeError as error:
        raise PolicyError(f"serving: {error}") from error
