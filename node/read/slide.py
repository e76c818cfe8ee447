"""A whole slide: any part of any of its magnifications, from DICOM instances or a scanner's file."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from node.domain.slide import SlideLevel
from node.domain.study import Series
from node.read.dataset import LIBRARY_ERRORS
from node.read.matrix import Corner, Matrix
from node.read.slide_dicom import DicomLevel, matrix_size, open_level, read_parts
from node.read.slide_file import make_matrices, open_file
from node.read.slide_parts import Part

Colors = npt.NDArray[np.uint8]

SAME_SHAPE = 0.1
"""By how much the sides of levels may differ in proportion: the last pixels of a coarse level are padding."""

MICROMETERS_PER_PIXEL = (0.02, 200.0)
"""What can be the pixel of a light microscope and its coarse levels."""

LARGE_STEP = 4.5
"""From one level to the next no scanner goes further, unless all its steps are as large."""

SAME_STEP = 0.1
"""By how much steps may differ in proportion and still be one: sizes are rounded."""

SQUARE = 0.05
"""By how much the sides of a pixel may differ."""


class Slide:
    """The open levels of one slide, finest first; a context manager, safe in threads.

    `micrometers_per_pixel` is of the finest level, `objective_power` what the objective magnified; None
    where the slide does not say. `notes` say in plain words what was irregular and how it was met.
    """

    def __init__(
        self,
        matrices: Sequence[Matrix],
        close: Callable[[], None],
        *,
        micrometers_per_pixel: float | None,
        objective_power: float | None,
        notes: Sequence[str],
    ) -> None:
        """Take the levels, and what ends their use."""
        self._matrices, self._close = tuple(matrices), close
        self.levels: tuple[SlideLevel, ...] = tuple(matrix.level for matrix in matrices)
        self.micrometers_per_pixel = micrometers_per_pixel
        self.objective_power = objective_power
        self.notes = (*notes, *_scale_notes(micrometers_per_pixel, objective_power))

    def region(self, level: int, left: int, top: int, columns: int, rows: int) -> Colors:
        """Return a part (rows, columns, 3) in RGB, its corner and size in pixels of that level.

        White (255) outside of the level and where a sparse slide stores nothing. Raises PixelError with the
        place for a tile that does not decode.
        """
        return self.regions(level, [(left, top)], columns, rows)[0]

    def regions(
        self, level: int, corners: Sequence[Corner], columns: int, rows: int, *, factor: int = 1
    ) -> list[Colors]:
        """Return several parts of one size as `region` does; faster than one by one where they are tiles.

        By a factor that divides both sides they come smaller, each pixel the mean of factor × factor.
        """
        return self._matrices[level].regions(corners, columns, rows, factor=factor)

    def close(self) -> None:
        """Close the files; nothing can be read any more."""
        self._close()

    def __enter__(self) -> Self:
        """Return the slide itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self.close()


def open_slide(series: Series) -> Slide:
    """Return the slide that the VL Whole Slide Microscopy instances of a series make.

    Its label and the overview of the glass are left apart. Raises DatasetError for an instance that cannot be
    read, a part of a concatenation that is missing, or where there is no level; PixelError with the place for
    a file that ends too early, frames that are missing or empty, and pixels that are no 8-bit colors.
    """
    groups, notes = read_parts(series)
    chosen, others = _choose(groups)
    finest = matrix_size(chosen[0][0])
    levels: list[DicomLevel] = []
    try:
        for parts in chosen:
            levels.append(open_level(parts, _downsample(finest, matrix_size(parts[0]))))
    except BaseException:
        _close_all(levels)
        raise
    header = levels[0].header
    notes += [*others, *dict.fromkeys(note for level in levels for note in level.notes)]
    notes += step_notes([level.matrix.level.downsample for level in levels])
    scale, scale_notes = _pixel_size(header)
    return Slide(
        [level.matrix for level in levels],
        lambda: _close_all(levels),
        micrometers_per_pixel=scale,
        objective_power=_objective_power(header),
        notes=[*notes, *scale_notes, *_origin_notes(header)],
    )


def open_slide_file(path: Path) -> Slide:
    """Return the slide in a scanner's file; raises DatasetError for one that cannot be opened as such."""
    slide = open_file(path)
    columns, rows = slide.dimensions
    downsamples = [_downsample((rows, columns), (down, across)) for across, down in slide.level_dimensions]
    properties = slide.properties
    across_um, down_um = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    scale, notes = _mean_size(across_um, down_um)
    return Slide(
        make_matrices(path, slide, downsamples),
        slide.close,
        micrometers_per_pixel=scale,
        objective_power=_number(properties.get("openslide.objective-power")),
        notes=notes,
    )


def _close_all(levels: Sequence[DicomLevel]) -> None:
    for level in levels:
        level.close()


# --- which instances are levels of one pyramid


