"""What is displayed of a source with findings in it, and what is drawn on that."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from node.domain.findings import Findings, Presence
from node.domain.image import Image
from node.domain.location import Mask, Segment
from node.domain.study import Instance
from node.encode.identity import Result
from node.encode.overlay import Overlay, draw_overlay
from node.encode.secondary_capture import encode_secondary_capture
from node.encode.source import read_sources
from node.read.picture import read_pictures
from tests.located import LUNG, NODULE, located_findings
from tests.results import make_context, save, score
from tests.sources import Written

Pixels = NDArray[np.uint8]
Area = NDArray[np.bool_]
WHITE = (255, 255, 255)
LINE_REACH = 3.5
"""Half of a line with its black edges, and the rounding of its place, in pixels."""


class Shown:
    """A source of one shape, the findings in it, and the picture that is displayed of them."""

    def __init__(self, written: Written) -> None:
        self.written = written
        self.findings = located_findings(written)
        (self.image,) = read_pictures([received(path) for path in written.paths], self.findings.shown_frames)
        self.sources = read_sources(written.paths, self.findings)
        # The picture itself does not matter here, and a plain one shows what was drawn.
        self.gray = replace(self.image, pixels=np.full_like(self.image.pixels, 0.5))

    def draw(self, findings: Findings) -> Overlay:
        sizes = {
            one.sop_instance_uid: (one.number("TotalPixelMatrixRows"), one.number("TotalPixelMatrixColumns"))
            for one in self.sources
        }
        is_slide = self.image.pixels.ndim == 3
        return draw_overlay(self.gray, findings, "algorithm 1", sizes if is_slide else None)

    def body(self, findings: Findings) -> Pixels:
        """What is drawn, without the caption."""
        overlay = self.draw(findings)
        return overlay.pixels[: round(self.gray.pixels.shape[0] * overlay.scale_yx[0])]


def received(path: Path) -> Instance:
    header = dcmread(path, stop_before_pixels=True)
    uids = (header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID, header.SOPClassUID)
    return Instance(*map(str, uids), str(header.file_meta.TransferSyntaxUID), header.Modality, path, "")


def bare(findings: Findings) -> Findings:
    """The findings without anything to draw but their regions."""
    return replace(findings, scores=(), masks=(), maps=(), marks=())


def only(findings: Findings, index: int = 0, presence: Presence = Presence.PRESENT) -> Findings:
    """One region alone, as sure as that."""
    by_presence = {
        Presence.PRESENT: score(NODULE, 0.91, (0.85, 0.95), Presence.PRESENT),
        Presence.UNDETERMINED: score(NODULE, 0.58, (0.42, 0.7), Presence.ABSENT, Presence.PRESENT),
        Presence.ABSENT: score(NODULE, 0.1, (0.05, 0.2), Presence.ABSENT),
    }
    region = replace(findings.regions[index], score=by_presence[presence])
    return replace(bare(findings), regions=(region,))


def is_color(pixels: Pixels, color: tuple[int, int, int]) -> Area:
    return np.asarray((pixels == color).all(axis=-1))


def box_of(view: Shown, findings: Findings, shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the first region in a body of that shape, from the sizes in the headers."""
    outline = findings.regions[0].outline
    header = dcmread(
        next(
            one for one in view.written.paths if dcmread(one).SOPInstanceUID == outline.frame.sop_instance_uid
        )
    )
    rows = header.get("TotalPixelMatrixRows", header.Rows)
    columns = header.get("TotalPixelMatrixColumns", header.Columns)
    (left, top), (right, bottom) = outline.points_xy.min(axis=0), outline.points_xy.max(axis=0)
    down, across = shape[0] / rows, shape[1] / columns
    return left * across, top * down, right * across, bottom * down


def distance_to_box(shape: tuple[int, int], box: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """How far the middle of each pixel is from the line of a box."""
    left, top, right, bottom = box
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    outside = np.hypot(
        np.maximum(np.maximum(left - x, x - right), 0), np.maximum(np.maximum(top - y, y - bottom), 0)
    )
    inside = np.minimum(np.minimum(x - left, right - x), np.minimum(y - top, bottom - y))
    return np.where(outside > 0, outside, np.maximum(inside, 0))


def anatomy_of(view: Shown) -> Mask:
    """The mask of the true shape as a segment that no region is about."""
    mask = view.findings.masks[0]
    labels = (mask.labels == 1).astype(np.uint8)
    return Mask(mask.frames, (Segment("Lung", LUNG),), labels, stride_px=mask.stride_px)


def nearest(inside: Area, shape: tuple[int, int]) -> Area:
    rows = (np.arange(shape[0]) * inside.shape[0] / shape[0]).astype(int)
    columns = (np.arange(shape[1]) * inside.shape[1] / shape[1]).astype(int)
    return np.asarray(inside[rows][:, columns])


def near(area: Area, reach: float) -> Area:
    """The area with all that is within so many pixels along rows or columns."""
    grown = area.copy()
    for _ in range(int(np.ceil(reach))):
        more = grown.copy()
        more[1:] |= grown[:-1]
        more[:-1] |= grown[1:]
        more[:, 1:] |= grown[:, :-1]
        more[:, :-1] |= grown[:, 1:]
        grown = more
    return grown


def captures_of(view: Shown, findings: Findings, folder: Path, *images: Image) -> list[Dataset]:
    result = Result(findings, view.sources, make_context("captures", *images))
    return [
        dcmread(save(one, folder / f"capture-{number}.dcm"))
        for number, one in enumerate(encode_secondary_capture(result))
    ]
