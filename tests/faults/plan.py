"""What happens in one run, drawn from one generator: a seed always gives the same of all."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

STUDIES, SENDERS = 20, 4
SENDING_S = 0.15
"""Within so many seconds for each study, all have begun to be sent."""

FIRST_BLOW_S, LAST_BLOW_S = 0.2, 0.25
"""Blows fall from the first on, in seconds after all is up, to the last, in seconds for each study."""

NODE, MAIN, CHILD, SENDER, ARCHIVE = "node", "main process", "child", "sender", "archive"
WEIGHT_BY_TARGET = {NODE: 7, MAIN: 4, CHILD: 4, SENDER: 3, ARCHIVE: 4}
ENGINE, MODEL = "engine", "model process"
"""A Triton server with all its processes, and one of those that run its models."""

WEIGHT_BY_TARGET_OF_TRITON = {ENGINE: 7, MODEL: 4}
STEPS = ("plan", "analyze", "encode", "deliver", "finish")
MOMENTS = (
    ("association_accepted", ""),
    ("instance_stored", ""),
    ("association_ended", ""),
    ("study_assembled", ""),
    *(("step_started", step) for step in STEPS),
    *(("step_finished", step) for step in STEPS),
)


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """A study: so many images, sent by one of the senders; the last `late` of them come on their own."""

    number: int
    is_stack: bool
    images: int
    late: int
    sender: int
    begins_at_s: float


@dataclass(frozen=True, slots=True)
class Blow:
    """A SIGKILL, at a time or at the n-th record of an event in the node's log, whichever is first.

    `draw` (0–1) chooses among several children, senders or processes of models; what was killed is started
    again after `pause_s`.
    """

    at_s: float
    target: str
    draw: float
    pause_s: float
    event: str = ""
    step: str = ""
    count: int = 0

    def __str__(self) -> str:
        """Return it on one line."""
        aim = f" or at {self.event} {self.step} {self.count}".replace("  ", " ") if self.event else ""
        return f"{self.at_s:.3f} s{aim}: {self.target} ({self.draw:.2f}), back after {self.pause_s:.2f} s"


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a run; from `full_at_s` on the disk is at its watermark for `full_for_s`, which may be 0."""

    seed: int
    on_triton: bool
    studies: tuple[StudyPlan, ...]
    blows: tuple[Blow, ...]
    is_compressed: bool
    full_at_s: float
    full_for_s: float

    def lines(self) -> list[str]:
        """Return what happens, for a person."""
        full = f"disk full at {self.full_at_s:.3f} s for {self.full_for_s:.2f} s"
        return [*map(str, self.blows), *([full] if self.full_for_s else [])]


def make_plan(seed: int, studies: int = STUDIES, *, on_triton: bool = False) -> Plan:
    """Return the plan of a seed; with fewer studies, or models on Triton, it is another plan."""
    draw = random.Random(seed)  # noqa: S311 - it must give the same again
    blows_s = (FIRST_BLOW_S, FIRST_BLOW_S + LAST_BLOW_S * studies)
    sent = tuple(_study(draw, number, SENDING_S * studies) for number in range(studies))
    count = draw.randint(3, 6) if studies == STUDIES else 2
    weights = WEIGHT_BY_TARGET | (WEIGHT_BY_TARGET_OF_TRITON if on_triton else {})
    # A run without these would prove little.
    certain = {0: NODE} | ({1: ENGINE} if on_triton else {})
    blows = [
        _blow(draw, certain.get(number) or _target(draw, weights), blows_s, studies)
        for number in range(count)
    ]
    is_full = draw.random() < 0.25
    return Plan(
        seed,
        on_triton,
        sent,
        tuple(sorted(blows, key=lambda one: one.at_s)),
        is_compressed=draw.random() < 0.3,
        full_at_s=draw.uniform(*blows_s) if is_full else 0.0,
        full_for_s=draw.uniform(0.3, 1.5) if is_full else 0.0,
    )


def _study(draw: random.Random, number: int, within_s: float) -> StudyPlan:
    is_stack = draw.random() < 0.4
    images = draw.randint(3, 8) if is_stack else draw.randint(1, 2)
    late = draw.randint(1, images - 1) if images > 1 and draw.random() < 0.3 else 0
    return StudyPlan(number, is_stack, images, late, number % SENDERS, draw.uniform(0, within_s))


def _target(draw: random.Random, weights: Mapping[str, int]) -> str:
    return draw.choices(list(weights), list(weights.values()))[0]


def _blow(draw: random.Random, target: str, blows_s: tuple[float, float], studies: int) -> Blow:
    at_s, chosen, pause_s = draw.uniform(*blows_s), draw.random(), draw.uniform(0, 0.6)
    if target in (SENDER, CHILD) or draw.random() < 0.4:
        return Blow(at_s, target, chosen, pause_s)
    event, step = draw.choice(MOMENTS)
    return Blow(at_s, target, chosen, pause_s, event, step, draw.randint(1, studies))
