"""The overlay as a picture: what the reader saw, what was found in it and where, and what is said of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image as Picture

from node.domain.code import ATTENTION_WEIGHT
from node.domain.findings import Findings, Presence, Score
from node.domain.image import Image
from node.domain.location import Frame, ValueMap
from node.encode.caption import BODY, DETAIL, FOOT, GRAY, HEAD, WHITE, Line, draw_caption
from node.encode.drawing import (
    Box,
    Map,
    Pixels,
    blend,
    draw_contour,
    draw_line,
    draw_tag,
    enlarge,
    fit,
    resize,
)
from node.encode.markings import NEEDS_REVIEW, Marking, markings
from node.encode.markings import REVIEW as AMBER
from node.encode.summary import (
    FOREIGN_WARNING,
    WARNING,
    WORD_BY_PRESENCE,
    describe_measurement,
    describe_probability,
    describe_score,
)

SHORTEST_LONG_SIDE_PX, LONGEST_LONG_SIDE_PX = 768, 1024
"""Smaller pictures are enlarged, or their caption could not be read; larger ones only make large files."""

NARROWEST_PX = 512
"""Narrower pictures get black at both sides, for the caption needs room."""

SQUARE = 0.01
"""Pixels whose sides differ by less than this share count as square."""

MOST_LINES = 12
"""Regions described in one caption; the report has them all."""

ANATOMY = ((102, 194, 165), (141, 160, 203), (231, 138, 195), (166, 216, 84))
"""For segments that are no findings: mild, and unlike the colors of those."""

Sizes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Overlay:
    """A color picture (rows, columns, 3), and by how much the source was enlarged along rows and columns."""

    pixels: Pixels
    scale_yx: tuple[float, float]


@dataclass(frozen=True, slots=True)
class View:
    """The displayed picture at the size it is drawn; its pixels are square.

    `sizes` are rows and columns of the levels of the slide it shows, itself included, by instance; they all
    show the same, so what lies on one of them lies here too. Empty where it is no slide.
    """

    image: Image
    scale_yx: tuple[float, float]
    sizes: Sizes = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the drawn picture."""
        rows, columns = self.image.pixels.shape[:2]
        return max(1, round(rows * self.scale_yx[0])), max(1, round(columns * self.scale_yx[1]))

    def scale_of(self, frame: Frame) -> tuple[float, float] | None:
        """Return how large a pixel of that frame is here, along rows and columns; None of another picture."""
        uid = self.image.sop_instance_uid
        is_level = frame.frame_number is None and uid in self.sizes and frame.sop_instance_uid in self.sizes
        if not is_level and frame != self.image.frame:
            return None
        rows, columns = self.sizes[frame.sop_instance_uid] if is_level else self.image.pixels.shape[:2]
        return self.shape[0] / rows, self.shape[1] / columns


def draw_overlay(image: Image, findings: Findings, algorithm: str, sizes: Sizes | None = None) -> Overlay:
    """Return the picture with what lies on it, and a caption below the anatomy.

    Drawn are the outlines of regions, the borders of segments, and one map: of a finding that is present in
    the image the network saw whole, or on a slide. Of a foreign image nothing is drawn, and of a score that
    abstains no map: a reader would take it for a finding.
    """
    view = View(image, _scale_yx(image), sizes or {})
    shown = shown_score(findings)
    marked = markings(findings)
    here = [one for one in marked if view.scale_of(one.region.outline.frame)]
    body, words = _draw_map(view, findings, shown, marked)
    notes = [] if findings.is_foreign else list(_draw_segments(body, view, findings, marked))
    body = _widen(_draw_regions(body, view, here))
    lines = [
        *_head(findings, shown, marked),
        *_region_lines(here),
        *_size_lines(view, here),
        *notes,
        *(Line(describe_score(score), FOOT, GRAY) for score in findings.scores if score is not shown),
        Line(WARNING, 1 / 36, AMBER),
        Line(f"by {algorithm}", FOOT, GRAY),
        *([Line(words, FOOT, GRAY)] if words else []),
    ]
    caption = draw_caption(lines, body.shape[1], mm_per_px=_mm_per_px(view), has_map=bool(words))
    return Overlay(np.vstack([body, caption]), view.scale_yx)


