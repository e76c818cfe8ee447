"""The words in which something that a person wrote wrong is reported: key, value, what is allowed."""

import difflib
import json
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from node.errors import ConfigurationError

Value = TypeVar("Value")
Checked = TypeVar("Checked")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def problem(key: str, value: object, expected: str) -> str:
    """Return one line: `receive.port: "abc" – expected an integer 1–65535`."""
    return f"{key}: {as_written(value)} – expected {expected}"


def unknown(key: str, names: Iterable[str]) -> str:
    """Return one line for a key that nobody reads, with the name that was probably meant."""
    return f"{key}: unknown key{did_you_mean(last_name(key), names)}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return ` – did you mean …?`, or nothing where no name is near."""
    name_by_folded = {candidate.casefold(): candidate for candidate in names}
    nearest = difflib.get_close_matches(name.casefold(), name_by_folded, n=1)
    return f" – did you mean {name_by_folded[nearest[0]]}?" if nearest else ""


def join(key: str, name: str) -> str:
    """Return the full key of a name inside a table, quoted where TOML asks for it."""
    written = name if _BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)
    return f"{key}.{written}" if key else written


def split_key(key: str) -> list[str]:
    """Return the names in a full key, without quotes and without numbers of list entries."""
    names = re.findall(r'"(?:[^"\\]|\\.)*"|[^.\[\]]+', re.sub(r"\[\d+\]", "", key))
    return [str(json.loads(name)) if name.startswith('"') else name for name in names]


def last_name(key: str) -> str:
    """Return the last part of a full key, without quotes."""
    quoted = re.search(r'"((?:[^"\\]|\\.)*)"$', key)
    return quoted[1] if quoted else key.rpartition(".")[2]


def as_written(value: object) -> str:
    """Return a value as it looks in a file, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


def each(check: Callable[[Value, str], Checked], items: Iterable[tuple[Value, str]]) -> tuple[Checked, ...]:
    """Return what a check makes of every value, given with its full key.

    Raises ConfigurationError with the problems of all of them: a person mends a file once.
    """
    problems: list[str] = []
    checked: list[Checked] = []
    for value, key in items:
        try:
            checked.append(check(value, key))
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return tuple(checked)


def wrong(key: str, value: object, expected: str) -> ConfigurationError:
    """Return the error of one wrong value."""
    return ConfigurationError([problem(key, value, expected)])