def _choose(groups: Sequence[list[Part]]) -> tuple[list[list[Part]], list[str]]:
    """Return the levels finest first, and what was left out for its shape or as there already."""
    size_by_uid = {parts[0].uid: matrix_size(parts[0]) for parts in groups}
    ordered = sorted(groups, key=lambda parts: (-math.prod(size_by_uid[parts[0].uid]), parts[0].uid))
    finest = size_by_uid[ordered[0][0].uid]
    chosen: dict[tuple[int, int], list[Part]] = {}
    left_out = {"of another shape": 0, "of a size that is there already": 0}
    for parts in ordered:
        rows, columns = size = size_by_uid[parts[0].uid]
        if abs(rows * finest[1] / (columns * finest[0]) - 1) >= SAME_SHAPE:
            left_out["of another shape"] += 1
        elif size in chosen:
            left_out["of a size that is there already"] += 1
        else:
            chosen[size] = parts
    notes = [f"Left out as a level {why}: {number}." for why, number in left_out.items() if number]
    return list(chosen.values()), notes


def _downsample(finest: tuple[int, int], size: tuple[int, int]) -> float:
    """Return by how much a level is coarser; a whole number where its size is one's, rounded up or down."""
    ratio = (finest[0] / size[0] + finest[1] / size[1]) / 2
    whole = max(1, round(ratio))
    is_whole = all(
        side in (full // whole, -(-full // whole)) for full, side in zip(finest, size, strict=True)
    )
    return float(whole) if is_whole else ratio


def step_notes(downsamples: Sequence[float]) -> list[str]:
    """Return where a pyramid seems to lack a level between others: a step that is several of its usual ones.

    The usual one is the largest of the others: many scanners make their last step smaller. Two levels have
    one step, of which nobody can say what is usual.
    """
    steps = [coarse / fine for fine, coarse in pairwise(downsamples)]
    notes = []
    for number, step in enumerate(steps):
        usual = max(steps[:number] + steps[number + 1 :], default=step)
        if step > LARGE_STEP and step > usual > 1 + SAME_STEP and _is_power(step, usual):
            fine, coarse = downsamples[number : number + 2]
            notes.append(
                f"A level seems to be missing: from {fine:g} to {coarse:g} times coarser than the finest is "
                f"one step, others are of {usual:g}."
            )
    return notes


def _is_power(number: float, base: float) -> bool:
    whole = round(math.log(number, base))
    return whole > 1 and abs(number / base**whole - 1) < SAME_STEP


def _origin_notes(header: Dataset) -> list[str]:
    kind = [str(one) for one in header.get("ImageType") or ()]
    if len(kind) > 3 and kind[3] == "RESAMPLED":
        return [
            "The level that the scanner made is missing: the finest that is here was resampled from another."
        ]
    return []


# --- how large a pixel is


def _pixel_size(header: Dataset) -> tuple[float | None, list[str]]:
    """Return micrometers per pixel by Pixel Spacing, else by the imaged size where that can be true."""
    down_mm, across_mm = _spacing(header)
    if down_mm and across_mm:
        return _mean_size(1000 * across_mm, 1000 * down_mm)
    width_mm, height_mm = (_number(header.get(f"ImagedVolume{side}")) for side in ("Width", "Height"))
    columns, rows = (_number(header.get(f"TotalPixelMatrix{side}")) for side in ("Columns", "Rows"))
    if not (width_mm and height_mm and columns and rows):
        return None, []
    scale, _ = _mean_size(1000 * width_mm / columns, 1000 * height_mm / rows)
    across, down = width_mm / columns, height_mm / rows
    if scale is None or abs(across / down - 1) > SQUARE:
        return None, ["The size that it says was imaged does not fit its pixels, and was not used."]
    return scale, ["The pixel size was taken from the size that was imaged."]


def _spacing(header: Dataset) -> tuple[float | None, float | None]:
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        try:
            down, across = header[keyword].value[0].PixelMeasuresSequence[0].PixelSpacing
        except LIBRARY_ERRORS:
            continue
        return _number(down), _number(across)
    return None, None


def _mean_size(across_um: float | None, down_um: float | None) -> tuple[float | None, list[str]]:
    if across_um is None or down_um is None:
        return None, []
    mean = math.sqrt(across_um * down_um)
    low, high = MICROMETERS_PER_PIXEL
    if not low <= mean <= high:
        return None, [f"It says that a pixel has {mean:.3g} µm, which cannot be, and was not used."]
    if abs(across_um / down_um - 1) > SQUARE:
        return mean, [f"A pixel is {across_um:.3g} µm wide and {down_um:.3g} µm high; their mean was used."]
    return mean, []


def _objective_power(header: Dataset) -> float | None:
    try:
        return _number(header.OpticalPathSequence[0].ObjectiveLensPower)
    except LIBRARY_ERRORS:
        return None


def _scale_notes(micrometers_per_pixel: float | None, objective_power: float | None) -> list[str]:
    if micrometers_per_pixel is not None:
        return []
    if objective_power is None:
        return ["Neither the size of a pixel nor the power of the objective is known."]
    return [f"The size of a pixel is not known; the objective magnified {objective_power:g} times."]


def _number(value: object) -> float | None:
    """Return a positive finite number; None of anything else."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None