def shown_score(findings: Findings) -> Score | None:
    """Return the most probable score that is present, or else uncertain; none of a foreign image."""
    raised = [score for score in findings.scores if score.presence is not Presence.ABSENT]
    if findings.is_foreign:
        return None
    return max(raised, key=lambda score: (not score.is_uncertain, score.probability), default=None)


# --- the picture


def _scale_yx(image: Image) -> tuple[float, float]:
    """Return the scale that makes pixels square and the picture as large as it should be."""
    down, across = image.spacing_yx_mm or (1.0, 1.0)
    if abs(down / across - 1) < SQUARE:
        down = across
    ratio_yx = down / min(down, across), across / min(down, across)
    longest = max(side * ratio for side, ratio in zip(image.pixels.shape, ratio_yx, strict=False))
    scale = min(max(longest, SHORTEST_LONG_SIDE_PX), LONGEST_LONG_SIDE_PX) / longest
    return scale * ratio_yx[0], scale * ratio_yx[1]


def _mm_per_px(view: View) -> float | None:
    """Return the size of a pixel at the patient; that of a detector would be read as if it were."""
    if view.image.spacing_yx_mm is None or view.image.spacing_attribute != "PixelSpacing":
        return None
    return view.image.spacing_yx_mm[0] / view.scale_yx[0]


def _draw_picture(view: View) -> Map:
    pixels = np.asarray(view.image.pixels, np.float32)
    if pixels.ndim == 2:
        return np.repeat(255 * resize(pixels, *view.shape)[..., None], 3, axis=2)
    return 255 * np.stack([resize(channel, *view.shape) for channel in np.moveaxis(pixels, -1, 0)], axis=-1)


