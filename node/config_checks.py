"""Checks a table against a dataclass that says what it allows: `port: Annotated[int, integer(1, 65535)]`.

A check takes a value and its full key and returns the value to keep. It raises ConfigurationError with every
problem it finds, so that checks nest and a person reads all problems of a file at once.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sized
from dataclasses import MISSING, Field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from node.domain.problems import did_you_mean, each, join, unknown, wrong
from node.errors import ConfigurationError

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)
S = TypeVar("S", bound=Sized)
Check = Callable[[object, str], T]
Table = Mapping[str, object]


def section(cls: type[T]) -> Check[T]:
    """Return the check of a table that becomes a dataclass: unknown, missing and wrong keys are problems."""

    def check(value: object, key: str) -> T:
        given = table(value, key)
        checks = {
            name: hint.__metadata__[0] for name, hint in get_type_hints(cls, include_extras=True).items()
        }
        required = {field.name for field in fields(cast(Any, cls)) if _is_required(field)}

        def check_entry(name: str, entry_key: str) -> tuple[str, object]:
            if name not in checks:
                raise ConfigurationError([unknown(entry_key, checks)])
            if name not in given:
                raise ConfigurationError([f"{entry_key}: missing – this key must be given"])
            return name, checks[name](given[name], entry_key)

        names = [*given, *sorted(required - set(given))]
        return cls(**dict(each(check_entry, [(name, join(key, name)) for name in names])))

    return check


def table(value: object, key: str) -> Table:
    """Check a table of anything."""
    if not isinstance(value, dict):
        raise wrong(key, value, "a table")
    return value


def table_of(check: Check[T], check_name: Check[str]) -> Check[Mapping[str, T]]:
    """Return the check of a table whose names are free, within `check_name`, and whose values are alike."""

    def check_table(value: object, key: str) -> Mapping[str, T]:
        def check_entry(entry: tuple[str, object], entry_key: str) -> tuple[str, T]:
            name, content = entry
            check_name(name, entry_key)
            return name, check(content, entry_key)

        return dict(each(check_entry, [(entry, join(key, entry[0])) for entry in table(value, key).items()]))

    return check_table


def list_of(check: Check[T]) -> Check[tuple[T, ...]]:
    """Return the check of a list, each item by itself."""

    def check_list(value: object, key: str) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise wrong(key, value, "a list")
        return each(check, [(item, f"{key}[{number}]") for number, item in enumerate(value)])

    return check_list


def filled(check: Check[S]) -> Check[S]:
    """Return the check of a list or table that must hold something: nothing might be taken for anything."""

    def check_filled(value: object, key: str) -> S:
        checked = check(value, key)
        if not checked:
            raise wrong(key, value, "at least one entry")
        return checked

    return check_filled


def integer(lowest: int, highest: int) -> Check[int]:
    """Return the check of a whole number within bounds."""

    def check(value: object, key: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise wrong(key, value, f"an integer {lowest}–{highest}")
        return value

    return check


def number(lowest: float, highest: float) -> Check[float]:
    """Return the check of a number within bounds."""

    def check(value: object, key: str) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not lowest <= value <= highest:
            raise wrong(key, value, f"a number {lowest:g}–{highest:g}")
        return float(value)

    return check


def one_of(*names: str) -> Check[str]:
    """Return the check of a word from a list."""

    def check(value: object, key: str) -> str:
        if not isinstance(value, str) or value not in names:
            raise wrong(key, value, " or ".join(names) + did_you_mean(str(value), names))
        return value

    return check


def member(cls: type[E]) -> Check[E]:
    """Return the check of a member of an enumeration."""
    check_name = one_of(*(item.value for item in cls))

    def check(value: object, key: str) -> E:
        return cls(check_name(value, key))

    return check


def matching(pattern: str, expected: str) -> Check[str]:
    """Return the check of text that a regular expression matches as a whole."""

    def check(value: object, key: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise wrong(key, value, expected)
        return value

    return check


def boolean(value: object, key: str) -> bool:
    """Check true or false."""
    if not isinstance(value, bool):
        raise wrong(key, value, "true or false")
    return value


def auto_or_boolean(value: object, key: str) -> bool | None:
    """Check true, false or "auto", which is None: as the machine allows."""
    if value != "auto" and not isinstance(value, bool):
        raise wrong(key, value, 'true, false or "auto"')
    return value if isinstance(value, bool) else None


def path(value: object, key: str) -> Path:
    """Check the name of a file or folder; `~` is the home folder."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise wrong(key, value, "the name of a file or folder")
    return Path(value).expanduser()


def network(value: object, key: str) -> str:
    """Check an IP address, or a network such as 10.1.0.0/16."""
    try:
        ipaddress.ip_network(str(value))
    except ValueError as error:
        raise wrong(key, value, "an IP address, or a network such as 10.1.0.0/16") from error
    return str(value)


text = matching(r"(?s).*\S.*", "text")
address = matching(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}", "a host and a port, as in 127.0.0.1:8001")
host_name = matching(r"[A-Za-z0-9.:_-]+", "a host name or an IP address")
# PS3.5 section 6.2, AE: 16 characters of the default repertoire, no backslash; spaces around it do not count.
valid_ae_title = matching(
    r"(?! )[\x20-\x5b\x5d-\x7e]{1,16}(?<! )", "an AE title: 1–16 characters, no backslash, no space around it"
)


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING
