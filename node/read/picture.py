"""Any picture of a source as a reader would see it: a radiograph, a slice, a frame, a level of a slide."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from node.domain.image import Image, Window
from node.domain.location import Frame
from node.domain.study import PROJECTION_MODALITIES, Instance
from node.errors import DatasetError, PixelError
from node.read import level, stored
from node.read.dataset import LIBRARY_ERRORS, dataset_faults, pixel_faults, read_with_pixels
from node.read.display import display_table, show_in
from node.read.functional_groups import frame_header
from node.read.projection import DISPLAY_KEYWORDS, read_projection
from node.read.selected import read_selected
from node.read.stored import StoredFrames

MAX_PICTURES = 12
"""A reader is shown the most telling ones; a series of pictures is no answer."""

SHOWN_LONG_SIDE_PX = 512
"""The level of a slide that is shown is the smallest one whose longer side has this many pixels."""

WHOLE_SLIDE = frozenset({"VOLUME", "THUMBNAIL"})
"""What an image of a slide shows of it (PS3.3 C.8.12.4.1.1): not its label, nor an overview of the glass."""

SAME_SHAPE = 0.1
"""By how much the sides of levels may differ in proportion: the last pixels of a coarse level are padding."""

SOFT_TISSUE = Window(40, 400)
"""In HU, for a CT that states no window."""

FRAME_KEYWORDS = ("PhotometricInterpretation", "Modality", "PixelSpacing", *DISPLAY_KEYWORDS)
KEYWORDS = (*FRAME_KEYWORDS, *level.KEYWORDS, *stored.KEYWORDS)
LEVEL_KEYWORDS = (*level.MATRIX_KEYWORDS, "ImageType", "SamplesPerPixel", "NumberOfFrames", "Rows", "Columns")

Pixels = npt.NDArray[np.float32]


def read_pictures(
    instances: Sequence[Instance], frames: Sequence[Frame], window: Window | None = None
) -> tuple[Image, ...]:
    """Return the pictures to show for these frames of a series, each once, in order: MAX_PICTURES at most.

    For a level of a slide that is a level of fit size in the same series; a slide that has none, as all are
    too large or none is in color, has no picture. Raises PixelError and DatasetError as `read_picture` does,
    the latter also for a frame of an instance that is not among these.
    """
    instance_by_uid = {one.sop_instance_uid: one for one in instances}
    if strangers := {frame.sop_instance_uid for frame in frames} - set(instance_by_uid):
        raise DatasetError(min(strangers), "is not among the instances of the series")
    sizes = {uid: size for uid, one in instance_by_uid.items() if (size := _level_size(one))}
    shown = [_shown(frame, sizes) for frame in frames]
    wanted = list(dict.fromkeys(frame for frame in shown if frame))[:MAX_PICTURES]
    dataset_by_uid = {
        uid: _read(instance_by_uid[uid]) for uid in {frame.sop_instance_uid for frame in wanted}
    }
    return tuple(
        _picture(instance_by_uid[uid], dataset_by_uid[uid], frame.frame_number, window)
        for frame in wanted
        for uid in (frame.sop_instance_uid,)
    )


def read_picture(instance: Instance, frame_number: int | None = None, window: Window | None = None) -> Image:
    """Return one picture: gray (rows, columns) in 0–1, bright for dense, or RGB (rows, columns, 3).

    A projection is read as `read_projection` does; a slice or a frame (from 1) has its modality LUT and VOI
    LUT or window applied, or the `window` given instead; where neither states one, its range of values, or
    soft tissue where it is CT; of a tiled slide without a frame number it is the whole level, reduced so that
    its longer side has 1024 to 2047 pixels. Raises PixelError for pixels that are absent, too many or not
    decodable, for several frames of which none is named, and for a level of more than 64 million pixels;
    DatasetError for a file that cannot be read.
    """
    return _picture(instance, _read(instance), frame_number, window)


def _read(instance: Instance) -> Dataset:
    return read_with_pixels(instance, KEYWORDS)


def _picture(instance: Instance, dataset: Dataset, frame_number: int | None, window: Window | None) -> Image:
    uid, number = instance.sop_instance_uid, 1 if frame_number is None else frame_number
    if instance.modality in PROJECTION_MODALITIES and frame_number is None:
        return read_projection(instance)
    with pixel_faults(uid):
        frames = StoredFrames(instance, dataset)
        header = frame_header(dataset, frame_number, FRAME_KEYWORDS)
        header.file_meta = dataset.file_meta
        if window:
            show_in(header, window)
        spacing_yx_mm, reduction = _spacing(header), 1
        pixels: Pixels
        if "TotalPixelMatrixRows" in dataset and frame_number is None:
            pixels, reduction = level.read_level(uid, dataset, frames)
        elif frame_number is None and frames.layout.frames > 1:
            raise PixelError(uid, f"{frames.layout.frames} frames, and none of them is named")
        elif frames.layout.samples == 1:
            pixels = _gray(header, frames, number)
        else:
            pixels = np.asarray(frames.colors(number) / np.float32(255), np.float32)
    if spacing_yx_mm is None:
        return Image(uid, pixels, frame_number=frame_number)
    down_mm, across_mm = (reduction * side for side in spacing_yx_mm)
    return Image(uid, pixels, (down_mm, across_mm), "PixelSpacing", frame_number)


def _gray(header: Dataset, frames: StoredFrames, number: int) -> Pixels:
    words = frames.words(number)
    counts = np.bincount(words.reshape(-1), minlength=1 << frames.layout.stored.bits_allocated)
    has_window = header.get("WindowCenter") not in (None, "") or header.get("VOILUTSequence")
    if not has_window and header.get("Modality") == "CT":
        show_in(header, SOFT_TISSUE)
    return display_table(header, frames.layout.stored, counts)[words]


def _spacing(header: Dataset) -> tuple[float, float] | None:
    """Return the spacing (row, column) in mm; a damaged one is an unknown one."""
    try:
        down_mm, across_mm = (float(one) for one in header.PixelSpacing)
    except LIBRARY_ERRORS:
        return None
    is_usable = all(math.isfinite(one) and one > 0 for one in (down_mm, across_mm))
    return (down_mm, across_mm) if is_usable else None


# --- which level of a slide is shown


@dataclass(frozen=True, slots=True)
class _Size:
    """The total pixel matrix of one level, and whether it can be shown."""

    series_instance_uid: str
    rows: int
    columns: int
    is_showable: bool

    @property
    def long_side(self) -> int:
        return max(self.rows, self.columns)

    def has_shape_of(self, other: "_Size") -> bool:
        return abs(self.rows * other.columns / (self.columns * other.rows) - 1) < SAME_SHAPE


def _level_size(instance: Instance) -> _Size | None:
    """Return the size of a level of a slide; None of what is no level."""
    if instance.sop_class_uid != VLWholeSlideMicroscopyImageStorage:
        return None
    with dataset_faults(instance.sop_instance_uid):
        # Of a file that ends within its pixels this still gives what stands before them.
        header = read_selected(instance.path, LEVEL_KEYWORDS)
        rows, columns = (int(header[keyword].value) for keyword in level.MATRIX_KEYWORDS)
        parts = [str(one) for one in header.get("ImageType") or ()]
        is_whole = len(parts) < 3 or parts[2] in WHOLE_SLIDE
        is_small = 0 < rows * columns <= level.MAX_MATRIX_PIXELS
        is_color = int(header.get("SamplesPerPixel") or 1) == 3
    if rows < 1 or columns < 1:
        raise PixelError(instance.sop_instance_uid, f"a level of {rows} × {columns} pixels")
    return _Size(instance.series_instance_uid, rows, columns, is_whole and is_small and is_color)


def _shown(frame: Frame, sizes: Mapping[str, _Size]) -> Frame | None:
    """Return the frame itself, or for a level of a slide the one to show in its place."""
    meant = sizes.get(frame.sop_instance_uid)
    if meant is None or frame.frame_number is not None:
        return frame
    fit = {
        uid: size
        for uid, size in sizes.items()
        if size.is_showable
        and size.has_shape_of(meant)
        and size.series_instance_uid == meant.series_instance_uid
    }
    if not fit:
        return None
    large = [uid for uid in fit if fit[uid].long_side >= SHOWN_LONG_SIDE_PX]
    if large:
        return Frame(min(large, key=lambda uid: (fit[uid].long_side, uid)))
    return Frame(max(fit, key=lambda uid: (fit[uid].long_side, uid)))
