"""Plots: the picture is really written, has the size wanted, and shows the figures it was given."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from models import plots

RANDOM = np.random.default_rng(7)
PROBABILITY = RANDOM.random(400)
TRUTH = RANDOM.random(400) < PROBABILITY
CURVES = {"Pneumonia": (TRUTH, PROBABILITY), "Viral pneumonia": (TRUTH, PROBABILITY**2)}
NOBODY_ILL = {"Pneumonia": (np.zeros(400, bool), PROBABILITY)}
NO_CASES = {"Pneumonia": (np.zeros(0, bool), np.zeros(0))}
TITLE = "kermany val: 722 images of 334 patients"
WRITERS = [plots.roc_plot, plots.reliability_plot]


def draw(write, what, path: Path, title: str = TITLE) -> np.ndarray:
    """Return the picture (y, x, RGB) that was written."""
    write(what, path, title)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def blue(picture: np.ndarray) -> np.ndarray:
    """Return where the first curve, its points or the bars are, (y, x)."""
    return np.abs(picture - (31, 119, 180)).sum(axis=2) < 40


def inside(picture: np.ndarray, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Return a part of the picture, its edges as parts of width and height."""
    height, width = picture.shape[:2]
    return picture[int(top * height) : int(bottom * height), int(left * width) : int(right * width)]


# --- ROC -------------------------------------------------------------------------------------------------


def test_a_roc_plot_has_the_size_wanted(tmp_path: Path) -> None:
    assert draw(plots.roc_plot, CURVES, tmp_path / "roc.png").shape == (900, 900, 3)


def test_a_perfect_curve_runs_along_the_corner_and_a_useless_one_along_the_diagonal(tmp_path: Path) -> None:
    perfect = draw(plots.roc_plot, {"a": (TRUTH, TRUTH.astype(float))}, tmp_path / "perfect.png")
    useless = draw(plots.roc_plot, {"a": (TRUTH, np.full(400, 0.5))}, tmp_path / "useless.png")

    # At the left only a perfect curve climbs, through the middle only a useless one goes.
    climb, middle = (0.1, 0.1, 0.2, 0.7), (0.4, 0.35, 0.65, 0.65)
    assert blue(inside(perfect, *climb)).any(axis=1).all()
    assert not blue(inside(useless, *climb)).any()
    assert not blue(inside(perfect, *middle)).any()
    assert blue(inside(useless, *middle)).any(axis=0).mean() > 0.5


def test_a_curve_without_positives_is_named_and_not_drawn(tmp_path: Path) -> None:
    picture = draw(plots.roc_plot, NOBODY_ILL, tmp_path / "roc.png")

    # The legend in the lower right corner has the only stroke of its color.
    assert blue(inside(picture, 0.5, 0.7, 1.0, 1.0)).any()
    assert blue(picture).sum() == blue(inside(picture, 0.5, 0.7, 1.0, 1.0)).sum()


# --- reliability -----------------------------------------------------------------------------------------


def test_a_reliability_plot_has_one_panel_for_each_name(tmp_path: Path) -> None:
    assert draw(plots.reliability_plot, CURVES, tmp_path / "both.png").shape == (840, 2 * 750, 3)
    assert draw(plots.reliability_plot, NOBODY_ILL, tmp_path / "one.png").shape == (840, 750, 3)


def test_what_never_happens_lies_at_the_bottom_and_what_always_does_at_the_top(tmp_path: Path) -> None:
    always = {"Pneumonia": (np.ones(400, bool), PROBABILITY)}
    below = draw(plots.reliability_plot, NOBODY_ILL, tmp_path / "below.png")
    above = draw(plots.reliability_plot, always, tmp_path / "above.png")

    upper, lower = (0.15, 0.07, 0.95, 0.2), (0.15, 0.6, 0.95, 0.7)
    assert blue(inside(above, *upper)).any(axis=0).mean() > 0.9
    assert blue(inside(below, *lower)).any(axis=0).mean() > 0.9
    assert not blue(inside(below, *upper)).any()
    assert not blue(inside(above, *lower)).any()


def test_a_bin_without_cases_has_no_bar(tmp_path: Path) -> None:
    full = draw(plots.reliability_plot, {"a": (TRUTH, PROBABILITY)}, tmp_path / "full.png")
    halves = {"a": (TRUTH, np.where(TRUTH, 0.95, 0.05))}
    empty = draw(plots.reliability_plot, halves, tmp_path / "empty.png")

    def bars(picture: np.ndarray) -> int:
        # Along the foot of the bars, where even the lowest one stands.
        return int((np.diff(blue(picture)[int(0.9 * len(picture))].astype(int)) == 1).sum())

    assert bars(full) == 10
    assert bars(empty) == 2


# --- both ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITERS)
def test_the_title_stands_over_the_picture(write, tmp_path: Path) -> None:
    named = draw(write, CURVES, tmp_path / "a.png")
    other = draw(write, CURVES, tmp_path / "b.png", "other data")

    # Only the title differs: one line of text at the top.
    differing = np.flatnonzero((named != other).any(axis=(1, 2)))
    assert 10 < np.ptp(differing) < 40
    assert differing.max() < 60


@pytest.mark.parametrize("write", WRITERS)
def test_a_title_is_no_formula(write, tmp_path: Path) -> None:
    draw(write, CURVES, tmp_path / "a.png", r"folder $\nonsense$")


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("what", [NOBODY_ILL, NO_CASES])
def test_undefined_figures_do_not_stop_a_plot(write, what, tmp_path: Path) -> None:
    draw(write, what, tmp_path / "a.png")


@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_that_is_absent_is_an_error_of_the_system(write, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(CURVES, tmp_path / "absent" / "a.png", TITLE)


def test_plots_leave_no_global_state() -> None:
    program = "import sys, models.plots; sys.exit('matplotlib.pyplot' in sys.modules)"

    assert (
        subprocess.run(
            [sys.executable, "-c", program], check=False, cwd=Path(__file__).parent.parent
        ).returncode
        == 0
    )