def _widen(body: Pixels) -> Pixels:
    missing = max(0, NARROWEST_PX - body.shape[1])
    return np.pad(body, ((0, 0), (missing // 2, missing - missing // 2), (0, 0)))


# --- the map


def _draw_map(
    view: View, findings: Findings, shown: Score | None, marked: tuple[Marking, ...]
) -> tuple[Pixels, str]:
    """Return the picture with the one map that is drawn on it, and what to say of that, if there is one."""
    color, words = _draw_picture(view), ""
    activation = _activation(view, findings, shown)
    is_certain = any(not marking.is_doubtful for marking in marked)
    if shown and activation is not None:
        color = blend(color, resize(activation, *view.shape))
        words = f"Where the network looked for {shown.code.meaning}; the line is at half"
    elif is_certain or (shown and shown.presence is Presence.PRESENT):
        for value_map, strength in _slide_maps(view, findings):
            color = blend(color, strength)
            words = (
                f"{value_map.identifier} ({value_map.quantity.meaning}); the line is at half of the highest"
            )
    return np.rint(color).astype(np.uint8), words


def _activation(view: View, findings: Findings, shown: Score | None) -> Map | None:
    """Return the map of the finding relative to its maximum, if this is the one image that it lies over."""
    is_whole = findings.sop_instance_uids == (view.image.sop_instance_uid,) and not view.image.frame_number
    if not is_whole or shown is None or shown.presence is not Presence.PRESENT or shown.activation is None:
        return None
    highest = float(shown.activation.max())
    return shown.activation / np.float32(highest) if highest > 0 else None


def _slide_maps(view: View, findings: Findings) -> Iterator[tuple[ValueMap, Map]]:
    """Yield the map to draw on a slide, from 0 to its maximum: that of attention, else the first."""
    maps = sorted(findings.maps, key=lambda one: one.quantity != ATTENTION_WEIGHT)
    for value_map in maps[:1] if view.sizes else ():
        for plane, frame in enumerate(value_map.frames):
            scale_yx, highest = view.scale_of(frame), float(value_map.values.max())
            if scale_yx and highest > 0:
                values = value_map.values[plane] / np.float32(highest)
                size = _size(values.shape, value_map.stride_px, scale_yx)
                yield value_map, np.asarray(fit(resize(values, *size), view.shape), np.float32)


def _size(shape: tuple[int, ...], stride_px: int, scale_yx: tuple[float, float]) -> tuple[int, int]:
    """Return how many rows and columns of the picture the elements of an array cover."""
    rows, columns = (
        max(1, round(side * stride_px * scale)) for side, scale in zip(shape, scale_yx, strict=True)
    )
    return rows, columns


# --- segments and regions


def _draw_segments(
    body: Pixels, view: View, findings: Findings, marked: tuple[Marking, ...]
) -> Iterator[Line]:
    """Draw the borders of segments, and yield a line for each that no region speaks for."""
    marking_by_name = {marking.region.identifier: marking for marking in marked}
    absent = {region.identifier for region in findings.regions} - set(marking_by_name)
    for mask in findings.masks:
        for plane, frame in enumerate(mask.frames):
            if not (scale_yx := view.scale_of(frame)):
                continue
            labels = mask.labels[plane]
            size = _size(labels.shape, mask.stride_px, scale_yx)
            for label in np.unique(labels[labels > 0]).tolist():
                segment = mask.segments[label - 1]
                if segment.identifier in absent:
                    continue
                marking = marking_by_name.get(segment.identifier)
                color = marking.color if marking else ANATOMY[(label - 1) % len(ANATOMY)]
                inside = np.asarray(fit(enlarge(labels == label, *size), view.shape), np.bool_)
                draw_contour(body, inside, color, is_dashed=bool(marking and marking.is_doubtful))
                if marking is None:
                    yield Line(f"Border of {segment.code.meaning} [{segment.identifier}]", FOOT, color)


def _draw_regions(body: Pixels, view: View, marked: list[Marking]) -> Pixels:
    picture = Picture.fromarray(body)
    boxes: list[tuple[Box, Marking]] = []
    for marking in marked:
        scale_y, scale_x = view.scale_of(marking.region.outline.frame) or (1.0, 1.0)
        points = [(float(x) * scale_x, float(y) * scale_y) for x, y in marking.region.outline.points_xy]
        draw_line(picture, points, marking.color, is_dashed=marking.is_doubtful)
        xs, ys = zip(*points, strict=True)
        boxes.append(((round(min(xs)), round(min(ys)), round(max(xs)), round(max(ys))), marking))
    taken: list[Box] = []
    for box, marking in boxes:
        words = f"{marking.number} {NEEDS_REVIEW}" if marking.is_doubtful else str(marking.number)
        draw_tag(picture, words, box, taken, marking.color)
    return np.array(picture)


# --- the words


def _head(findings: Findings, shown: Score | None, marked: tuple[Marking, ...]) -> list[Line]:
    """Return what must be read first."""
    if findings.is_foreign:
        return [Line(FOREIGN_WARNING, HEAD, AMBER)]
    if shown is None:
        return [_count(marked) if marked else Line("No findings", HEAD, WHITE)]
    color = AMBER if shown.is_uncertain else WHITE
    return [
        Line(f"{shown.code.meaning}: {WORD_BY_PRESENCE[shown.presence]}", HEAD, color),
        *(Line(doubt, BODY, color) for doubt in shown.doubts),
        Line(describe_probability(shown), BODY, WHITE),
        *(Line(describe_measurement(one), BODY, WHITE) for one in shown.measurements),
    ]


def _count(marked: tuple[Marking, ...]) -> Line:
    doubtful = sum(marking.is_doubtful for marking in marked)
    words = f"{len(marked)} marked" + (f", {doubtful} of them for review" if doubtful else "")
    return Line(words, HEAD, AMBER if doubtful else WHITE)


def _region_lines(marked: list[Marking]) -> Iterator[Line]:
    for marking in marked[:MOST_LINES]:
        yield Line(marking.sentence, DETAIL, marking.color)
    if len(marked) > MOST_LINES:
        yield Line(f"and {len(marked) - MOST_LINES} more, which the report has", DETAIL, GRAY)


def _size_lines(view: View, marked: list[Marking]) -> Iterator[Line]:
    """Yield the warning that sizes are not the patient's: a detector shows things larger than they are."""
    is_sized = view.image.spacing_yx_mm and any(one.region.measurements for one in marked[:MOST_LINES])
    if is_sized and view.image.spacing_attribute != "PixelSpacing":
        yield Line(f"Sizes are not measured at the patient ({view.image.spacing_attribute})", DETAIL, AMBER)
