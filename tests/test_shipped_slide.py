"""The shipped models for slides: what their cards state, and what they say of slides that nobody saw."""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from node.domain.findings import Doubt, Findings, Outcome, Presence
from node.domain.study import Series
from node.eligibility import check_eligibility
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.imaging.tissue import find_tissue
from node.pipelines.slide_tumor import SlideTumor
from node.pipelines.slide_tumor.looking import read_overview
from node.read.slide import open_slide
from node.receive.slide_files import store_slide
from node.samples.slide import slide_sample
from node.samples.slide_series import SlideOptions, write_slide
from node.steps import read_series
from node.storage import Storage
from tests.conftest import SHARED_DATA
from tests.received import received
from tests.slides import made_of, series_of
from tests.sources import real_slide

REPOSITORY = Path(__file__).parent.parent / "triton_repo"
NAMES = ("slide_tumor_tiles", "slide_tumor")
MOST_BYTES = 2e6
UNSEEN_SEED, SIDE = 999_001, 4096


@pytest.fixture(scope="module")
def engine() -> OnnxEngine:
    return OnnxEngine(ModelRepository(REPOSITORY), threads=1)


@pytest.fixture(scope="module")
def measured() -> dict:
    (entry,) = card_of("slide_tumor")["metrics"]
    return entry


def card_of(name: str) -> dict:
    return json.loads((REPOSITORY / name / "card.json").read_text())


# --- what the cards state


def test_the_weights_are_those_of_the_cards_and_small() -> None:
    total = 0
    for entry in (one for name in NAMES for one in card_of(name)["weights"]):
        content = (REPOSITORY / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["file"]
        total += len(content)
    assert total < MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_was_learned(name: str) -> None:
    described = card_of(name)

    assert "not for clinical use" in described["notice"].lower()
    assert described["training"]["data"]["synthetic"]["slides"] >= 100
    assert "labels of slides alone" in described["training"]["data"]["synthetic"]["title"]


def test_slides_are_told_apart_as_wanted(measured: dict) -> None:
    assert measured["slides"] >= 60
    assert measured["command"].startswith("python -m models.evaluate slide_tumor --slides")
    assert measured["served"]["auc"][0] >= 0.97
    assert set(measured["poolings"]) == {"attention", "max", "mean"}


def test_attention_finds_the_tumor_as_wanted(measured: dict) -> None:
    assert measured["served"]["attention_pixel_auc_tissue"][0] >= 0.90
    assert measured["served"]["attention_pixel_auc_slide"][0] >= 0.90


def test_probabilities_mean_what_they_say(measured: dict) -> None:
    assert measured["served"]["calibration_error"] <= 0.05


# --- what the models say


@pytest.mark.parametrize("is_tumor", [True, False])
@pytest.mark.parametrize("organization", ["TILED_FULL", "TILED_SPARSE"])
def test_a_slide_that_nobody_saw_is_read_right(
    engine: OnnxEngine, tmp_path: Path, organization: str, is_tumor: bool
) -> None:
    sample = slide_sample(UNSEEN_SEED + is_tumor, columns=SIDE, rows=SIDE, is_tumor=is_tumor)
    paths = write_slide(sample, tmp_path, options=SlideOptions(organization=organization))

    findings = SlideTumor().analyze(series_of(paths), engine)

    (score,) = findings.scores
    assert score.presence is (Presence.PRESENT if is_tumor else Presence.ABSENT), score
    if is_tumor:
        assert share_on_tumor(findings, sample) > 0.8
    assert set(findings.sop_instance_uids) == {
        str(one.SOPInstanceUID)
        for one in (dcmread(path, stop_before_pixels=True) for path in paths)
        if one.ImageType[2] == "VOLUME"
    }


def share_on_tumor(findings: Findings, sample: object) -> float:
    """Which part of the top tiles is tumor."""
    tiles = [one for one in findings.regions if one.identifier.startswith("Tile")]
    shares = []
    for tile in tiles:
        (left, top), (right, bottom) = (
            pick(tile.outline.points_xy, axis=0).astype(int).tolist() for pick in (np.min, np.max)
        )
        shares.append(sample.tumor(0, left, top, right - left, bottom - top).mean())
    return float(np.mean(shares))


# --- real slides


@pytest.fixture(scope="module")
def prostate(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """The real DICOM slide, its UIDs cut to the 64 characters that they may have."""
    with warnings.catch_warnings(action="ignore"):
        dataset = dcmread(real_slide())
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID[:60]
        dataset.SeriesInstanceUID = dataset.SeriesInstanceUID[:60]
    path = tmp_path_factory.mktemp("prostate") / "slide.dcm"
    dataset.save_as(path)
    return made_of(received(path))


def scanned(name: str, folder: Path) -> Series:
    path = SHARED_DATA / "wsi" / name
    if not path.is_file():
        pytest.skip(f"needs ../shared/data/wsi/{name}")
    instances = store_slide(path, Storage(folder))
    return read_series(instances, instances)


def test_a_real_slide_without_a_scale_is_not_eligible(engine: OnnxEngine, prostate: Series) -> None:
    findings = SlideTumor().analyze(prostate, engine)

    assert findings.outcome is Outcome.NOT_ELIGIBLE
    assert "Pixel Spacing" in findings.reason


def test_a_real_slide_is_told_to_be_unlike_those_of_the_training(
    engine: OnnxEngine, prostate: Series, tmp_path: Path
) -> None:
    svs = scanned("CMU-1-Small-Region.svs", tmp_path)

    for series, options in ((prostate, {"assumed_micrometers_per_pixel": 0.5}), (svs, {})):
        (score,) = SlideTumor(**options).analyze(series, engine).scores

        assert Doubt.FOREIGN_IMAGE in score.doubts


def test_tissue_of_a_real_slide_lies_within_the_line_that_was_drawn_on_it(prostate: Series) -> None:
    with open_slide(prostate) as opened:
        picture, pixel_um = read_overview(opened, 0.5)

    found = find_tissue(picture, pixel_um)

    # By eye: tissue covers a good third, a yellow line is drawn around part of it, the rest is glass.
    assert found.tissue_share == pytest.approx(0.41, abs=0.05)
    assert found.pen_share == pytest.approx(0.12, abs=0.04)
    assert not found.mask[:10].any()


def test_a_fluorescence_slide_is_not_eligible(engine: OnnxEngine, tmp_path: Path) -> None:
    series = scanned("vectra-polaris_small.qptiff", tmp_path)

    verdict = check_eligibility(series, engine.card("slide_tumor").requirements)

    assert "is not in color" in verdict.reason
