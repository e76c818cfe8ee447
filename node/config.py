"""One TOML file into frozen values; every problem reported at once.

The sections are in `node/settings.py`. What only the running machine knows (a port in use, a missing
model, an unreachable destination) is not checked here.
"""

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import get_type_hints

from node.config_checks import Table, section
from node.domain.problems import did_you_mean, join, problem, split_key, unknown
from node.errors import ConfigurationError
from node.settings import (
    CLASS,
    REPOSITORY,
    Configuration,
    ReceiveSettings,
    WebSettings,
    default_pipelines,
    import_class,
)


def load(path: Path | None) -> Configuration:
    """Return what a file says, over the embedded default; without a file, that default.

    Raises ConfigurationError with every problem of the file.
    """
    return check_configuration({} if path is None else _read(path))


def read_secret(name: str, key: str) -> str:
    """Return the secret in an environment variable, nothing without a name.

    Raises ConfigurationError where the variable is not set.
    """
    secret = os.environ.get(name, "") if name else ""
    if name and not secret:
        raise ConfigurationError([problem(key, name, "an environment variable that is set, and not empty")])
    return secret


def load_usable(path: Path | None) -> tuple[Configuration, list[str]]:
    """Return what a file says as far as it can be used, and its problems: to look on, never to work with.

    Raises ConfigurationError for a file that cannot be read, or is no TOML.
    """
    given = {} if path is None else _read(path)
    problems: list[str] = []
    while True:
        try:
            return check_configuration(given), problems
        except ConfigurationError as error:
            found = [one for one in error.problems if one not in problems]
            problems += found
            for one in found:
                given = _without(given, split_key(one.partition(": ")[0]))
            if not found:
                return Configuration(), problems


def _without(given: Table, names: list[str]) -> Table:
    """Return a table without one entry; where the entry is missing, without the table that lacks it."""
    name, *rest = names
    inner = given.get(name)
    if not rest or not isinstance(inner, dict) or (len(rest) == 1 and rest[0] not in inner):
        return {key: value for key, value in given.items() if key != name}
    return {**given, name: _without(inner, rest)}


def check_configuration(given: Table) -> Configuration:
    """Return what a table says, over the embedded default; raises ConfigurationError with every problem."""
    problems: list[str] = []
    configuration = Configuration()
    try:
        configuration = section(Configuration)(given, "")
    except ConfigurationError as error:
        problems += error.problems
    problems += [
        *_destination_problems(given),
        *_reference_problems(given),
        *_title_problems(given),
        *_address_problems(given),
        *_class_problems(given),
        *_tls_problems(given),
    ]
    if problems:
        raise ConfigurationError(problems)
    return _with_repository(configuration)


