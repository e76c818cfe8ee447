"""Which segment of which mask is in which object, and on which frames: known before any is made."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from node.domain.location import Mask, Outline
from node.domain.profile import Profile, SegmentationType
from node.encode.identity import Result
from node.encode.planes import Grid, make_grids

LARGEST = 255
"""What a probability of 1 is stored as (Maximum Fractional Value)."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one segmentation object holds: some segments of a mask on some frames of a grid.

    `segments` are those of the mask, from 0; in the object they are numbered from 1 in this order. `peaks`,
    (frames, segments) in 0–1, is the largest value of each segment on each frame: 0 where it is not there.
    """

    number: int
    mask: Mask
    grid: Grid
    segments: tuple[int, ...]
    peaks: Floats
    omits_empty_frames: bool

    def shows(self, outline: Outline, number: int) -> bool:
        """Return whether the object has a segment's frame where the outline is."""
        column, row = (outline.points_xy.mean(axis=0) / self.grid.stride_px).tolist()
        if outline.frame not in self.mask.frames:
            return False
        index = self.grid.find(self.mask.frames.index(outline.frame), row, column)
        return index is not None and bool(_is_written(self.peaks)[index, number - 1])


def divide(result: Result) -> Iterator[Part]:
    """Yield what each object holds, in the order of their numbers; nothing for a mask that is empty."""
    profile, number = result.context.profile, 0
    for mask in result.findings.masks:
        extent = (mask.labels.shape[1], mask.labels.shape[2])
        for grid in make_grids(result, mask.frames, extent, mask.stride_px):
            peaks = _peaks(mask, grid, profile.segmentation_type)
            for segments, part, omits_empty_frames in _divide_grid(peaks, profile):
                number += 1
                yield Part(number, mask, grid, segments, part, omits_empty_frames)


def stored(values: Floats) -> npt.NDArray[np.uint8]:
    """Return probabilities as a fractional segmentation stores them."""
    return np.around(values * float(LARGEST)).astype(np.uint8)


def _peaks(mask: Mask, grid: Grid, form: SegmentationType) -> Floats:
    """Return the largest value of each segment on each frame, zero where the mask has nothing of it."""
    labels = range(1, len(mask.segments) + 1)
    marks = [[bool((frame == label).any()) for label in labels] for frame in grid.frames(mask.labels)]
    is_marked = np.array(marks)
    if form is not SegmentationType.FRACTIONAL or mask.probability is None:
        return is_marked.astype(np.float32)
    if mask.shares_probability:
        # Of a probability that is one for all, a segment has its peak where its label is.
        pairs = list(zip(grid.frames(mask.probability[0]), grid.frames(mask.labels), strict=True))
        peaks = [[float(np.max(values, where=own == n, initial=0)) for values, own in pairs] for n in labels]
        return np.array(peaks, np.float32).T
    peaks = [[frame.max() for frame in grid.frames(segment)] for segment in mask.probability]
    return np.where(is_marked.any(axis=0), np.array(peaks, np.float32).T, np.float32(0))


def _divide_grid(peaks: Floats, profile: Profile) -> Iterator[tuple[tuple[int, ...], Floats, bool]]:
    """Yield for each object its segments, their peaks, and whether it omits empty frames.

    What has too many frames is divided by segments, and one segment that has too many by its frames. A label
    map has all its segments on one frame, so that only the latter helps.
    """
    is_map = profile.segmentation_type is SegmentationType.LABELMAP
    counted = _is_written(peaks) if profile.omit_empty_frames else np.ones(peaks.shape, bool)

    def count(segments: Sequence[int]) -> int:
        frames = counted[:, segments]
        return int((frames.any(axis=1) if is_map else frames).sum())

    limit = profile.max_frames or peaks.size
    segments = np.flatnonzero(_is_written(peaks).any(axis=0)).tolist()
    for group in [segments] * bool(segments) if is_map else _pack(segments, limit, count):
        if count(group) <= limit:
            yield tuple(group), peaks[:, group], profile.omit_empty_frames
        else:
            yield from _divide_frames(group, peaks, limit)


def _pack(
    segments: Sequence[int], limit: int, count: Callable[[Sequence[int]], int]
) -> Iterator[Sequence[int]]:
    """Yield runs of segments, each as long as the limit allows."""
    group: list[int] = []
    for segment in segments:
        if group and count([*group, segment]) > limit:
            yield group
            group = []
        group.append(segment)
    if group:
        yield group


def _divide_frames(
    segments: Sequence[int], peaks: Floats, limit: int
) -> Iterator[tuple[tuple[int, ...], Floats, bool]]:
    """Yield parts of these segments, each with the next frames that hold anything of them."""
    is_written = _is_written(peaks)
    frames = np.flatnonzero(is_written[:, segments].any(axis=1))
    for start in range(0, len(frames), limit):
        chunk = frames[start : start + limit]
        group = [segment for segment in segments if is_written[chunk, segment].any()]
        part = np.zeros((len(peaks), len(group)), np.float32)
        part[chunk] = peaks[chunk][:, group]
        yield tuple(group), part, True


def _is_written(peaks: Floats) -> npt.NDArray[np.bool_]:
    return stored(peaks) > 0
