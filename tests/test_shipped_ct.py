"""The shipped models for chest CT: what their cards state, and nodules found in a chest that nobody saw."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("SimpleITK")

from models import card, detection
from models.detection import as_volume, lung_field
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.pipelines.chest_ct import ChestCt
from node.pipelines.chest_ct.nodules import Nodule
from node.samples.tomography import NoduleTruth, ct_body, draw_nodules, scan_box

REPOSITORY = Path(__file__).parent.parent / "triton_repo"
LIDC = Path(__file__).parent.parent.parent / "shared" / "data" / "ct_voi"
UNSEEN_SEED = 999_000
SIZES_MM = (6.0, 8.0, 10.0, 14.0)
MOST_BYTES = 16e6
NAMES = ("chest_ct", "chest_ct_nodules")


def figures_of(name: str, data: str) -> card.Json:
    described = card.read_card(REPOSITORY / name)
    return next(entry for entry in described["metrics"] if entry["data"].startswith(data))


def test_the_weights_are_those_of_the_cards_and_small() -> None:
    total = 0
    for entry in (one for name in NAMES for one in card.read_card(REPOSITORY / name)["weights"]):
        content = (REPOSITORY / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["file"]
        total += len(content)
    assert total < MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_was_learned_and_measured(name: str) -> None:
    described = card.read_card(REPOSITORY / name)

    assert "not for clinical use" in described["notice"].lower()
    assert described["training"]["data"]["lidc"]["licence"] == "CC BY 3.0"
    assert all(
        entry["command"].startswith("python -m models.evaluate chest_ct") for entry in described["metrics"]
    )


def test_masks_of_real_nodules_are_as_good_as_wanted() -> None:
    measured = figures_of("chest_ct_nodules", "LIDC-IDRI val")

    assert measured["nodules"] == 100
    assert measured["all"]["median"][0] >= 0.80


@pytest.mark.parametrize("part", ["all", "without_indeterminate"])
def test_malignancy_is_judged_at_least_as_well_as_by_size_and_density(part: str) -> None:
    auc = figures_of("chest_ct", "LIDC-IDRI val")["malignancy"][part]["auc"]

    assert auc["ensemble"][0] >= auc["baseline"][0]


def test_nodules_are_found_as_wanted() -> None:
    measured = figures_of("chest_ct", "synthetic lungs")

    assert measured["volumes"] >= 40
    assert measured["empty"]["volumes"] >= 10
    for kind in ("all", "synthetic", "real"):
        at_two = measured["sensitivity"][kind]["4–20 mm"]["at_2"]
        assert at_two["value"] >= 0.85, kind


def test_the_nodules_of_a_chest_that_nobody_saw_are_found() -> None:
    body = ct_body(UNSEEN_SEED, scale_mm=detection.SCALES_MM[0])
    drawn = scan_box(body, lung_field(body), nodules=draw_nodules(body, 0, diameters_mm=SIZES_MM))
    engine = OnnxEngine(ModelRepository(REPOSITORY), threads=2)

    _, judged = ChestCt().find(as_volume(drawn), engine)

    listed = [one for one in judged if one.is_reported]
    found = [truth for truth in drawn.nodules if any(is_at(one, truth) for one in listed)]
    assert len(found) >= len(SIZES_MM) - 1
    assert len(listed) <= len(SIZES_MM) + 1


def is_at(nodule: Nodule, truth: NoduleTruth) -> bool:
    distance_mm = float(np.linalg.norm(nodule.centroid_xyz_mm - truth.center_xyz_mm))
    return distance_mm <= max(truth.diameter_mm / 2, detection.LEAST_RADIUS_MM)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not LIDC.is_dir(), reason="needs ../shared/data/ct_voi")
@pytest.mark.parametrize(
    ("name", "way"),
    [("chest_ct", ("malignancy", "all", "auc", "ensemble")), ("chest_ct_nodules", ("all", "median"))],
)
def test_the_figures_of_the_cards_are_measured_again(
    name: str, way: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    from models import evaluate

    assert evaluate.main([name, "--data", str(LIDC), "--json", "--repeats", "50"]) == 0

    again, stated = json.loads(capsys.readouterr().out), figures_of(name, "LIDC-IDRI val")
    for key in way:
        again, stated = again[key], stated[key]
    # Other machines round float32 differently.
    assert again[0] == pytest.approx(stated[0], abs=0.005)
