"""Findings to a priority class, by declared thresholds."""

from collections.abc import Sequence

from node.domain.code import Code
from node.domain.findings import Findings, Presence, Priority, Score
from node.settings import TriageRule

__all__ = ["TriageRule", "names", "prioritize"]

_RANKS = (Priority.ROUTINE, Priority.URGENT, Priority.STAT)


def prioritize(findings: Findings, rules: Sequence[TriageRule]) -> Priority:
    """Return the highest class that a finding which is present earns; routine where none does.

    An uncertain score waits for its review in the ordinary order: escalating it would train readers to ignore
    the list.
    """
    present = [score for score in findings.all_scores if score.presence is Presence.PRESENT]
    earned = [rule.priority for rule in rules for score in present if _applies(rule, score)]
    return max(earned, key=_RANKS.index, default=Priority.ROUTINE)


def names(rule: TriageRule, code: Code) -> bool:
    """Return whether a rule is about this finding, by the value or the meaning of its code."""
    return rule.finding.casefold() in (code.value.casefold(), code.meaning.casefold())


def _applies(rule: TriageRule, score: Score) -> bool:
    return names(rule, score.code) and score.probability >= rule.at_least
