"""Films for the detectors: what is on them, what is known of them, and that they are kept."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import detector_data
from models.data import DataFolderError, to_bytes
from models.detector_data import (
    FREE_LICENCES,
    LABEL_BY_CLASS,
    SIZE,
    TRAIN_SEED,
    Film,
    draw_film,
    draw_thorax_film,
    load_films,
    read_film,
    read_lung_films,
    read_normal_films,
    read_pneumonia_films,
    write_film,
)
from models.film_clutter import Field, add_clutter, draw_field
from node.imaging.intensity import prepare_radiograph
from node.samples.lesions import lesion_radiograph
from node.samples.thorax import Radiograph, thorax_radiograph

REAL = Path(__file__).parents[2] / "shared" / "data" / "cxr"
needs_real = pytest.mark.skipif(not (REAL / "boxes.csv").is_file(), reason=f"no real radiographs in {REAL}")

NUMBERS_OF_LUNGS = [LABEL_BY_CLASS["Right lung"], LABEL_BY_CLASS["Left lung"]]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Film]:
    """Four films, kept in a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detector_data, "CACHE", tmp_path_factory.mktemp("cache"))
        return load_films(4, TRAIN_SEED)


@pytest.fixture(scope="module")
def radiograph() -> Radiograph:
    return lesion_radiograph(5, count=2, size=256)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder as the real one, its images 80 × 40 pixels, their right halves bright."""
    labels = [
        ("covid/a.jpg", "covid", "covid19", "", "p1", "train", "CC BY 4.0"),
        ("covid/b.jpg", "covid", "covid19", "", "p2", "train", "CC BY-NC-SA 4.0"),
        ("covid/c.jpg", "covid", "covid19", "", "p3", "val", "CC BY"),
        ("kermany/d.jpg", "kermany", "normal", "normal", "p4", "train", "CC BY 4.0"),
        ("kermany/e.jpg", "kermany", "pneumonia", "bacteria", "p5", "train", "CC BY 4.0"),
    ]
    pixels = np.repeat(np.asarray([[40, 200]], np.uint8), 40, axis=1).repeat(40, axis=0)
    for file, *_ in labels:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / file, quality=95)
    titles = ("file", "dataset", "label", "label_detail", "group", "split", "licence")
    _write_table(tmp_path / "labels.csv", titles, labels)
    both = (("left_lung", 44, 10, 30, 20), ("right_lung", 4, 5, 34, 30))
    boxes = [(line[0], line[5], *box) for line in labels[:3] for box in both]
    _write_table(tmp_path / "boxes.csv", ("file", "split", "class", "x", "y", "width", "height"), boxes)
    return tmp_path


def _write_table(path: Path, titles: tuple[str, ...], lines: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([titles, *lines])


def test_every_other_film_has_lesions_and_all_have_both_lungs(films: list[Film]) -> None:
    for seed, film in enumerate(films, start=TRAIN_SEED):
        assert bool(film.is_lesion.any()) == (seed % 2 == 1)
        assert film.labels[~film.is_lesion].tolist() == NUMBERS_OF_LUNGS
        assert film.is_lesion_labelled
        assert film.is_lung_labelled
        assert film.group == f"synthetic-{seed}"


def test_films_are_what_a_detector_takes(films: list[Film]) -> None:
    for film in films:
        assert film.pixels.shape == (SIZE, SIZE)
        assert film.pixels.dtype == np.uint8
        # Stretched as for serving: both ends of the range are used.
        assert (film.pixels.min(), film.pixels.max()) == (0, 255)
        assert film.boxes.dtype == np.float32
        assert film.labels.dtype == np.int64
        assert np.isfinite(film.size_mm[film.is_lesion]).all()
        assert np.isnan(film.size_mm[~film.is_lesion]).all()
        assert set(film.places[~film.is_lesion]) == {""}


def test_films_once_drawn_are_only_read(
    films: list[Film], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector_data, "CACHE", tmp_path)
    folder = tmp_path / f"films-{SIZE}-{detector_data.version()}"
    folder.mkdir()
    for seed, film in enumerate(films, start=TRAIN_SEED):
        write_film(folder / f"{seed}.npz", film)
    monkeypatch.setattr(detector_data, "draw_film", None)

    again = load_films(4, TRAIN_SEED)

    assert [film.group for film in again] == [film.group for film in films]
    for first, second in zip(films, again, strict=True):
        assert np.array_equal(first.pixels, second.pixels)
        assert np.array_equal(first.boxes, second.boxes)


def test_same_seed_gives_the_same_film(films: list[Film]) -> None:
    again = draw_film(TRAIN_SEED + 1)

    assert np.array_equal(again.pixels, films[1].pixels)
    assert np.array_equal(again.boxes, films[1].boxes)
    assert np.array_equal(again.subtlety, films[1].subtlety, equal_nan=True)


def test_written_film_is_read_as_it_was(films: list[Film], tmp_path: Path) -> None:
    marked = replace(films[1], is_lung_labelled=False)

    write_film(tmp_path / "1.npz", marked)
    read = read_film(tmp_path / "1.npz")

    for name in Film.__slots__:
        np.testing.assert_array_equal(getattr(read, name), getattr(marked, name))
    assert [path.name for path in tmp_path.iterdir()] == ["1.npz"]


@pytest.mark.parametrize(
    "box",
    [(10, 10, 10, 20), (10, 20, 20, 10), (-1, 0, 9, 9), (500, 500, 513, 512)],
    ids=["no width", "upside down", "left of the film", "right of the film"],
)
def test_box_that_holds_nothing_or_leaves_the_film_is_refused(
    box: tuple[float, ...], films: list[Film]
) -> None:
    boxes = films[0].boxes.copy()
    boxes[0] = box

    with pytest.raises(DataFolderError, match="empty or leaves"):
        replace(films[0], boxes=boxes)


def test_parts_of_different_lengths_are_refused(films: list[Film]) -> None:
    with pytest.raises(DataFolderError, match="parts of"):
        replace(films[0], labels=films[0].labels[:1])


def test_boxes_follow_the_field_that_is_taken_of_a_film() -> None:
    field = Field(20, 10, 60, 90)
    boxes = np.asarray([[20, 10, 60, 90], [30, 30, 40, 50], [0, 0, 40, 100]], np.float32)

    scaled = field.scale_boxes(boxes, 160)

    # 40 × 80 pixels become 160 × 160: four times as wide, twice as high.
    assert scaled.tolist() == [[0, 0, 160, 160], [40, 40, 80, 80], [0, 0, 80, 160]]


def test_boxes_lie_on_the_same_pixels_before_and_after_a_field_is_cut_and_squeezed() -> None:
    pixels = np.zeros((100, 100), np.float32)
    pixels[30:50, 40:45] = 1
    field = Field(20, 10, 70, 90)

    prepared = prepare_radiograph(pixels[field.slices()], 400)
    left, top, right, bottom = field.scale_boxes(np.asarray([[40, 30, 45, 50]], np.float32), 400)[0]

    rows, columns = np.nonzero(prepared > 0.5)
    assert (columns.min(), rows.min()) == pytest.approx((left, top), abs=1)
    assert (columns.max() + 1, rows.max() + 1) == pytest.approx((right, bottom), abs=1)


def test_a_field_holds_both_lungs_and_every_lesion(radiograph: Radiograph) -> None:
    truth = radiograph.truth
    assert truth.lung_boxes_xyxy_px is not None
    boxes = np.asarray([*truth.lung_boxes_xyxy_px, *(one.box_xyxy_px for one in truth.lesions)])
    random = np.random.default_rng(0)

    fields = [draw_field(random, radiograph) for _ in range(60)]

    whole = Field(0, 0, 256, 256)
    assert 0.2 < np.mean([field == whole for field in fields]) < 0.6
    for field in fields:
        assert 0 <= field.left <= boxes[:, 0].min() < boxes[:, 2].max() <= field.right <= 256
        assert 0 <= field.top <= boxes[:, 1].min() < boxes[:, 3].max() <= field.bottom <= 256


def test_clutter_lies_on_some_films_and_covers_little(radiograph: Radiograph) -> None:
    random = np.random.default_rng(0)
    field = Field(0, 0, 256, 256)

    changed = [(add_clutter(random, radiograph, field) != radiograph.pixels).mean() for _ in range(60)]

    assert 0.4 < np.mean(np.asarray(changed) > 0) < 0.9
    assert max(changed) < 0.05
    assert add_clutter(random, radiograph, field).max() <= 1


def test_only_free_images_with_lung_boxes_are_read_for_training(folder: Path) -> None:
    films = read_lung_films(folder, split="train", size=160)

    assert [film.group for film in films] == ["p1"]
    # 80 × 40 pixels become 160 × 160: twice as wide, four times as high. The right lung comes first.
    assert films[0].boxes.tolist() == [[8, 20, 76, 140], [88, 40, 148, 120]]
    assert films[0].labels.tolist() == NUMBERS_OF_LUNGS
    assert films[0].is_lung_labelled
    assert not films[0].is_lesion_labelled


def test_other_images_are_read_when_their_licence_is_named(folder: Path) -> None:
    films = read_lung_films(folder, split="train", size=32, licences=(*FREE_LICENCES, "CC BY-NC-SA 4.0"))

    assert [film.group for film in films] == ["p1", "p2"]
    assert len(read_lung_films(folder, split="train", size=32, licences=None)) == len(films)


def test_thoraxes_tell_their_consolidation_and_nothing_of_their_lungs() -> None:
    ill, healthy = (draw_thorax_film(seed, 96) for seed in (850_001, 850_002))

    truth = thorax_radiograph(850_001, finding="consolidation", size=96).truth
    assert ill.boxes.tolist() == [list(truth.box_xyxy_px or ())]
    assert ill.labels.tolist() == [LABEL_BY_CLASS["Consolidation"]]
    assert ill.size_mm[0] == pytest.approx(truth.diameter_mm)
    assert len(healthy) == 0
    assert all(film.is_lesion_labelled and not film.is_lung_labelled for film in (ill, healthy))


def test_normal_films_have_no_lesion_and_unknown_lungs(folder: Path) -> None:
    films = read_normal_films(folder, split="train", size=32)

    assert [film.group for film in films] == ["p4"]
    assert len(films[0]) == 0
    assert films[0].is_lesion_labelled
    assert not films[0].is_lung_labelled


def test_a_film_with_one_lung_box_alone_does_not_tell_all_lungs(folder: Path) -> None:
    table = folder / "boxes.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line for line in lines if "left_lung" not in line))

    (film,) = read_lung_films(folder, split="train", size=32)

    assert len(film) == 1
    assert not film.is_lung_labelled


def test_folder_without_boxes_is_refused(folder: Path) -> None:
    (folder / "boxes.csv").unlink()

    with pytest.raises(DataFolderError, match=r"boxes\.csv"):
        read_lung_films(folder, split="train")


@needs_real
def test_real_lungs_lie_side_by_side_and_no_patient_is_on_both_sides() -> None:
    held_out = read_lung_films(REAL, split="val", size=64)
    patients = {line["group"] for line in _lines("train")} & {line["group"] for line in _lines("val")}

    assert len(held_out) == 12
    assert not patients
    for film in held_out:
        right, left = film.boxes
        assert (right[0] + right[2]) / 2 < (left[0] + left[2]) / 2


def _lines(split: str) -> list[dict[str, str]]:
    with (REAL / "labels.csv").open(newline="", encoding="utf-8") as stream:
        return [line for line in csv.DictReader(stream) if line["split"] == split]


@needs_real
def test_real_normal_radiographs_are_as_many_as_are_held_out() -> None:
    films = read_normal_films(REAL, split="val", size=32)

    assert len(films) == 199
    assert not any(len(film) for film in films)
    assert films[0].pixels.dtype == to_bytes(np.zeros(1, np.float32)).dtype


@needs_real
def test_of_radiographs_with_pneumonia_no_lesion_is_known() -> None:
    films = read_pneumonia_films(REAL, split="val", size=32)

    assert len(films) == 523
    assert not any(film.is_lesion_labelled or film.is_lung_labelled for film in films)
