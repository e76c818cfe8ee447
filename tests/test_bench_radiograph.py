"""The benchmark of radiographs: every stage of the shipped models, beside bare loops over them."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from node.bench.radiograph import (
    BARE_CLASSIFIERS,
    BARE_DETECTORS,
    CLASSIFIERS,
    DETECTORS,
    ENCODE,
    PREPARE,
    STAGES,
    RadiographBench,
    draw,
)
from node.cli import app
from node.samples.lesions import lesion_radiograph


def test_every_stage_takes_its_time() -> None:
    done = CliRunner().invoke(app, ["bench", "radiograph", "--side", "512", "--rounds", "1", "--json"])

    assert done.exit_code == 0, done.output
    account = json.loads(done.stdout)
    seconds = account["seconds"]
    assert seconds.keys() == {*STAGES, BARE_CLASSIFIERS, BARE_DETECTORS}
    assert all(value > 0 for value in seconds.values())
    assert account["whole_s"] == pytest.approx(sum(seconds[stage] for stage in STAGES), abs=1e-3)
    # Four networks for the whole image, against two small ones.
    assert seconds[CLASSIFIERS] > seconds[DETECTORS]
    assert account["lesions"] == len(draw(512).truth.lesions) > 0


def test_figures_are_medians_of_rounds() -> None:
    seconds = {
        PREPARE: (1.0, 3.0, 2.0),
        CLASSIFIERS: (1.0, 1.0, 9.0),
        DETECTORS: (0.0,) * 3,
        ENCODE: (0.0,) * 3,
    }
    bench = RadiographBench(512, 1, 1, seconds)

    assert bench.stage_s(PREPARE) == 2
    assert bench.whole_s == 4


def test_the_radiograph_is_enlarged_as_its_pixels_are() -> None:
    drawn = draw(600)

    small = lesion_radiograph(drawn.seed, size=150)
    np.testing.assert_array_equal(drawn.pixels[::4, ::4], small.pixels)
    assert drawn.pixels.shape == (600, 600)
    assert np.multiply(drawn.spacing_yx_mm, 4) == pytest.approx(small.spacing_yx_mm)
