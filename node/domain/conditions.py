"""The one language for what a series must be like: routing rules and a model card's requirements speak it.

A condition is a table of attribute and wanted value, all of which must hold (TOML or JSON):

    modality = ["CR", "DX"]                          any of these; case and DICOM padding do not count
    series_description = "CHEST*"                    * and ? stand for any text and any character
    patient_age_years = { min = 18 }                 a number from min to max, both included
    body_part_examined = { present = false }         there, or not there
    any = [{ view = "PA" }, { view = "AP" }]         also `all = […]` and `not = { … }`

An attribute with several values matches when one of them does. One that is absent or empty matches nothing
but `{ present = false }`; `not` turns that round as it does everything else.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, Protocol, TypeGuard

from node.domain.attributes import hidden_attributes, known_attributes, snake_case
from node.domain.problems import as_written, did_you_mean, each, join, unknown, wrong
from node.domain.study import AttributeValue
from node.errors import ConfigurationError

Scalar = str | int | float | bool
Operator = Literal["all", "any", "not"]
Attributes = Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class Check:
    """One attribute compared: what was wanted, in words, and what the series has (None where it has nothing).

    The value may identify a patient: show it, never log it.
    """

    attribute: str
    wanted: str
    actual: AttributeValue
    is_match: bool

    def __str__(self) -> str:
        """The comparison on one line."""
        verdict = "yes" if self.is_match else "no"
        return f"{verdict}: {self.attribute} is {show(self.actual)}, wanted {self.wanted}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether a condition matched, and why: every comparison, those that decided nothing included."""

    operator: Operator
    is_match: bool
    parts: "tuple[Explanation | Check, ...]"

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every comparison, in the order in which it was written."""
        return tuple(_leaves(self.parts))

    @property
    def decisive(self) -> tuple[Check, ...]:
        """The comparisons that made it match, or kept it from matching; what `not` wants says so."""
        is_negated = self.operator == "not"
        checks: list[Check] = []
        for part in self.parts:
            if part.is_match != (self.is_match != is_negated):
                continue
            deciding = (part,) if isinstance(part, Check) else part.decisive
            checks += [_negated(check) for check in deciding] if is_negated else deciding
        return tuple(checks)

    def lines(self, indent: str = "") -> list[str]:
        """Return the whole tree as text, one comparison a line, indented by depth."""
        verdict = "yes" if self.is_match else "no"
        lines = [f"{indent}{verdict}: {_OPERATOR_WORDS[self.operator]}"]
        for part in self.parts:
            deeper = indent + "  "
            lines += [f"{deeper}{part}"] if isinstance(part, Check) else part.lines(deeper)
        return lines


class Matcher(Protocol):
    """What is wanted of one attribute."""

    def matches(self, values: tuple[Scalar, ...]) -> bool:
        """Return whether the values of one attribute, none where it is absent, are what is wanted."""

    def __str__(self) -> str:
        """What is wanted, in words."""


@dataclass(frozen=True, slots=True)
class OneOf:
    """Any of these values; text may hold `*` and `?`."""

    wanted: tuple[Scalar, ...]

    def matches(self, values: tuple[Scalar, ...]) -> bool:
        """Return whether any value equals any wanted one."""
        return any(_is_equal(wanted, value) for wanted in self.wanted for value in values)

    def __str__(self) -> str:
        """`CR or DX`."""
        return " or ".join(show(value) for value in self.wanted)


@dataclass(frozen=True, slots=True)
class Range:
    """A number from `minimum` to `maximum`, both included."""

    minimum: float = -math.inf
    maximum: float = math.inf

    def matches(self, values: tuple[Scalar, ...]) -> bool:
        """Return whether any value is a number within the range."""
        return any(self.minimum <= _as_number(value) <= self.maximum for value in values)

    def __str__(self) -> str:
        """`18 to 90`, `at least 18`, `at most 90`."""
        if math.isinf(self.maximum):
            return f"at least {self.minimum:g}"
        if math.isinf(self.minimum):
            return f"at most {self.maximum:g}"
        return f"{self.minimum:g} to {self.maximum:g}"


@dataclass(frozen=True, slots=True)
class Presence:
    """The attribute is there with a value, or it is not."""

    is_present: bool

    def matches(self, values: tuple[Scalar, ...]) -> bool:
        """Return whether there being values is what is wanted."""
        return bool(values) == self.is_present

    def __str__(self) -> str:
        """`present` or `absent`."""
        return "present" if self.is_present else "absent"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One attribute and what is wanted of it."""

    attribute: str
    matcher: Matcher

    def explain(self, attributes: Attributes) -> Check:
        """Return the comparison with the attributes of a series."""
        actual = attributes.get(self.attribute)
        return Check(self.attribute, str(self.matcher), actual, self.matcher.matches(_values(actual)))


@dataclass(frozen=True, slots=True)
class Condition:
    """Parts that must all hold, of which any must, or which must not all hold together."""

    operator: Operator
    parts: "tuple[Condition | Leaf, ...]"

    def explain(self, attributes: Attributes) -> Explanation:
        """Return whether the attributes match, and the comparison of every one."""
        parts = tuple(part.explain(attributes) for part in self.parts)
        results = [part.is_match for part in parts]
        is_match = {"all": all(results), "any": any(results), "not": not all(results)}[self.operator]
        return Explanation(self.operator, is_match, parts)

    def matches(self, attributes: Attributes) -> bool:
        """Return whether the attributes match."""
        return self.explain(attributes).is_match


