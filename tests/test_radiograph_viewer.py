"""OHIF draws what the detectors found on a radiograph around it, with its probability and its size."""

import re
from pathlib import Path

import numpy as np
import pytest

from node.domain.profile import Kind
from tests.detecting import SeeingEngine
from tests.peers.orthanc import Orthanc
from tests.peers.viewer import Viewer
from tests.rectangles import Shape, analyze, write
from tests.sources import Written
from tests.viewed import add_results

SHAPES = {
    "wide": Shape(400, 1300, (150, 33, 390, 161), imager_spacing=(0.4, 0.4)),
    "monochrome1": Shape(700, 600, (80, 330, 200, 430), "MONOCHROME1", pixel_spacing=(0.4, 0.4)),
}
BRIGHT = 140
"""Of 255 on the screen: between the rectangle and all else, the words of the viewer aside."""


@pytest.mark.viewer
@pytest.mark.parametrize("name", SHAPES)
def test_the_box_of_a_lesion_stands_around_it(
    name: str, archive: Orthanc, viewer: Viewer, tmp_path: Path
) -> None:
    shape = SHAPES[name]
    instance = write(shape, tmp_path, name)
    findings = analyze(instance, SeeingEngine())
    study = add_results(archive, Written([instance.path], (), None), findings, tmp_path / "results")

    viewer.open_study(study.uid)
    viewer.open_series(study.description(Kind.LESIONS_SR), answer="No")
    viewer.wait_for(re.compile("Certainty of Finding"))

    (box,) = viewer.outlines()
    screen = viewer.pixels().max(axis=2)
    rows, columns = (np.flatnonzero((screen > BRIGHT).mean(axis=axis) > 0.05) for axis in (1, 0))
    # Three pixels of the source at most: two are allowed the box, one is drawn over its edge.
    scale = (columns[-1] - columns[0]) / (shape.box[2] - shape.box[0])
    assert box.min(axis=0) == pytest.approx((rows[0], columns[0]), abs=3 * scale)
    assert box.max(axis=0) == pytest.approx((rows[-1] + 1, columns[-1] + 1), abs=3 * scale)
    (lines,) = viewer.annotations()
    score = findings.regions[0].score
    assert score is not None
    assert f"Certainty of Finding: {100 * score.probability:.2f} %" in lines
