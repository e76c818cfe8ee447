"""One TOML file into frozen values; every problem reported at once.

Each field says what it allows, and its default; `deploy/sightline.toml` says what it is for. What only the
running machine knows (a port in use, a missing model, an unreachable destination) is not checked here.
"""

import importlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, cast, get_type_hints

from node.config_checks import (
    Table,
    address,
    auto_or_boolean,
    boolean,
    filled,
    host_name,
    integer,
    list_of,
    matching,
    member,
    network,
    number,
    one_of,
    path,
    section,
    table,
    table_of,
    text,
    valid_ae_title,
)
from node.domain.conditions import Condition, parse
from node.domain.findings import Priority
from node.domain.problems import did_you_mean, join, problem, split_key, unknown
from node.domain.profile import PRESETS, STANDARD_KINDS, Kind, Profile, ReportClass, SegmentationType
from node.errors import ConfigurationError
from node.interfaces import Pipeline

REPOSITORY = Path("triton_repo")

Port = Annotated[int, integer(1, 65535)]
_NAME = matching(r"[A-Za-z0-9_-]{1,64}", "a name of 1–64 letters, digits, _ or -")
_CLASS = matching(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", 'where the class is, as "package.module:Class"')
_DATABASE = matching(r"(sqlite:///.+)?", "sqlite:///FILE, or nothing for a file in the data folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationEntitySettings:
    """One AE title of the node: the pipelines its studies may reach, and who may call it; `*` is any."""

    pipelines: Annotated[tuple[str, ...], list_of(text)] = ("*",)
    allow_callers: Annotated[tuple[str, ...], filled(list_of(valid_ae_title))] = ("*",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveSettings:
    """Where studies come in, from whom, and how much at a time."""

    host: Annotated[str, host_name] = "127.0.0.1"
    port: Port = 11112
    max_associations: Annotated[int, integer(1, 1000)] = 16
    max_pdu_bytes: Annotated[int, integer(4096, 1_048_576)] = 65536
    idle_timeout_s: Annotated[float, number(1, 3600)] = 60.0
    allow_hosts: Annotated[tuple[str, ...], list_of(network)] = ("127.0.0.1", "::1")
    accept_private_classes: Annotated[bool, boolean] = False
    max_used_percent: Annotated[float, number(1, 100)] = 90.0
    min_free_gib: Annotated[float, number(0, 1_000_000)] = 5.0
    application_entities: Annotated[
        Mapping[str, ApplicationEntitySettings],
        filled(table_of(section(ApplicationEntitySettings), valid_ae_title)),
    ] = field(default_factory=lambda: {"SIGHTLINE": ApplicationEntitySettings()})

    @property
    def scopes(self) -> Mapping[str, tuple[str, ...]]:
        """The pipelines that each AE title may reach."""
        return {title: entity.pipelines for title, entity in self.application_entities.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class AssemblySettings:
    """When a study counts as complete."""

    quiet_period_s: Annotated[float, number(0, 86400)] = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What runs the models, and where they are; all from `url` on is for a Triton server."""

    kind: Annotated[str, one_of("onnx", "triton")] = "onnx"
    repository: Annotated[Path, path] = REPOSITORY
    threads: Annotated[int, integer(1, 256)] = 2
    url: Annotated[str, address] = "127.0.0.1:8001"
    timeout_s: Annotated[float, number(0.1, 3600)] = 60.0
    patience_s: Annotated[float, number(0, 86400)] = 300.0
    shared_memory: Annotated[bool | None, auto_or_boolean] = None
    shared_memory_mib: Annotated[int, integer(1, 1_048_576)] = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """One pipeline: its class (`module:Class`) and that class's fields, and the series it wants.

    `priority` is the class in which its runs wait; an empty `deliver_to` means every destination.
    """

    use: Annotated[str, _CLASS]
    when: Annotated[Condition, parse]
    priority: Annotated[Priority, member(Priority)] = Priority.ROUTINE
    deliver_to: Annotated[tuple[str, ...], list_of(text)] = ()
    options: Annotated[Table, table] = field(default_factory=dict)

    def build(self) -> Pipeline:
        """Return the pipeline with its options."""
        return cast(Pipeline, _import_class(self.use)(**self.options))


@dataclass(frozen=True, slots=True, kw_only=True)
class TriageRule:
    """A finding (meaning or code value) that is present earns this class; `at_least` asks for more of it.

    Present is what reaches the threshold of the model's card and is not uncertain, so a lower `at_least` asks
    for nothing.
    """

    finding: Annotated[str, text]
    at_least: Annotated[float, number(0, 1)] = 0.0
    priority: Annotated[Priority, member(Priority)]


def _object_kinds(value: object, key: str) -> tuple[Kind, ...]:
    """Check the name of a preset, or a list of kinds of object."""
    if isinstance(value, str):
        return PRESETS[one_of(*PRESETS)(value, key)]
    return tuple(dict.fromkeys(filled(list_of(member(Kind)))(value, key)))


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationSettings:
    """An archive that takes results, which objects it gets in which form, and how long it is tried."""

    host: Annotated[str, host_name]
    port: Port
    ae_title: Annotated[str, valid_ae_title]
    calling_ae_title: Annotated[str, valid_ae_title] = "SIGHTLINE"
    objects: Annotated[tuple[Kind, ...], _object_kinds] = STANDARD_KINDS
    report_class: Annotated[ReportClass, member(ReportClass)] = ReportClass.COMPREHENSIVE_3D
    segmentation_type: Annotated[SegmentationType, member(SegmentationType)] = SegmentationType.BINARY
    omit_empty_frames: Annotated[bool, boolean] = True
    max_frames: Annotated[int, integer(0, 1_000_000)] = 0
    timeout_s: Annotated[float, number(1, 3600)] = 30.0
    max_attempts: Annotated[int, integer(1, 100_000)] = 300

    @property
    def profile(self) -> Profile:
        """What the archive takes."""
        return Profile(
            kinds=self.objects,
            report_class=self.report_class,
            segmentation_type=self.segmentation_type,
            omit_empty_frames=self.omit_empty_frames,
            max_frames=self.max_frames,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowSettings:
    """How many studies are worked on at a time, and where their state is kept."""

    workers: Annotated[int, integer(1, 256)] = 1
    database: Annotated[str, _DATABASE] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """Where the metrics and the health pages are served."""

    host: Annotated[str, host_name] = "127.0.0.1"
    port: Port = 8080


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How much is logged, and to which file; an empty path is standard error."""

    level: Annotated[str, one_of("debug", "info", "warning", "error")] = "info"
    path: Annotated[str, matching(r"[^\0]*", "the name of a file, or nothing for standard error")] = ""


DEFAULT_PIPELINES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "chest_xray": ("node.pipelines.chest_xray:ChestXray", {"modality": ["CR", "DX"]}),
    "chest_ct": ("node.pipelines.chest_ct:ChestCt", {"modality": ["CT"], "is_localizer": False}),
    "slide_tumor": ("node.pipelines.slide_tumor:SlideTumor", {"modality": ["SM"], "is_localizer": False}),
}


def _default_pipelines() -> Mapping[str, PipelineSettings]:
    return {
        name: PipelineSettings(use=use, when=parse(when)) for name, (use, when) in DEFAULT_PIPELINES.items()
    }


DEFAULT_TRIAGE = (
    TriageRule(finding="Pneumonia", priority=Priority.URGENT),
    TriageRule(finding="Pneumonia", at_least=0.9, priority=Priority.STAT),
    TriageRule(finding="Malignant", priority=Priority.URGENT),
    TriageRule(finding="Tumor", priority=Priority.URGENT),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Everything a node can be told; built without arguments it is the embedded default."""

    data: Annotated[Path, path] = Path("sightline-data")
    receive: Annotated[ReceiveSettings, section(ReceiveSettings)] = ReceiveSettings()
    assembly: Annotated[AssemblySettings, section(AssemblySettings)] = AssemblySettings()
    engine: Annotated[EngineSettings, section(EngineSettings)] = EngineSettings()
    pipelines: Annotated[Mapping[str, PipelineSettings], table_of(section(PipelineSettings), _NAME)] = field(
        default_factory=_default_pipelines
    )
    triage: Annotated[tuple[TriageRule, ...], list_of(section(TriageRule))] = DEFAULT_TRIAGE
    destinations: Annotated[
        Mapping[str, DestinationSettings], table_of(section(DestinationSettings), _NAME)
    ] = field(default_factory=dict)
    workflow: Annotated[WorkflowSettings, section(WorkflowSettings)] = WorkflowSettings()
    web: Annotated[WebSettings, section(WebSettings)] = WebSettings()
    log: Annotated[LogSettings, section(LogSettings)] = LogSettings()


def load(path: Path | None) -> Configuration:
    """Return what a file says, over the embedded default; without a file, that default.

    Raises ConfigurationError with every problem of the file.
    """
    return check_configuration({} if path is None else _read(path))


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
    problems += [*_reference_problems(given), *_address_problems(given), *_class_problems(given)]
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
    pipelines = tuple(_entry(given, "pipelines") if "pipelines" in given else _default_pipelines())
    for key, entry in _entries(given, "pipelines"):
        yield from _unknown_names(entry, join(key, "deliver_to"), destinations, "destination")
    for key, entry in _entries(_entry(given, "receive"), "application_entities"):
        yield from _unknown_names(entry, f"receive.{key}.pipelines", ("*", *pipelines), "pipeline")


def _unknown_names(entry: Table, key: str, names: Iterable[str], kind: str) -> Iterator[str]:
    listed = entry.get(key.rpartition(".")[2])
    for index, name in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(name, str) and name not in names:
            expected = f"a declared {kind} ({', '.join(names) or 'there is none'})"
            yield problem(f"{key}[{index}]", name, expected + did_you_mean(name, names))


def _address_problems(given: Table) -> Iterator[str]:
    receive = _entry(given, "receive")
    here = {"localhost", "127.0.0.1", "::1", receive.get("host")}
    port = receive.get("port", ReceiveSettings().port)
    if (web_port := _entry(given, "web").get("port", WebSettings().port)) == port:
        yield problem("web.port", web_port, "another port than receive.port")
    for key, entry in _entries(given, "destinations"):
        if entry.get("port") == port and entry.get("host") in here:
            yield problem(
                join(key, "port"), port, "an archive, not this node: results would come back as new studies"
            )


def _class_problems(given: Table) -> Iterator[str]:
    for key, entry in _entries(given, "pipelines"):
        try:
            cls = _import_class(_CLASS(entry.get("use"), key))
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


def _import_class(use: str) -> type:
    module, _, name = use.partition(":")
    return cast(type, getattr(importlib.import_module(module), name))


def _entry(given: Table, name: str) -> Table:
    entry = given.get(name)
    return entry if isinstance(entry, dict) else {}


def _entries(given: Table, name: str) -> Iterator[tuple[str, Table]]:
    """Give the tables inside a table, each with its full key."""
    for inner, entry in _entry(given, name).items():
        if isinstance(entry, dict):
            yield join(name, inner), entry
