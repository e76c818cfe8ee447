"""What came in: instances, and the series they make."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

AttributeValue = str | int | float | bool | None | tuple[str, ...] | tuple[float, ...]
"""A plain value of one attribute: a scalar, or a tuple where the attribute is multi-valued."""

# One instance of these is a whole picture, read by itself; of the others the series is.
PROJECTION_MODALITIES = frozenset({"CR", "DX", "MG", "IO", "PX", "RG"})


@dataclass(frozen=True, slots=True)
class Instance:
    """One SOP Instance as it was received: its identifiers, and its bytes on disk."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    path: Path
    digest: str
    called_ae_title: str = ""
    calling_ae_title: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """The instances of one series, and the attributes that rules and gates look at.

    `attributes` maps the snake_case DICOM keyword (`body_part_examined`) or the name of a derived fact
    (`view`, `body_part`, `instance_count`) to a plain value; an attribute that is absent or empty in the
    data set has no entry.
    """

    study_instance_uid: str
    series_instance_uid: str
    instances: tuple[Instance, ...]
    attributes: Mapping[str, AttributeValue]