def _read(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read – {error.strerror}"]) from error
    except ValueError as error:  # no UTF-8, or no TOML: both say where
        raise ConfigurationError([f"{path}: not a TOML file – {error}"]) from error


def _with_repository(configuration: Configuration) -> Configuration:
    """Return the configuration with the models of the checkout where the default folder is not there."""
    beside = Path(__file__).resolve().parents[1] / REPOSITORY
    if configuration.engine.repository != REPOSITORY or REPOSITORY.is_dir() or not beside.is_dir():
        return configuration
    return replace(configuration, engine=replace(configuration.engine, repository=beside))


# What follows reads the table as it was given, so that one wrong value hides no other problem; where a part
# of it has the wrong shape, its section has said so.


def _reference_problems(given: Table) -> Iterator[str]:
    destinations = tuple(_entry(given, "destinations"))
    pipelines = tuple(_entry(given, "pipelines") if "pipelines" in given else default_pipelines())
    for key, entry in _entries(given, "pipelines"):
        yield from _unknown_names(entry, join(key, "deliver_to"), destinations, "destination")
    asked = _entry(given, "assembly").get("ask")
    if isinstance(asked, str) and asked and asked not in destinations:
        expected = f"a declared destination ({', '.join(destinations) or 'there is none'}), or nothing"
        yield problem("assembly.ask", asked, expected + did_you_mean(asked, destinations))
    for key, entry in _entries(_entry(given, "receive"), "application_entities"):
        yield from _unknown_names(entry, f"receive.{key}.pipelines", ("*", *pipelines), "pipeline")


def _title_problems(given: Table) -> Iterator[str]:
    """Give the doors that count for an AE title which the node has not."""
    receive = _entry(given, "receive")
    titles = tuple(_entry(receive, "application_entities") or ReceiveSettings().application_entities)
    for key, door in [("dicomweb", _entry(receive, "dicomweb")), *_entries(receive, "folders")]:
        title = door.get("ae_title")
        if title and isinstance(title, str) and title not in titles:
            expected = f"an AE title of the node ({', '.join(titles)})"
            yield problem(f"receive.{key}.ae_title", title, expected + did_you_mean(title, titles))


def _unknown_names(entry: Table, key: str, names: Iterable[str], kind: str) -> Iterator[str]:
    listed = entry.get(key.rpartition(".")[2])
    for index, name in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(name, str) and name not in names:
            expected = f"a declared {kind} ({', '.join(names) or 'there is none'})"
            yield problem(f"{key}[{index}]", name, expected + did_you_mean(name, names))


def _destination_problems(given: Table) -> Iterator[str]:
    """Give the destinations that are not reached in one way: over DICOM, or over DICOMweb."""
    for key, entry in _entries(given, "destinations"):
        is_web = bool(entry.get("url"))
        needed = ("ae_title", "host", "port")
        if is_web and any(name in entry for name in needed):
            yield problem(join(key, "url"), entry["url"], "no url where host, port and ae_title are given")
        for name in needed:
            if not is_web and name not in entry:
                yield f"{join(key, name)}: missing – this key must be given, or url"
        if not is_web and entry.get("token_env"):
            yield problem(join(key, "token_env"), entry["token_env"], "url: only DICOMweb takes a token")


def _address_problems(given: Table) -> Iterator[str]:
    receive = _entry(given, "receive")
    here = {"localhost", "127.0.0.1", "::1", receive.get("host")}
    port = receive.get("port", ReceiveSettings().port)
    if (web_port := _entry(given, "web").get("port", WebSettings().port)) == port:
        yield problem("web.port", web_port, "another port than receive.port")
    otherwise = "an archive, not this node: results would come back as new studies"
    for key, entry in _entries(given, "destinations"):
        if entry.get("port") == port and entry.get("host") in here:
            yield problem(join(key, "port"), port, otherwise)
        url = entry.get("url")
        if isinstance(url, str) and any(f"//{host}:{web_port}/" in f"{url}/" for host in here):
            yield problem(join(key, "url"), url, otherwise)


def _tls_problems(given: Table) -> Iterator[str]:
    """Give what secure connections lack: who shows a certificate needs one, who asks for one a CA."""
    for name in ("receive", "web", "destinations"):
        for key, tls in _tls_tables(_entry(given, name), name):
            is_door, is_mutual = key in ("receive.tls", "web.tls"), tls.get("mutual", True) is not False
            if "certificate" not in tls and (is_door or is_mutual):
                yield f"{key}.certificate: missing – this side must show one"
            if "ca" not in tls and is_door and is_mutual:
                yield f"{key}.ca: missing – it says whose certificates are accepted; or say mutual = false"


def _tls_tables(given: Table, key: str) -> Iterator[tuple[str, Table]]:
    for name, entry in given.items():
        if isinstance(entry, dict):
            where = join(key, name)
            yield from [(where, entry)] if name == "tls" else _tls_tables(entry, where)


def _class_problems(given: Table) -> Iterator[str]:
    for key, entry in _entries(given, "pipelines"):
        try:
            cls = import_class(CLASS(entry.get("use"), key))
        except ConfigurationError:
            continue
        except (ImportError, AttributeError, SyntaxError, NameError, TypeError, ValueError, OSError) as error:
            yield problem(join(key, "use"), entry["use"], f"a class that can be imported ({error})")
            continue
        if not is_dataclass(cls) or not hasattr(cls, "analyze"):
            yield problem(join(key, "use"), entry["use"], "a dataclass with analyze(series, engine)")
        else:
            yield from _option_problems(cls, _entry(entry, "options"), join(key, "options"))


def _option_problems(cls: type, options: Table, key: str) -> Iterator[str]:
    """Give what is wrong with the options of a class: its fields, their types, and what it itself refuses."""
    declared = {one.name: one for one in fields(cls) if one.init}
    hints = _type_hints(cls)
    problems = [unknown(join(key, name), declared) for name in options if name not in declared]
    for name, one in declared.items():
        if name not in options and one.default is MISSING and one.default_factory is MISSING:
            problems.append(f"{join(key, name)}: missing – {cls.__name__} needs it")
        elif name in options and not _is_instance(options[name], hints.get(name)):
            problems.append(problem(join(key, name), options[name], _TYPE_WORDS[hints[name]]))
    yield from problems
    if not problems:
        try:
            cls(**options)
        except (TypeError, ValueError) as error:
            yield problem(key, options, f"options that {cls.__name__} takes ({error})")


_TYPE_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "text"}


def _type_hints(cls: type) -> Mapping[str, type]:
    try:
        return get_type_hints(cls)
    except NameError:  # a name that only a type checker imports
        return {}


def _is_instance(value: object, hint: type | None) -> bool:
    """Return whether an option has the plain type its field asks for; the class judges other types."""
    if hint is None or hint not in _TYPE_WORDS or (hint is float and type(value) is int):
        return True
    return type(value) is hint


def _entry(given: Table, name: str) -> Table:
    entry = given.get(name)
    return entry if isinstance(entry, dict) else {}


def _entries(given: Table, name: str) -> Iterator[tuple[str, Table]]:
    """Give the tables inside a table, each with its full key."""
    for inner, entry in _entry(given, name).items():
        if isinstance(entry, dict):
            yield join(name, inner), entry
