"""Radiographs with lesions: what their truth says of boxes, sizes, places and subtlety shows on the film."""

from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from scipy.ndimage import gaussian_filter

from node.samples.anatomy import thorax_body
from node.samples.dicom import write_dx
from node.samples.lesion_places import PLACES, draw_spot
from node.samples.lesions import KINDS, lesion_radiograph
from node.samples.opacities import BOX_SHARE, SIZES_MM, draw_opacity, extent_mm
from node.samples.thorax import LesionTruth, Radiograph, draw_exposure, project, projection_grid

SIZE = 256
SEEDS = range(40, 54)


@cache
def film(seed: int, *, count: int | None = None) -> Radiograph:
    """Return a radiograph, drawn once for all tests: nothing changes it."""
    return lesion_radiograph(seed, count=count, size=SIZE)


def lesions() -> list[tuple[Radiograph, LesionTruth]]:
    return [(film(seed), one) for seed in SEEDS for one in film(seed).truth.lesions]


def added_by(radiograph: Radiograph) -> np.ndarray:
    """Return by how much the lesions of a film brighten it."""
    return radiograph.pixels - film(radiograph.seed, count=0).pixels


def around(lesion: LesionTruth, margin: int) -> tuple[slice, slice]:
    left, top, right, bottom = lesion.box_xyxy_px
    return slice(max(top - margin, 0), bottom + margin), slice(max(left - margin, 0), right + margin)


def measured_contrast(radiograph: Radiograph, lesion: LesionTruth) -> float:
    """Return what a reader could measure: the gain in the middle over the structure of the film around."""
    left, top, right, bottom = lesion.box_xyxy_px
    quarter_x, quarter_y = (right - left) // 4, (bottom - top) // 4
    middle = (slice(top + quarter_y, bottom - quarter_y), slice(left + quarter_x, right - quarter_x))
    healthy = film(radiograph.seed, count=0).pixels
    structure = healthy - gaussian_filter(healthy, 12 / radiograph.spacing_yx_mm[0])
    beside = structure[around(lesion, max(4, quarter_x * 2))]
    return float(added_by(radiograph)[middle].mean() / np.sqrt((beside**2).mean()))


def test_same_seed_gives_the_same_film_and_truth() -> None:
    first, again = (lesion_radiograph(7, size=128) for _ in range(2))

    assert np.array_equal(first.pixels, again.pixels)
    assert first.truth == again.truth


def test_film_without_lesions_still_knows_its_lungs() -> None:
    healthy = film(SEEDS[0], count=0)

    assert healthy.truth.finding is None
    assert healthy.truth.lesions == ()
    assert healthy.truth.lung_boxes_xyxy_px is not None


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_kinds_asked_for_are_drawn_as_many_as_asked_for(kind: str) -> None:
    radiograph = lesion_radiograph(3, kinds=(kind,), count=2, size=SIZE)

    assert [one.kind for one in radiograph.truth.lesions] == [kind, kind]


@pytest.mark.parametrize("kinds", [(), ("cyst",), ("nodule", "cyst")])
def test_kinds_that_nobody_can_draw_are_refused(kinds: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="expected some of"):
        lesion_radiograph(0, kinds=kinds, size=64)


def test_boxes_are_as_long_as_the_size_says_and_as_the_kind_allows() -> None:
    for radiograph, one in lesions():
        left, top, right, bottom = one.box_xyxy_px
        spacing = radiograph.spacing_yx_mm[0]
        low, high = SIZES_MM[one.kind]

        assert one.size_mm == pytest.approx(max(right - left, bottom - top) * spacing)
        # What the lung or the film cuts away may shorten it, a pixel's width may lengthen it.
        assert 0.75 * low - spacing <= one.size_mm <= high + spacing


def test_boxes_lie_within_the_film_and_never_touch() -> None:
    for seed in SEEDS:
        boxes = np.asarray([one.box_xyxy_px for one in film(seed).truth.lesions])

        assert (boxes > 0).all()
        assert (boxes < SIZE).all()
        for first, second in combinations(boxes, 2):
            gaps = np.concatenate([first[:2] - second[2:], second[:2] - first[2:]])
            assert gaps.max() > 0


