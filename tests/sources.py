"""Sources to make results of, in their four shapes: synthetic ones whose truth is known, and real ones.

The anatomy is drawn in the patient's (or the slide's) millimeters: a bright ellipsoid in a volume, a dark
disc on a slide. Every mask is that shape sampled at the positions that the written headers state, so it
does not matter how a stack runs or leans.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from node.samples.dicom import DxOptions, dx_dataset
from node.samples.thorax import thorax_radiograph
from tests.conftest import SHARED_DATA
from tests.results import REAL_RADIOGRAPHS
from tests.synthetic.ct import ct_slices, enhanced_ct
from tests.synthetic.headers import patient_module, save
from tests.synthetic.slide import CENTROID_XYZ_MM, slide_masks, slide_objects
from tests.synthetic.stack import ARRANGEMENTS, Mask, Point, make_stack

__all__ = [
    "ARRANGEMENTS",
    "Written",
    "real_ct_series",
    "real_radiographs",
    "real_slide",
    "real_small_ct_series",
    "write_ct_series",
    "write_enhanced_ct",
    "write_radiograph",
    "write_slide",
]


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What was written, and the truth of it.

    `masks` has one array for a radiograph (1, rows, columns) or a volume (planes, rows, columns), in the
    order of the paths or of the frames, and one (1, rows, columns) per level and path for a slide.
    `centroid_xyz_mm` is the shape's own, in the frame of reference; a radiograph has none.
    """

    paths: list[Path]
    masks: tuple[Mask, ...]
    centroid_xyz_mm: Point | None

    @property
    def mask(self) -> Mask:
        """The mask of the volume, the radiograph, or the slide's first level."""
        return self.masks[0]


# --- one folder, one source


def write_radiograph(folder: Path, *, modality: str = "DX", finding: str | None = "consolidation") -> Written:
    """One DX or CR object of 256 × 256; its mask is the box of the finding, empty where there is none."""
    radiograph = thorax_radiograph(5, finding=finding, size=256)
    dataset = dx_dataset(radiograph, options=DxOptions(modality=modality))
    dataset.update(patient_module("ISO_IR 100"))
    dataset.AccessionNumber = "A-0401"
    dataset.TimezoneOffsetFromUTC = "+0100"
    mask = np.zeros((1, *radiograph.pixels.shape), bool)
    if radiograph.truth.box_xyxy_px:
        left, top, right, bottom = radiograph.truth.box_xyxy_px
        mask[:, top:bottom, left:right] = True
    return Written([save(dataset, folder, f"{modality.lower()}.dcm")], (mask,), None)


def write_ct_series(
    folder: Path, *, arrangement: str = "axial", planes: int = 12, rows: int = 64, columns: int = 48
) -> Written:
    """One CT Image Storage object a plane, in the order of their instance numbers; see ARRANGEMENTS."""
    stack = make_stack(arrangement, planes, rows, columns)
    slices = ct_slices(stack, ("ct", arrangement, planes, rows, columns))
    paths = [save(one, folder, f"{number:03d}.dcm") for number, one in enumerate(slices, 1)]
    return Written(paths, (stack.mask(),), stack.centroid_xyz_mm)


def write_enhanced_ct(
    folder: Path, *, arrangement: str = "axial", planes: int = 12, rows: int = 64, columns: int = 48
) -> Written:
    """One Enhanced CT Image Storage object, a frame a plane."""
    stack = make_stack(arrangement, planes, rows, columns)
    dataset = enhanced_ct(stack, ("enhanced ct", arrangement, planes, rows, columns))
    return Written([save(dataset, folder, "ct.dcm")], (stack.mask(),), stack.centroid_xyz_mm)


def write_slide(folder: Path, *, organization: str = "TILED_FULL") -> Written:
    """A pyramid of two VL Whole Slide Microscopy objects, the finer first.

    The frames of TILED_FULL run row by row, those of TILED_SPARSE column by column with their positions.
    """
    objects = slide_objects(organization, ("slide", organization))
    paths = [save(one, folder, f"level-{number}.dcm") for number, one in enumerate(objects)]
    return Written(paths, slide_masks(), CENTROID_XYZ_MM)


# --- real sources


def real_ct_series() -> list[Path]:
    """A complete chest CT of 248 slices (JPEG Lossless), ordered by instance number."""
    folder = SHARED_DATA / "ct" / "midrc-ricord-1a-419639-001012_chest-ct"
    _need(folder)
    return sorted(folder.glob("*.dcm"), key=_instance_number)


def real_small_ct_series() -> list[Path]:
    """A chest CT of 60 slices around a tumour (Implicit VR), ordered by instance number."""
    folder = SHARED_DATA / "ct" / "ibsi1_lung-tumour_chest-ct" / "ct"
    _need(folder)
    return sorted(folder.glob("*.dcm"), key=_instance_number)


def real_slide() -> Path:
    """A DICOM slide of one level whose frames run column by column; see ../shared/data/wsi/README.md."""
    path = SHARED_DATA / "wsi" / "tcga-xk-aaju_prostate_dicom-wsi.dcm"
    _need(path)
    return path


def real_radiographs() -> list[Path]:
    """Chest radiographs of three machines."""
    paths = [SHARED_DATA / "zoo" / f"{name}.dcm" for name in REAL_RADIOGRAPHS]
    for path in paths:
        _need(path)
    return paths


def _instance_number(path: Path) -> int:
    return int(dcmread(path, stop_before_pixels=True, specific_tags=["InstanceNumber"]).InstanceNumber)


def _need(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{path.relative_to(SHARED_DATA)}")
