"""OHIF's microscopy mode shows what was found on a slide, where it was found and as large as it is."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from node.domain.profile import Kind
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.pipelines.slide_tumor import SlideTumor
from node.samples.slide import slide_sample
from node.samples.slide_series import write_slide
from tests.peers import REPOSITORY, wait_until
from tests.peers.orthanc import Orthanc
from tests.peers.viewer import Pixels, Viewer
from tests.slides import series_of
from tests.sources import Written
from tests.viewed import add_results, likeness

SEED, SIDE = 999_003, 2048
TILE_UM2 = 128.0**2
BRIGHT, DARK = 200, 90
LINE_PX = 40
"""A side of a tile is longer on the screen, a stroke of a letter shorter."""


@pytest.mark.viewer
def test_top_tiles_are_outlined_where_they_are_on_the_slide(
    archive: Orthanc, viewer: Viewer, tmp_path: Path
) -> None:
    sample = slide_sample(SEED, columns=SIDE, rows=SIDE, is_tumor=True)
    paths = write_slide(sample, tmp_path / "slide")
    engine = OnnxEngine(ModelRepository(REPOSITORY / "triton_repo"), 2)
    findings = SlideTumor(most_regions=0).analyze(series_of(paths), engine)
    study = add_results(archive, Written(paths, (), None), findings, tmp_path / "results")

    viewer.open_slide(study.uid)
    viewer.open_list(study.description(Kind.LESIONS_SR), re.compile("μm²"))
    # It lies as on the glass, on which the rows of this slide run the other way.
    drawn = sample.region(1, 0, 0, SIDE // 4, SIDE // 4)[::-1, ::-1]
    (slide,) = wait_until(
        lambda: whole(viewer.slide_pixels(), drawn), "the slide is there, with outlines on it"
    )

    points = SIDE - np.concatenate([region.outline.points_xy for region in findings.regions])
    scale = SIDE / slide.shape[1]
    lines = [np.flatnonzero(is_green(slide).sum(axis=axis) > LINE_PX) * scale for axis in (0, 1)]
    shown = [end for line in lines for end in (line.min(), line.max())]
    # A line of the screen is about three pixels of the slide wide.
    assert shown == pytest.approx([*ends(points[:, 0]), *ends(points[:, 1])], abs=12)
    areas = [float(one) for one in re.findall(r"([0-9.]+) μm²", viewer.text()) if float(one) > 1000]
    assert areas == pytest.approx([TILE_UM2] * len(findings.regions), rel=0.001)


def whole(image: Pixels, drawn: Pixels) -> list[Pixels]:
    """The slide cut out of the image, in a list that is empty as long as outlines or tiles are missing."""
    # It is a square in the middle of the screen, and glass, with which it begins and ends, is red too.
    columns = np.flatnonzero(image[image.shape[0] // 2, :, 0] > BRIGHT)
    if not len(columns) or not is_green(image).any():
        return []
    side = columns[-1] + 1 - columns[0]
    top = max((image.shape[0] - side) // 2, 0)
    slide = image[top : top + side, columns[0] : columns[-1] + 1]
    return [slide] if likeness(upper_half(slide), upper_half(drawn)) > 0.9 else []


def ends(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def upper_half(image: Pixels) -> np.ndarray:
    """The upper half of a square picture, 64 × 128: in the lower one the viewer shows the slide once more."""
    return np.asarray(Picture.fromarray(image).resize((128, 128)), float)[:64]


def is_green(image: Pixels) -> np.ndarray:
    return (image[..., 1] > BRIGHT) & (image[..., ::2].max(axis=2) < DARK)
