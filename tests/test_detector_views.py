"""What a detector's training shows: boxes go with the picture, planted lesions lie where it is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from models import detector_data  # noqa: E402
from models.detector import LABELS, LESIONS, Truth  # noqa: E402
from models.detector_data import Film  # noqa: E402
from models.detector_lessons import DetectorSettings  # noqa: E402
from models.detector_views import (  # noqa: E402
    Batch,
    Fright,
    Look,
    aim,
    cut,
    epoch_batches,
    expose,
    look_at,
    show,
    show_batch,
)
from models.planting import MOST_SUBTLETY, draw_patches, lung_fields, plant  # noqa: E402
from tests.discs import LUNGS, SIDE, disc_film, load_discs  # noqa: E402


def seeded(seed: int = 1) -> torch.Generator:
    """Return a random stream."""
    return torch.Generator().manual_seed(seed)


def bright_extent(image: torch.Tensor) -> list[int]:
    """Return the box of what is bright on an image (1, s, s)."""
    place = torch.nonzero(image[0] > 0.5)
    return [*place.amin(dim=0).flip(0).tolist(), *(place.amax(dim=0) + 1).flip(0).tolist()]


def test_labels_are_those_of_the_films() -> None:
    assert {name: LABELS.index(name) for name in detector_data.LABEL_BY_CLASS} == detector_data.LABEL_BY_CLASS


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.3, 0.8), (-1.2, 1.1)])
def test_boxes_move_with_the_picture(scale: tuple[float, float]) -> None:
    image = torch.zeros(1, SIDE, SIDE)
    image[:, 40:52, 30:46] = 1.0
    truth = Truth(torch.tensor([[30.0, 40, 46, 52]]), torch.tensor([1]))

    shown, told = look_at(image, truth, torch.tensor([44.0, 50.0]), torch.tensor(scale), 64)

    assert shown.shape == (1, 64, 64)
    # Half a pixel of rounding on each side.
    np.testing.assert_allclose(told.boxes[0], bright_extent(shown), atol=0.75)


def test_whole_films_are_shifted_and_scaled_with_their_boxes() -> None:
    film = disc_film(2)
    lung = np.zeros((SIDE, SIDE), np.uint8)
    lung[20:70, 10:40] = 255
    film = replace(film, pixels=lung, boxes=np.array([[10.0, 20, 40, 70]], np.float32), **only_one(film))

    images, truths = show([film] * 6, 1.0, seeded())

    assert not torch.equal(images[0], images[1])
    for image, truth in zip(images, truths, strict=True):
        np.testing.assert_allclose(truth.boxes[0], bright_extent(image), atol=1.0)


def only_one(film: Film) -> dict[str, np.ndarray]:
    """Return the parts of a film with one box, a right lung."""
    return {name: getattr(film, name)[:1] for name in ("labels", "subtlety", "size_mm", "places")}


def test_a_box_that_is_pushed_out_of_the_picture_is_not_told() -> None:
    truth = Truth(torch.tensor([[0.0, 40, 3, 52], [40, 40, 60, 60]]), torch.tensor([1, 2]))

    _, told = look_at(torch.zeros(1, SIDE, SIDE), truth, torch.tensor([50.0, 48]), torch.ones(2), SIDE)

    assert told.labels.tolist() == [2]
    assert (told.boxes >= 0).all()


def test_without_strength_films_are_shown_as_they_are() -> None:
    films = [disc_film(1), disc_film(2)]

    images, truths = show(films, 0.0, torch.Generator())

    np.testing.assert_allclose(images[0, 0].numpy() * 255, films[0].pixels)
    np.testing.assert_array_equal(truths[0].boxes.numpy(), films[0].boxes)


def test_an_exposure_keeps_the_range_and_differs_from_film_to_film() -> None:
    images = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8).repeat(3, 1, 1, 1)

    changed = expose(images, 1.0, seeded())

    assert 0 <= changed.min() < changed.max() <= 1
    assert (changed[0] - changed[1]).abs().mean() > 0.005


# --- pieces -----------------------------------------------------------------------------------------------


def test_a_piece_tells_of_lesions_alone() -> None:
    images, (truth,) = show([disc_film(1)], 0.0, seeded())
    left, top, right, bottom = truth.boxes[0].tolist()

    piece, told = cut(images[0], truth, ((left + right) / 2, (top + bottom) / 2), 32, 0.0, seeded())

    assert piece.shape == (1, 32, 32)
    assert set(told.labels.tolist()) <= set(LESIONS)
    assert not told.is_lung_labelled
    np.testing.assert_allclose((told.boxes[0, :2] + told.boxes[0, 2:]) / 2, [16, 16], atol=1e-4)


def test_most_pieces_hold_a_lesion_and_those_of_a_film_that_deceived_the_place() -> None:
    film, random = disc_film(1), seeded()
    centers = (film.boxes[:2, :2] + film.boxes[:2, 2:]) / 2

    aims = np.array([aim(film, None, 32, random) for _ in range(200)])
    away = np.abs(aims[:, None] - centers).max(axis=2).min(axis=1)
    deceived = np.array([aim(film, (30.0, 40.0), 32, random) for _ in range(50)])

    assert 0.75 < (away <= 16).mean() < 1
    assert (np.abs(deceived - [30, 40]) <= 16).all()


def test_an_epoch_shows_every_film_as_a_piece_and_some_as_a_whole() -> None:
    settings = DetectorSettings(out="", batch=4, crop=32, whole=0.25, mined=0.0)
    films = [*load_discs(64, 0), replace(disc_film(2), is_lesion_labelled=False)]

    batches = epoch_batches(films, Fright.none(65), settings, seeded())

    pieces = [look.number for batch in batches if batch.side for look in batch.looks]
    wholes = [look.number for batch in batches if not batch.side for look in batch.looks]
    assert sorted(pieces) == list(range(64))
    # The film of which lesions are not known teaches lungs alone, again and again.
    assert len(wholes) == 20
    assert wholes.count(64) == 4
    assert {len(batch.looks) for batch in batches if batch.side} == {8}


def test_films_that_deceive_are_shown_more_often_there_where_they_did() -> None:
    settings = DetectorSettings(out="", batch=10, mined=0.5, crop=0)
    films, fright = load_discs(100, 0), Fright.none(100)
    fright.values[8], fright.places[8] = 0.9, torch.tensor([30.0, 40.0])

    numbers, plain = (
        [look.number for batch in epoch_batches(films, one, settings, seeded()) for look in batch.looks]
        for one in (fright, Fright.none(100))
    )
    pieces = epoch_batches(films, fright, replace(settings, crop=32), seeded())

    assert len(numbers) == 100
    assert numbers.count(8) >= 50
    assert sorted(plain) == list(range(100))
    looks = [look for batch in pieces if batch.side for look in batch.looks if look.deceived_at]
    assert looks == [Look(8, (30.0, 40.0))] * 50


# --- planted lesions --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty() -> Film:
    """A film of evenly gray lungs with some grain, 256 pixels wide."""
    random = np.random.default_rng(1)
    pixels = np.full((256, 256), 180.0)
    lungs = np.array([[20.0, 30, 120, 230], [136, 30, 236, 230]], np.float32)
    for left, top, right, bottom in lungs.astype(int):
        pixels[top:bottom, left:right] = 80
    grainy = np.clip(pixels + random.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
    return replace(disc_film(2), pixels=grainy, boxes=lungs)


def test_planted_lesions_brighten_the_film_in_their_boxes_and_nowhere_else(empty: Film) -> None:
    patches, random = draw_patches(40, 1), np.random.default_rng(1)

    films = [plant(empty, patches, random) for _ in range(20)]

    planted = [film for film in films if len(film.boxes) > 2]
    assert len(planted) > 15
    for film in planted:
        added = film.pixels.astype(float) - empty.pixels
        inside = np.zeros(added.shape, np.bool_)
        for left, top, right, bottom in film.boxes[:-2].astype(int):
            inside[top:bottom, left:right] = True
            assert added[top:bottom, left:right].mean() > 1
        # A box holds what is above a quarter of a lesion's depth: the faint rest of the lesion is beside it.
        assert added[inside].sum() > 0.6 * added.sum()
        assert added.min() >= 0
        assert film.is_lesion.sum() == len(film.boxes) - 2 == (film.places == "planted").sum()
        np.testing.assert_array_equal(film.boxes[-2:], empty.boxes)
        assert ((film.subtlety[:-2] > 0.9) & (film.subtlety[:-2] <= MOST_SUBTLETY)).all()


def test_a_planted_lesion_lies_in_a_lung(empty: Film) -> None:
    patches, random = draw_patches(40, 2), np.random.default_rng(2)

    boxes = np.concatenate([plant(empty, patches, random).boxes[:-2] for _ in range(20)])

    lungs = np.array(lung_fields(empty))
    is_within = (boxes[:, None, :2] >= lungs[:, :2]) & (boxes[:, None, 2:] <= lungs[:, 2:])
    assert is_within.all(axis=2).any(axis=1).all()


def test_lesions_are_planted_only_where_none_is_known(empty: Film) -> None:
    settings = DetectorSettings(out="", planted=1.0, strength=0.0)
    films = [empty, replace(empty, is_lesion_labelled=False), disc_film(1)]
    patches = draw_patches(20, 3)

    told = [
        show_batch(films[index : index + 1], Batch((Look(0),)), patches, settings, seeded())[1][0].labels
        for index in range(3)
    ]
    _, (deceived,) = show_batch([empty], Batch((Look(0, (40.0, 40.0)),)), patches, settings, seeded())

    assert torch.isin(told[0], torch.tensor(LESIONS)).any()
    assert told[1].tolist() == [4, 5]
    assert len(told[2]) == len(disc_film(1).boxes)
    assert deceived.labels.tolist() == [4, 5]


def test_of_a_film_that_does_not_say_lungs_lie_in_both_halves() -> None:
    right, left = lung_fields(
        replace(disc_film(2), **{name: getattr(disc_film(2), name)[:0] for name in PARTS})
    )

    assert right[2] <= SIDE / 2 <= left[0]
    assert lung_fields(disc_film(2)) == [tuple(one) for one in LUNGS.astype(int).tolist()]


PARTS = ("boxes", "labels", "subtlety", "size_mm", "places")
