"""Good files to start from: each kind of image, in many encodings, small, so that many can be tried."""

from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests.peers import REPOSITORY
from tests.slides import compress
from tests.sources import write_ct_series, write_enhanced_ct, write_radiograph, write_slide

ZOO = REPOSITORY.parent / "shared" / "data" / "zoo"
MAX_BYTES = 600_000


@dataclass(frozen=True)
class Seed:
    """A file of a kind; `companions` are the others of its series."""

    kind: str
    path: Path
    companions: tuple[Path, ...] = ()


def make_seeds(folder: Path) -> list[Seed]:
    """Write them; those of the zoo too, where it is there."""
    folders = [folder / kind for kind in ("radiograph", "ct", "enhanced", "slide")]
    for each in folders:
        each.mkdir(parents=True)
    radiograph, ct, enhanced, slide = (
        write(each).paths
        for write, each in zip(
            (write_radiograph, write_ct_series, write_enhanced_ct, write_slide), folders, strict=True
        )
    )
    seeds = [Seed("enhanced", enhanced[0]), Seed("enhanced", _encoded(enhanced[0], RLELossless))]
    seeds += [Seed("slide", path) for path in (slide[-1], _as_jpeg(slide[-1]))]
    for syntax in (
        ImplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ):
        seeds.append(Seed("radiograph", _encoded(radiograph[0], syntax)))
        seeds.append(Seed("ct", _encoded(ct[1], syntax), (ct[0], *ct[2:6])))
    seeds += [Seed("radiograph", radiograph[0]), Seed("ct", ct[1], (ct[0], *ct[2:6]))]
    zoo = sorted(ZOO.glob("*.dcm")) if ZOO.is_dir() else []
    return seeds + [Seed("zoo", path) for path in zoo if path.stat().st_size < MAX_BYTES]


def _as_jpeg(path: Path) -> Path:
    """A level as scanners write it."""
    dataset = dcmread(path)
    compress(dataset)
    target = path.with_name(f"{path.stem}-jpeg.dcm")
    dataset.save_as(target)
    return target


def _encoded(path: Path, syntax: str) -> Path:
    dataset = dcmread(path)
    if syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    target = path.with_name(f"{path.stem}-{syntax}.dcm")
    dataset.save_as(target, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    return target
