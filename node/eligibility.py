"""Is this series what the model was made for; the reason if not."""

from collections.abc import Sequence
from dataclasses import dataclass

from node.domain.card import Requirement
from node.domain.conditions import Explanation, parse, show
from node.domain.study import Series


@dataclass(frozen=True, slots=True)
class Eligibility:
    """The verdict; `reasons` says one thing for each requirement that the series does not fulfil."""

    reasons: tuple[str, ...]

    @property
    def is_eligible(self) -> bool:
        """Does the series fulfil every requirement?"""
        return not self.reasons

    @property
    def reason(self) -> str:
        """All reasons as the report says them; empty where the series is eligible."""
        return "" if self.is_eligible else f"outside intended use: {'; '.join(self.reasons)}"


def check_eligibility(series: Series, requirements: Sequence[Requirement]) -> Eligibility:
    """Return whether a series fulfils every requirement of a model's card.

    A requirement's reason goes on from "the series …": "is not of the chest", "has fewer than 200 rows".
    Raises ConfigurationError for a requirement that is no condition: an unreadable gate stays shut.
    """
    reasons = []
    for requirement in requirements:
        condition = parse(requirement.when, f"requirement {requirement.name}")
        explanation = condition.explain(series.attributes)
        if not explanation.is_match:
            reasons.append(f"the series {requirement.reason} ({_actual_values(explanation)})")
    return Eligibility(tuple(reasons))


def _actual_values(explanation: Explanation) -> str:
    """Return what the series has where it is not what was wanted: `modality MG, view absent`."""
    value_by_attribute = {check.attribute: show(check.actual) for check in explanation.decisive}
    return ", ".join(f"{attribute} {value}" for attribute, value in value_by_attribute.items())
