"""The sections of the configuration as frozen values: what each field allows, and its default.

`deploy/sightline.toml` says what each is for.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast

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
from node.domain.findings import Outcome, Priority
from node.domain.profile import PRESETS, STANDARD_KINDS, Kind, Profile, ReportClass, SegmentationType
from node.interfaces import Pipeline

REPOSITORY = Path("triton_repo")

Port = Annotated[int, integer(1, 65535)]
NAME = matching(r"[A-Za-z0-9_-]{1,64}", "a name of 1–64 letters, digits, _ or -")
TITLE_OR_NONE = matching(r"((?! )[\x20-\x5b\x5d-\x7e]{1,16}(?<! ))?", "an AE title, or nothing for the first")
VARIABLE_OR_NONE = matching(r"([A-Za-z_][A-Za-z0-9_]*)?", "the name of an environment variable, or nothing")
WEB_ADDRESS = matching(
    r"(https?://[^\s/?#@]+(/[^\s?#]*)?)?", 'an address such as "https://pacs:8443/dicom-web"'
)
CLASS = matching(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", 'where the class is, as "package.module:Class"')
VARIABLE = matching(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")
_DATABASE = matching(r"(sqlite:///.+)?", "sqlite:///FILE, or nothing for a file in the data folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """How a connection is secured; `mutual` asks both sides for a certificate.

    `certificate` is our own, with those that lead to its authority behind it. Without `key`, the key is in
    the same file; without `ca`, those authorities are trusted that the system trusts.
    """

    certificate: Annotated[Path | None, path] = None
    key: Annotated[Path | None, path] = None
    key_password_env: Annotated[str, VARIABLE] = ""
    ca: Annotated[Path | None, path] = None
    mutual: Annotated[bool, boolean] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationEntitySettings:
    """One AE title of the node: the pipelines its studies may reach, and who may call it; `*` is any."""

    pipelines: Annotated[tuple[str, ...], list_of(text)] = ("*",)
    allow_callers: Annotated[tuple[str, ...], filled(list_of(valid_ae_title))] = ("*",)
    max_associations: Annotated[int, integer(0, 1000)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomwebSettings:
    """What comes in by STOW-RS over the web server: for which AE title it counts, and how much at a time."""

    is_enabled: Annotated[bool, boolean] = True
    ae_title: Annotated[str, TITLE_OR_NONE] = ""
    token_env: Annotated[str, VARIABLE_OR_NONE] = ""
    max_requests: Annotated[int, integer(1, 1000)] = 8
    max_parts: Annotated[int, integer(1, 1_000_000)] = 10_000
    max_instance_mib: Annotated[int, integer(1, 1_048_576)] = 4096
    read_timeout_s: Annotated[float, number(0.1, 3600)] = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSettings:
    """A folder whose files come in, for which AE title they count, and what is done with them then."""

    path: Annotated[Path, path]
    ae_title: Annotated[str, TITLE_OR_NONE] = ""
    settle_s: Annotated[float, number(0, 3600)] = 2.0
    poll_s: Annotated[float, number(0.05, 3600)] = 1.0
    after: Annotated[str, one_of("move", "delete")] = "move"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentPeerSettings:
    """Where a sender that asks for storage commitment is told of it."""

    host: Annotated[str, host_name]
    port: Port
    tls: Annotated[TlsSettings | None, section(TlsSettings)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveSettings:
    """Where studies come in, from whom, and how much at a time."""

    host: Annotated[str, host_name] = "127.0.0.1"
    port: Port = 11112
    max_associations: Annotated[int, integer(1, 1000)] = 16
    max_associations_per_caller: Annotated[int, integer(0, 1000)] = 0
    max_pdu_bytes: Annotated[int, integer(4096, 1_048_576)] = 131_072
    max_instance_mib: Annotated[int, integer(1, 1_048_576)] = 4096
    idle_timeout_s: Annotated[float, number(1, 3600)] = 60.0
    read_timeout_s: Annotated[float, number(1, 3600)] = 30.0
    min_bytes_per_s: Annotated[float, number(0, 1_000_000_000)] = 1024.0
    processes: Annotated[int, integer(0, 64)] = 2
    journal_mib: Annotated[int, integer(0, 65_536)] = 1024
    sync: Annotated[bool, boolean] = True
    allow_hosts: Annotated[tuple[str, ...], list_of(network)] = ("127.0.0.1", "::1")
    accept_private_classes: Annotated[bool, boolean] = False
    max_used_percent: Annotated[float, number(1, 100)] = 90.0
    min_free_gib: Annotated[float, number(0, 1_000_000)] = 5.0
    tls: Annotated[TlsSettings | None, section(TlsSettings)] = None
    application_entities: Annotated[
        Mapping[str, ApplicationEntitySettings],
        filled(table_of(section(ApplicationEntitySettings), valid_ae_title)),
    ] = field(default_factory=lambda: {"SIGHTLINE": ApplicationEntitySettings()})
    dicomweb: Annotated[DicomwebSettings, section(DicomwebSettings)] = DicomwebSettings()
    folders: Annotated[Mapping[str, FolderSettings], table_of(section(FolderSettings), NAME)] = field(
        default_factory=dict
    )

    commitment_peers: Annotated[
        Mapping[str, CommitmentPeerSettings], table_of(section(CommitmentPeerSettings), valid_ae_title)
    ] = field(default_factory=dict)

    def title(self, ae_title: str) -> str:
        """Return the AE title that is meant where none is named: the first."""
        return ae_title or next(iter(self.application_entities))

    @property
    def scopes(self) -> Mapping[str, tuple[str, ...]]:
        """The pipelines that each AE title may reach."""
        return {title: entity.pipelines for title, entity in self.application_entities.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class AssemblySettings:
    """When a study counts as complete."""

    quiet_period_s: Annotated[float, number(0, 86400)] = 10.0
    settle_period_s: Annotated[float, number(0, 86400)] = 1.0
    ask: Annotated[str, matching(r"[A-Za-z0-9_-]{0,64}", "the name of a destination, or nothing")] = ""
    ask_timeout_s: Annotated[float, number(0.1, 3600)] = 5.0
    longest_wait_s: Annotated[float, number(0, 86400)] = 120.0


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

    `priority` is the class in which its runs wait; an empty `deliver_to` means every destination. A quiet
    period of its own takes the place of the one in `[assembly]`.
    """

    use: Annotated[str, CLASS]
    when: Annotated[Condition, parse]
    priority: Annotated[Priority, member(Priority)] = Priority.ROUTINE
    deliver_to: Annotated[tuple[str, ...], list_of(text)] = ()
    quiet_period_s: Annotated[float | None, number(0, 86400)] = None
    options: Annotated[Table, table] = field(default_factory=dict)

    def build(self) -> Pipeline:
        """Return the pipeline with its options."""
        return cast(Pipeline, import_class(self.use)(**self.options))


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
    """An archive that takes results, which objects it gets in which form, and how long it is tried.

    It is reached at host, port and AE title, or at a `url` over DICOMweb.
    """

    host: Annotated[str, host_name] = ""
    port: Port = 0
    ae_title: Annotated[str, valid_ae_title] = ""
    url: Annotated[str, WEB_ADDRESS] = ""
    token_env: Annotated[str, VARIABLE_OR_NONE] = ""
    calling_ae_title: Annotated[str, valid_ae_title] = "SIGHTLINE"
    objects: Annotated[tuple[Kind, ...], _object_kinds] = STANDARD_KINDS
    report_class: Annotated[ReportClass, member(ReportClass)] = ReportClass.COMPREHENSIVE_3D
    segmentation_type: Annotated[SegmentationType, member(SegmentationType)] = SegmentationType.BINARY
    omit_empty_frames: Annotated[bool, boolean] = True
    max_frames: Annotated[int, integer(0, 1_000_000)] = 0
    timeout_s: Annotated[float, number(1, 3600)] = 30.0
    max_attempts: Annotated[int, integer(1, 100_000)] = 300
    tls: Annotated[TlsSettings | None, section(TlsSettings)] = None
    confirm: Annotated[str, one_of("commitment", "query", "none")] = "commitment"
    confirm_timeout_s: Annotated[float, number(1, 604_800)] = 600.0

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
class RetentionSettings:
    """How many days finished studies are kept, 0 for ever; `days_by_outcome` goes before `days`.

    Those that the node has committed itself to keep stay, unless `keeps_committed` is false.
    """

    days: Annotated[float, number(0, 100_000)] = 0.0
    days_by_outcome: Annotated[
        Mapping[str, float], table_of(number(0, 100_000), one_of(*(one.value for one in Outcome)))
    ] = field(default_factory=dict)
    frees_disk: Annotated[bool, boolean] = False
    keeps_committed: Annotated[bool, boolean] = True
    interval_min: Annotated[float, number(0.001, 1440)] = 10.0


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
    tls: Annotated[TlsSettings | None, section(TlsSettings)] = None


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


def default_pipelines() -> Mapping[str, PipelineSettings]:
    """Return the pipelines of a node that was told of none."""
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
    pipelines: Annotated[Mapping[str, PipelineSettings], table_of(section(PipelineSettings), NAME)] = field(
        default_factory=default_pipelines
    )
    triage: Annotated[tuple[TriageRule, ...], list_of(section(TriageRule))] = DEFAULT_TRIAGE
    destinations: Annotated[
        Mapping[str, DestinationSettings], table_of(section(DestinationSettings), NAME)
    ] = field(default_factory=dict)
    retention: Annotated[RetentionSettings, section(RetentionSettings)] = RetentionSettings()
    workflow: Annotated[WorkflowSettings, section(WorkflowSettings)] = WorkflowSettings()
    web: Annotated[WebSettings, section(WebSettings)] = WebSettings()
    log: Annotated[LogSettings, section(LogSettings)] = LogSettings()


def import_class(use: str) -> type:
    """Return the class at "package.module:Class"; raises what importing it raises."""
    module, _, name = use.partition(":")
    return cast(type, getattr(importlib.import_module(module), name))
