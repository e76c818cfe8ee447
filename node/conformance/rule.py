"""What a rule of the gate is, and how it is applied: whatever an object holds, the gate answers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from node.conformance.subject import Subject
from node.errors import DatasetError
from node.read.dataset import dataset_faults

LONGEST_LIST = 3
"""Messages of one rule: a shifted origin is wrong in every frame, and said once it is known."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule, and where; UIDs and keywords, no patient."""

    rule: str
    message: str

    def __str__(self) -> str:
        """Return the rule, a colon, and what is wrong."""
        return f"{self.rule}: {self.message}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that must hold for the objects it applies to; `check` yields what is wrong."""

    name: str
    applies: Callable[[Subject], bool]
    check: Callable[[Subject], Iterator[str]]
    needs_sources: bool = False


def judge(rule: Rule, subject: Subject) -> list[Violation]:
    """Return how an object breaks a rule; what cannot be judged does not pass."""
    try:
        with dataset_faults(rule.name):
            if not rule.applies(subject):
                return []
            found = rule.check(subject)
            messages = list(islice(found, LONGEST_LIST))
            further = sum(1 for _ in found)
    except DatasetError as error:
        messages, further = [f"cannot be judged: {error.message}"], 0
    if further:
        messages.append(f"and {further} more of this kind")
    return [Violation(rule.name, message) for message in messages]