def parse(table: object, key: str = "when") -> Condition:
    """Return the condition that a TOML or JSON table says; `key` is where it stands, for the messages.

    Raises ConfigurationError with every problem in it.
    """
    if not isinstance(table, Mapping) or not table:
        raise wrong(key, table, "attribute = value; for every series { modality = { present = true } }")
    return Condition("all", each(_parse_part, [(entry, join(key, entry[0])) for entry in table.items()]))


def show(value: AttributeValue) -> str:
    """Return a value as a person reads it: `absent`, `CR`, `0.5`, `ORIGINAL, PRIMARY`."""
    values = _values(value)
    if not values:
        return "absent"
    return ", ".join(item.strip() if isinstance(item, str) else as_written(item) for item in values)


def _parse_part(entry: tuple[str, object], key: str) -> Condition | Leaf:
    name, wanted = entry
    match name:
        case "all" | "any":
            if not isinstance(wanted, list | tuple) or not wanted:
                raise wrong(key, wanted, "a list of tables")
            return Condition(name, each(parse, [(part, f"{key}[{i}]") for i, part in enumerate(wanted)]))
        case "not":
            return Condition("not", parse(wanted, key).parts)
    if name not in known_attributes():
        raise ConfigurationError([_unknown_attribute(name, key)])
    if isinstance(wanted, Mapping):
        return Leaf(name, _parse_presence(wanted, key) if "present" in wanted else _parse_range(wanted, key))
    return Leaf(name, _parse_values(name, wanted, key))


def _parse_values(attribute: str, wanted: object, key: str) -> OneOf:
    """Return the wanted values; refuse a type that could never match: the rule would stay silent."""
    values = tuple(wanted) if isinstance(wanted, list | tuple) else (wanted,)
    if attribute.startswith(("is_", "has_")):
        if not values or not all(isinstance(value, bool) for value in values):
            raise wrong(key, wanted, "true or false")
    elif not values or not all(_is_number(value) or isinstance(value, str) for value in values):
        raise wrong(key, wanted, "text, a number, or a list of these")
    return OneOf(values)


def _parse_range(table: Mapping[str, object], key: str) -> Range:
    _refuse_unknown(table, ("min", "max"), key)
    minimum, maximum = table.get("min", -math.inf), table.get("max", math.inf)
    if not table or not _is_number(minimum) or not _is_number(maximum) or not minimum <= maximum:
        raise wrong(key, table, "{ min = number, max = number }, one of them or both, min ≤ max")
    return Range(float(minimum), float(maximum))


def _parse_presence(table: Mapping[str, object], key: str) -> Presence:
    _refuse_unknown(table, ("present",), key)
    if not isinstance(is_present := table["present"], bool):
        raise wrong(join(key, "present"), is_present, "true or false")
    return Presence(is_present)


def _refuse_unknown(table: Mapping[str, object], names: tuple[str, ...], key: str) -> None:
    problems = [unknown(join(key, name), names) for name in table if name not in names]
    if problems:
        raise ConfigurationError(problems)


def _unknown_attribute(name: str, key: str) -> str:
    if name in hidden_attributes():
        return f"{key}: rules cannot look at this attribute – it is a sequence, bytes, free text or a name"
    if (guess := snake_case(name)) in known_attributes():
        return f"{key}: unknown attribute – did you mean {guess}?"
    return f"{key}: unknown attribute{did_you_mean(name, (*known_attributes(), *_OPERATOR_WORDS))}"


def _negated(check: Check) -> Check:
    return replace(check, wanted=f"not {check.wanted}", is_match=not check.is_match)


def _leaves(parts: tuple[Explanation | Check, ...]) -> Iterator[Check]:
    for part in parts:
        yield from (part,) if isinstance(part, Check) else _leaves(part.parts)


def _values(value: AttributeValue) -> tuple[Scalar, ...]:
    """Return what counts as a value: padding and emptiness do not (PS3.5 section 6.2)."""
    values = value if isinstance(value, tuple) else (value,)
    return tuple(item for item in values if item is not None and (not isinstance(item, str) or _plain(item)))


def _is_equal(wanted: Scalar, value: Scalar) -> bool:
    if isinstance(wanted, bool) or isinstance(value, bool):
        return wanted is value
    if isinstance(wanted, str) and isinstance(value, str):
        # Brackets are ordinary in descriptions ("[PA] chest"): only * and ? are special.
        return fnmatchcase(_plain(value), _plain(wanted).replace("[", "[[]"))
    return _as_number(wanted) == _as_number(value)


def _plain(text: str) -> str:
    return text.strip(" \0").casefold()


def _as_number(value: Scalar) -> float:
    """Return the number a value is or spells (DS, IS); NaN, which equals nothing, where it is none."""
    if isinstance(value, bool):
        return math.nan
    try:
        return float(value.strip(" \0")) if isinstance(value, str) else float(value)
    except ValueError:
        return math.nan


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


_OPERATOR_WORDS: Mapping[Operator, str] = {"all": "all of", "any": "any of", "not": "not all of"}
