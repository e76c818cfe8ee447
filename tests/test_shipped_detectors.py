"""The shipped detectors of lesions: what their card states, and what they say of films that nobody saw."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from node.domain.findings import Findings
from node.domain.study import Series
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.engines.triton import TritonEngine
from node.imaging.boxes import pairwise_iou
from node.imaging.intensity import prepare_radiograph
from node.interfaces import Arrays
from node.pipelines.chest_xray import ChestXray
from node.samples.dicom import write_dx
from node.samples.lesions import lesion_radiograph
from node.samples.thorax import Radiograph
from tests.displayed import received
from tests.peers import REPOSITORY
from tests.peers.triton import TRITON_REPO, Triton
from tests.small_models import NewEngine

NAME = "chest_xray_lesions"
MEMBERS = ("chest_xray_faster_rcnn", "chest_xray_yolo")
MOST_BYTES = 12e6
UNSEEN_SEEDS = range(990_001, 990_021, 2)
FUSED = "fused"

# Both engines run the same files with the same library; only what nearly ties may be kept or not.
PIXELS, SCORES, LEAST_SCORE = 0.05, 1e-3, 0.05


def card_of(name: str) -> dict:
    return json.loads((REPOSITORY / "triton_repo" / name / "card.json").read_text())


@pytest.fixture(scope="module")
def measured() -> dict:
    (entry,) = card_of(NAME)["metrics"]
    return entry


@pytest.fixture(scope="module")
def engine() -> OnnxEngine:
    return OnnxEngine(ModelRepository(TRITON_REPO), threads=1)


# --- what the card states


def test_the_weights_are_those_of_the_card_and_small() -> None:
    total = 0
    for entry in card_of(NAME)["weights"]:
        content = (TRITON_REPO / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["file"]
        total += len(content)
    assert total < MOST_BYTES


def test_lesions_of_unseen_films_are_found(measured: dict) -> None:
    assert measured["films"] >= 300
    lesions = measured[FUSED]["lesions"]
    assert lesions["sensitivity_at_0.5"][0] >= 0.85
    # The table by size and by subtlety leaves no lesion out.
    for unit in (" mm", " subtlety"):
        assert (
            sum(n for name, (n, _) in lesions["groups"].items() if name.endswith(unit)) == measured["lesions"]
        )


def test_lesions_of_unseen_films_are_called_by_their_kind(measured: dict) -> None:
    assert measured[FUSED]["lesions"]["map_50"] >= 0.75


@pytest.mark.parametrize("figure", ["sensitivity_at_0.5", "map_50"])
def test_both_together_are_better_than_each(measured: dict, figure: str) -> None:
    def value(name: str) -> float:
        stated = measured[name]["lesions"][figure]
        return stated[0] if isinstance(stated, list) else stated

    assert all(value(FUSED) > value(member) for member in MEMBERS)


def test_lungs_of_real_films_are_found(measured: dict) -> None:
    assert measured[FUSED]["lungs"]["films"] >= 30
    assert measured[FUSED]["lungs"]["mean_overlap"] >= 0.80


def test_normal_real_films_show_hardly_any_lesion(measured: dict) -> None:
    assert measured[FUSED]["normals"]["films"] == 199
    assert measured[FUSED]["normals"]["false_per_film"] <= 0.5


def test_the_graphs_say_what_pytorch_said() -> None:
    parity = card_of(NAME)["parity"]

    assert parity["images"] >= 12
    for name, allowed in parity["tolerance"].items():
        assert parity["largest_difference"][name] <= allowed


# --- what they say


@pytest.fixture(scope="module")
def films() -> list[Radiograph]:
    return [lesion_radiograph(seed) for seed in UNSEEN_SEEDS]


def analyze(film: Radiograph, folder: Path, engine: OnnxEngine | TritonEngine) -> Findings:
    instance = received(write_dx(film, folder / f"{film.seed}.dcm"))
    series = Series(instance.study_instance_uid, instance.series_instance_uid, (instance,), {})
    return ChestXray().analyze(series, engine)


def test_plain_lesions_of_unseen_films_are_outlined_where_they_are(
    films: list[Radiograph], engine: OnnxEngine, tmp_path: Path
) -> None:
    found, wanted, outlines = 0, 0, 0

    for film in films:
        regions = analyze(film, tmp_path, engine).regions
        boxes = np.array([corners(one.outline.points_xy) for one in regions], np.float32).reshape(-1, 4)
        plain = [one.box_xyxy_px for one in film.truth.lesions if one.subtlety >= 2]
        overlaps = pairwise_iou(np.array(plain, np.float32).reshape(-1, 4), boxes)
        found += int((overlaps.max(axis=1, initial=0) >= 0.5).sum())
        wanted, outlines = wanted + len(plain), outlines + len(regions)

    lesions = sum(len(film.truth.lesions) for film in films)
    assert wanted >= 8
    assert found >= 0.8 * wanted
    # One that outlined everything would find them, too.
    assert outlines <= 1.5 * lesions


def corners(points: np.ndarray) -> list[float]:
    return [*points.min(axis=0), *points.max(axis=0)]


@pytest.mark.triton
def test_both_engines_find_the_same(
    films: list[Radiograph], engine: OnnxEngine, triton: Triton, new_engine: NewEngine
) -> None:
    served = new_engine(triton.url, TRITON_REPO)
    size = engine.card(NAME).input_shape[-1]
    images = np.stack([prepare_radiograph(film.pixels, size) for film in films[:4]])[:, None]

    for model in (NAME, *MEMBERS):
        ours, theirs = (list(boxes_in(one.infer(model, {"image": images}))) for one in (engine, served))

        assert len(ours) == len(theirs) > 0
        for (key, box, score), (other_key, other_box, other_score) in zip(ours, theirs, strict=True):
            assert key == other_key
            assert box == pytest.approx(other_box, abs=PIXELS)
            assert score == pytest.approx(other_score, abs=SCORES)


def boxes_in(answer: Arrays) -> Iterator[tuple[tuple[int, ...], list[float], float]]:
    """Each likely box: its image, member and label, where it is, how likely; in an order of its own."""
    boxes, scores, labels = (np.asarray(answer[name]) for name in ("boxes", "scores", "labels"))
    places = [tuple(map(int, one)) for one in np.argwhere(scores >= LEAST_SCORE)]
    keys = {place: (*place[:-1], int(labels[place])) for place in places}
    for place in sorted(places, key=lambda one: (keys[one], *boxes[one].round(1).tolist())):
        yield keys[place], boxes[place].tolist(), float(scores[place])
