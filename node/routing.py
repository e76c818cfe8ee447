"""Which pipelines want a series, by declared rules; explains itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node.domain.conditions import Condition, Explanation, show
from node.domain.findings import Priority
from node.domain.study import Series

ANY_PIPELINE = "*"

Scopes = Mapping[str, Sequence[str]]
"""The pipelines that each AE title may reach; `*` stands for all."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A pipeline, the series it wants, the class in which its runs wait, and where its results go.

    An empty `deliver_to` means every destination.
    """

    pipeline: str
    when: Condition
    priority: Priority = Priority.ROUTINE
    deliver_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one rule: whether its pipeline reads the series, and on which values.

    `out_of_scope` says which AE titles keep the series from the pipeline; empty where none does.
    """

    rule: Rule
    explanation: Explanation
    out_of_scope: str

    @property
    def is_chosen(self) -> bool:
        """Does the pipeline read the series?"""
        return self.explanation.is_match and not self.out_of_scope

    @property
    def reason(self) -> str:
        """What decided, on one line: the scope, or the values that matched or failed to."""
        if self.out_of_scope:
            return self.out_of_scope
        checks = self.explanation.decisive
        return ", ".join(f"{one.attribute} is {show(one.actual)} (rule: {one.wanted})" for one in checks)


@dataclass(frozen=True, slots=True)
class Routing:
    """Every rule's decision about one series."""

    decisions: tuple[Decision, ...]

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that fired, in the order in which they were declared."""
        return tuple(decision.rule for decision in self.decisions if decision.is_chosen)

    @property
    def pipelines(self) -> tuple[str, ...]:
        """The names of the pipelines that read the series."""
        return tuple(rule.pipeline for rule in self.rules)

    @property
    def reason(self) -> str:
        """Why no pipeline reads the series; empty where one does. Never log it: it quotes the series."""
        if self.rules:
            return ""
        refusals = [f"{decision.rule.pipeline}: {decision.reason}" for decision in self.decisions]
        return f"no rule wants the series – {'; '.join(refusals)}" if refusals else "no rule is declared"

    def lines(self) -> list[str]:
        """Return each decision, and every comparison behind it, as text."""
        lines = []
        for decision in self.decisions:
            verdict = "chosen" if decision.is_chosen else decision.out_of_scope or "not chosen"
            lines += [f"{decision.rule.pipeline}: {verdict}", *decision.explanation.lines("  ")]
        return lines


def route(series: Series, rules: Sequence[Rule], scopes: Scopes) -> Routing:
    """Return which rules want a series, and why each does or does not.

    A pipeline is in scope when one of the AE titles through which the series came reaches it; where it came
    through none (files on disk), every pipeline is.
    """
    ae_titles = _ae_titles(series)
    return Routing(
        tuple(
            Decision(rule, rule.when.explain(series.attributes), _out_of_scope(rule, ae_titles, scopes))
            for rule in rules
        )
    )


def _ae_titles(series: Series) -> tuple[str, ...]:
    value = series.attributes.get("called_ae_title")
    values = value if isinstance(value, tuple) else (value,)
    return tuple(title for title in values if isinstance(title, str) and title)


def _out_of_scope(rule: Rule, ae_titles: Sequence[str], scopes: Scopes) -> str:
    reachable = {name for title in ae_titles for name in scopes.get(title, ())}
    if not ae_titles or reachable & {rule.pipeline, ANY_PIPELINE}:
        return ""
    return f"outside the scope of AE {', '.join(ae_titles)}"