def test_what_a_lesion_adds_fills_its_box_and_little_else() -> None:
    shares = []
    for radiograph, one in lesions():
        left, top, right, bottom = one.box_xyxy_px
        added = added_by(radiograph)
        margin = max(3, (right - left) // 3, (bottom - top) // 3)
        is_beside = np.zeros(added.shape, np.bool_)
        is_beside[around(one, margin)] = True
        is_beside[around(one, 1)] = False
        shares.append(abs(float(added[is_beside].mean() / added[top:bottom, left:right].mean())))

    # Beyond its edge a quarter of the depth fades out; a dense lesion elsewhere shifts the whole range.
    assert np.median(shares) < 0.1
    assert max(shares) < 0.5


@pytest.mark.parametrize("side", range(4))
def test_each_side_of_a_box_is_where_the_lesion_ends(side: int) -> None:
    """The outermost quarter of a box must hold much of the lesion, and as much beyond it nearly nothing."""
    within, beyond = [], []
    for radiograph, one in lesions():
        box = one.box_xyxy_px
        axis = side % 2
        step = (box[axis + 2] - box[axis]) // 4
        if step < 2:
            continue
        inwards = step if side < 2 else -step
        inner = slice(*sorted((box[side], box[side] + inwards)))
        outer = slice(*sorted((box[side] - inwards, box[side])))
        across = slice(box[1 - axis], box[3 - axis])
        added = added_by(radiograph)
        whole = added[box[1] : box[3], box[0] : box[2]].mean()
        within.append(added[(inner, across) if axis else (across, inner)].mean() / whole)
        beyond.append(added[(outer, across) if axis else (across, outer)].mean() / whole)

    # The outermost quarter of a ball's box has 0.6 of its mean depth; a faded edge takes some of it.
    assert np.median(within) > 0.4
    assert np.median(beyond) < 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size_mm", [6.0, 25.0, 50.0])
def test_an_uncut_lesion_is_as_long_as_it_was_wanted(kind: str, size_mm: float) -> None:
    random = np.random.default_rng(1)

    drawn = draw_opacity(
        kind, random, center_xyz_mm=(60.0, 10.0, 90.0), size_mm=size_mm, hilum_xyz_mm=(25.0, 10.0, 80.0)
    )

    # A fissure or a bronchus may take something from a cloud.
    least = 0.6 if kind == "consolidation" else 0.95
    assert least * size_mm <= extent_mm(drawn, size_mm) <= 1.08 * size_mm


def test_share_that_makes_a_box_is_the_stated_quarter() -> None:
    ball = draw_opacity(
        "nodule",
        np.random.default_rng(0),
        center_xyz_mm=(0.0, 0.0, 0.0),
        size_mm=20.0,
        hilum_xyz_mm=(9.0, 0.0, 0.0),
    )

    assert BOX_SHARE == 0.25
    # A sphere's chord is a quarter of its diameter at 0.97 of its radius; a faded edge reaches further out.
    assert max(ball.blobs[0].radii_xyz_mm) == pytest.approx(10, rel=0.15)


def test_subtlety_orders_lesions_as_they_stand_out() -> None:
    pairs = [(one.subtlety, measured_contrast(radiograph, one)) for radiograph, one in lesions()]

    ranks = [np.argsort(np.argsort(values)) for values in zip(*pairs, strict=True)]

    # Not the same quantity: the film's curve and its detail come between.
    assert len(pairs) > 25
    assert np.corrcoef(ranks)[0, 1] > 0.5


@pytest.mark.parametrize("seed", [1, 2])
def test_every_place_occurs_and_the_film_is_bright_where_something_lies_before_it(seed: int) -> None:
    body = thorax_body(seed)
    x, z = projection_grid(draw_exposure(body), SIZE)
    pixels, random = project(body, size=SIZE).pixels, np.random.default_rng(seed)
    brightness: dict[str, list[float]] = {place: [] for place in PLACES}

    for _ in range(120):
        spot = draw_spot(body, random, kind="nodule", size_mm=5.0)
        assert spot is not None
        away = np.hypot(x - spot.center_xyz_mm[0], z - spot.center_xyz_mm[2])
        brightness[spot.place].append(float(pixels.flat[np.argmin(away)]))

    medians = {place: float(np.median(values)) for place, values in brightness.items() if len(values) > 4}
    assert set(medians) == set(PLACES)
    assert medians["free lung"] < medians["behind rib"] < medians["behind heart"]
    assert medians["free lung"] < medians["behind diaphragm"]


def test_lung_boxes_are_the_patients_right_on_the_left_and_darker_than_between() -> None:
    for seed in SEEDS:
        healthy = film(seed, count=0)
        assert healthy.truth.lung_boxes_xyxy_px is not None
        right, left = healthy.truth.lung_boxes_xyxy_px
        rows = slice(max(right[1], left[1]), min(right[3], left[3]))
        between = healthy.pixels[rows, right[2] : left[0]]

        assert 0 <= right[0] < right[2] <= left[0] < left[2] <= SIZE
        assert 0.15 * SIZE < right[2] - right[0] < 0.5 * SIZE
        for box in (right, left):
            assert healthy.pixels[rows, box[0] : box[2]].mean() < between.mean() - 0.1


def test_files_of_films_that_differ_only_in_lesions_differ_in_uid(tmp_path: Path) -> None:
    films = [film(SEEDS[0], count=count) for count in (0, 1, 2)]

    written = [dcmread(write_dx(one, tmp_path)) for one in films]
    again = dcmread(write_dx(films[0], tmp_path))

    assert len({one.SOPInstanceUID for one in written}) == 3
    assert again.SOPInstanceUID == written[0].SOPInstanceUID
    assert written[0].PixelSpacing == [round(films[0].spacing_yx_mm[0], 6)] * 2
