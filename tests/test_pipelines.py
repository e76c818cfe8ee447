import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

import node.pipelines
from node.domain.card import ModelCard, ModelClass
from node.domain.code import Code
from node.domain.findings import Doubt, Findings, Outcome, OutOfDistribution, Presence, Priority
from node.domain.study import Instance, Series
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.errors import DatasetError, GeometryError, ModelError
from node.imaging.boxes import pairwise_iou
from node.imaging.intensity import prepare_radiograph
from node.interfaces import Arrays, Engine, Pipeline, models_of
from node.pipelines.chest_xray import ChestXray
from node.read.projection import read_projection
from node.samples.demo import RADIOGRAPHS, RadiographStudy
from tests.datasets import RAMP, instance, radiograph, save
from tests.peers import REPOSITORY

MODELS = REPOSITORY / "triton_repo"
ALLOWED_IMPORTS = ("read", "imaging", "domain", "errors", "interfaces", "pipelines")
CODES = (Code("1", "99TEST", "One"), Code("2", "99TEST", "Two"))
MAPS = np.stack([np.full((4, 4), 0.25), np.full((4, 4), 1.00001)])
CLASSIFIER = ChestXray(detector_model="")
ABSENT, PRESENT, BOTH, NEITHER = (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.0)


@dataclasses.dataclass
class FakeEngine:
    """Answers every image with the same numbers, and remembers what it was asked."""

    probability: tuple[float, ...] = (0.9, 0.2)
    interval: tuple[tuple[float, float], ...] = ((0.8, 0.95), (0.1, 0.3))
    prediction_set: tuple[tuple[float, float], ...] | None = None
    out_of_distribution: tuple[float, ...] | None = None
    activation_map: NDArray[np.float64] | None = dataclasses.field(default_factory=lambda: MAPS)
    coverage: float | None = None
    strangest: float | None = None
    asked: list[tuple[str, Arrays]] = dataclasses.field(default_factory=list)

    def infer(self, model: str, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        self.asked.append((model, inputs))
        numbers = {
            "probability": self.probability,
            "interval": self.interval,
            "spread": (0.01, 0.02),
            "entropy": (0.3, 0.7),
            "mutual_information": (0.0, 0.1),
        }
        answers = {
            **numbers,
            "prediction_set": self.prediction_set,
            "out_of_distribution": self.out_of_distribution,
            "activation_map": self.activation_map,
        }
        return {
            name: np.asarray(values, dtype=np.float32)[np.newaxis]
            for name, values in answers.items()
            if values is not None
        }

    def card(self, model: str) -> ModelCard:
        classes = tuple(ModelClass(code, 0.5) for code in CODES)
        parts = ((1, 16, 16), classes, (), ("size=16",))
        return ModelCard(model, "1.0", "tests", *parts, self.coverage, self.strangest)

    def check(self, model: str) -> None:
        """Nothing can be wrong with it."""

    def prioritized(self, priority: Priority) -> "FakeEngine":
        return self

    def buffer(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
        return np.empty(shape, dtype)

    def close(self) -> None:
        """It holds nothing."""


def series(*instances: Instance) -> Series:
    return Series("1.2.1", "1.2.2", instances, {})


@pytest.fixture
def frontal(tmp_path: Path) -> Instance:
    return save(radiograph(RAMP, BitsStored=12, ViewPosition="PA", PatientOrientation=["L", "F"]), tmp_path)


# --- what every pipeline is


def pipelines() -> Iterator[type[Pipeline]]:
    packages = (one for one in pkgutil.iter_modules(node.pipelines.__path__, "node.pipelines.") if one.ispkg)
    for module in packages:
        found = [
            one
            for one in vars(importlib.import_module(module.name)).values()
            if inspect.isclass(one) and one.__module__ == module.name and hasattr(one, "analyze")
        ]
        assert found, f"{module.name} holds no pipeline"
        yield from found


@pytest.mark.parametrize("pipeline", list(pipelines()))
def test_pipeline_is_a_frozen_value_with_a_model(pipeline: type[Pipeline]) -> None:
    made = pipeline()

    assert dataclasses.is_dataclass(pipeline)
    assert made == pipeline()
    assert hash(made) == hash(pipeline())
    assert isinstance(made.model, str)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.model = "another"  # type: ignore[misc]


@pytest.mark.parametrize("pipeline", list(pipelines()))
def test_pipeline_keeps_to_its_imports(pipeline: type[Pipeline]) -> None:
    lines = inspect.getsource(importlib.import_module(pipeline.__module__)).splitlines()
    imported = [line.split()[1].split(".")[1] for line in lines if line.startswith("from node.")]

    assert set(imported) <= set(ALLOWED_IMPORTS)
    assert not any(name in line for line in lines for name in ("pydicom", "onnxruntime", "dbos"))


# --- chest_xray


def test_scores_follow_the_card(frontal: Instance) -> None:
    findings = CLASSIFIER.analyze(series(frontal), FakeEngine())

    assert findings.sop_instance_uids == (frontal.sop_instance_uid,)
    assert (findings.algorithm.name, findings.algorithm.version) == ("chest_xray", "1.0")
    assert findings.algorithm.parameters == ("size=16",)
    assert [score.code for score in findings.scores] == list(CODES)
    assert [score.presence for score in findings.scores] == [Presence.PRESENT, Presence.ABSENT]
    assert findings.scores[0].probability == pytest.approx(0.9)
    assert findings.scores[1].uncertainty.entropy == pytest.approx(0.7)
    assert findings.outcome is Outcome.FINDINGS


def test_network_gets_what_it_was_trained_on(frontal: Instance) -> None:
    engine = FakeEngine()

    ChestXray(model="another", detector_model="").analyze(series(frontal), engine)

    ((model, inputs),) = engine.asked
    assert model == "another"
    assert inputs["image"].dtype == np.float32
    wanted = prepare_radiograph(read_projection(frontal).pixels, 16)
    assert np.array_equal(inputs["image"], wanted[np.newaxis, np.newaxis])


def test_activation_map_is_in_range_and_per_class(frontal: Instance) -> None:
    findings = CLASSIFIER.analyze(series(frontal), FakeEngine())

    maps = [score.activation for score in findings.scores]
    assert all(one is not None and one.dtype == np.float32 and one.shape == (4, 4) for one in maps)
    assert [float(one.max()) for one in maps if one is not None] == [0.25, 1.0]


def test_rounding_does_not_push_a_probability_out_of_its_interval(frontal: Instance) -> None:
    engine = FakeEngine(probability=(1.0000001, 0.5), interval=((0.9, 0.99999994), (0.50000006, 0.6)))

    findings = CLASSIFIER.analyze(series(frontal), engine)

    assert findings.scores[0].uncertainty.interval[1] == 1
    assert findings.scores[1].uncertainty.interval[0] == 0.5


@pytest.mark.parametrize(
    "engine",
    [
        FakeEngine(probability=(float("nan"), 0.5)),
        FakeEngine(probability=(0.5, 0.5, 0.5)),
        FakeEngine(interval=((0, 1), (0, float("inf")))),
        FakeEngine(activation_map=np.full((2, 4, 4), np.nan)),
        FakeEngine(activation_map=np.zeros((3, 4, 4))),
        FakeEngine(activation_map=np.zeros((2, 4))),
        FakeEngine(activation_map=np.zeros((2, 0, 4))),
        FakeEngine(coverage=0.95),
        FakeEngine(coverage=0.95, prediction_set=(PRESENT,)),
        FakeEngine(coverage=0.95, prediction_set=(PRESENT, (0.5, 1.0))),
        FakeEngine(coverage=0.95, prediction_set=(PRESENT, (float("nan"), 1.0))),
        FakeEngine(strangest=1.5),
        FakeEngine(strangest=1.5, out_of_distribution=(0.5, 0.5)),
        FakeEngine(strangest=1.5, out_of_distribution=(float("nan"),)),
    ],
)
def test_answers_that_are_not_what_the_card_says_are_refused(frontal: Instance, engine: Engine) -> None:
    with pytest.raises(ModelError, match="output "):
        CLASSIFIER.analyze(series(frontal), engine)


@pytest.mark.parametrize(
    ("sets", "doubts"),
    [
        ((PRESENT, ABSENT), ((), ())),
        ((BOTH, ABSENT), ((Doubt.BOTH_ANSWERS,), ())),
        ((PRESENT, BOTH), ((), (Doubt.BOTH_ANSWERS,))),
        ((NEITHER, NEITHER), ((Doubt.NEITHER_ANSWER,), (Doubt.NEITHER_ANSWER,))),
        ((ABSENT, PRESENT), ((Doubt.OTHER_ANSWER,), (Doubt.OTHER_ANSWER,))),
    ],
)
def test_each_score_has_its_own_prediction_set(
    frontal: Instance, sets: tuple[tuple[float, float], ...], doubts: tuple[tuple[Doubt, ...], ...]
) -> None:
    engine = FakeEngine(prediction_set=sets, coverage=0.95)

    findings = CLASSIFIER.analyze(series(frontal), engine)

    assert tuple(score.doubts for score in findings.scores) == doubts
    stated = [score.uncertainty.prediction_set for score in findings.scores]
    assert [one.coverage for one in stated if one] == [0.95, 0.95]


@pytest.mark.parametrize(("strangeness", "is_foreign"), [(1.25, False), (1.5, False), (1.75, True)])
def test_an_image_stranger_than_the_card_allows_leaves_no_score_certain(
    frontal: Instance, strangeness: float, is_foreign: bool
) -> None:
    engine = FakeEngine(out_of_distribution=(strangeness,), strangest=1.5)

    findings = CLASSIFIER.analyze(series(frontal), engine)

    assert findings.out_of_distribution == OutOfDistribution(strangeness, 1.5)
    assert [score.is_uncertain for score in findings.scores] == [is_foreign, is_foreign]
    assert [score.presence for score in findings.scores] == (
        [Presence.UNDETERMINED] * 2 if is_foreign else [Presence.PRESENT, Presence.ABSENT]
    )


def test_what_the_card_does_not_speak_of_is_not_used(frontal: Instance) -> None:
    engine = FakeEngine(prediction_set=(BOTH, NEITHER), out_of_distribution=(99.0,))

    findings = CLASSIFIER.analyze(series(frontal), engine)

    assert findings.out_of_distribution is None
    assert not any(score.is_uncertain for score in findings.scores)


def test_a_model_without_maps_gives_scores_without_them(frontal: Instance) -> None:
    findings = CLASSIFIER.analyze(series(frontal), FakeEngine(activation_map=None))

    assert [score.activation for score in findings.scores] == [None, None]


def test_frontal_image_is_found_behind_a_lateral_and_a_scout(frontal: Instance, tmp_path: Path) -> None:
    lateral = save(radiograph(RAMP, ViewPosition="LL"), tmp_path)
    scout = save(radiograph(RAMP, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path)

    findings = CLASSIFIER.analyze(series(lateral, scout, frontal), FakeEngine())

    assert findings.sop_instance_uids == (frontal.sop_instance_uid,)


def test_series_without_frontal_image_is_refused(tmp_path: Path) -> None:
    lateral = save(radiograph(RAMP, ViewPosition="LL"), tmp_path)

    with pytest.raises(DatasetError, match="no instance is a frontal radiograph"):
        CLASSIFIER.analyze(series(lateral), FakeEngine())


@pytest.mark.parametrize(
    ("orientation", "is_upright"),
    [
        (["L", "F"], True),
        (["LP", "FA"], True),
        ("", True),
        (["R", "F"], False),
        (["L", "H"], False),
        (["R", "H"], False),
        (["F", "L"], False),
    ],
)
def test_image_that_says_it_is_turned_or_mirrored_is_refused(
    tmp_path: Path, orientation: object, is_upright: bool
) -> None:
    image = save(radiograph(RAMP, ViewPosition="AP", PatientOrientation=orientation), tmp_path)

    if is_upright:
        assert isinstance(CLASSIFIER.analyze(series(image), FakeEngine()), Findings)
    else:
        with pytest.raises(GeometryError, match="expected L and F"):
            CLASSIFIER.analyze(series(image), FakeEngine())


# --- golden cases: the shipped weights on the samples, whose truth is known


@pytest.fixture(scope="module")
def shipped() -> OnnxEngine:
    if not (MODELS / "chest_xray" / "card.json").is_file():
        pytest.skip("needs the exported model: python -m models.export chest_xray")
    return OnnxEngine(ModelRepository(MODELS), threads=1)


def test_shipped_chest_xray_is_whole(shipped: OnnxEngine) -> None:
    for model in models_of(ChestXray()):
        shipped.check(model)


def outlines_of(findings: Findings) -> list[np.ndarray]:
    return [region.outline.points_xy for region in findings.regions if region.outline]


@pytest.mark.parametrize("sample", RADIOGRAPHS, ids=lambda one: one.name)
def test_shipped_chest_xray_finds_what_is_in_the_samples(
    shipped: OnnxEngine, sample: RadiographStudy, tmp_path: Path
) -> None:
    (path,) = sample.write(tmp_path)

    findings = ChestXray().analyze(series(instance(path)), shipped)

    scores = {score.code.meaning: round(score.probability, 3) for score in findings.scores}
    assert findings.outcome == sample.expected_outcome, scores
    # A score that abstains makes an outcome of findings too; a sample's finding must be found.
    is_found = any(score.presence is Presence.PRESENT for score in findings.scores)
    assert is_found is (sample.expected_outcome == "findings"), [score.doubts for score in findings.scores]
    truth = sample.truth.box_xyxy_px
    wanted = np.array([truth] if truth else [], np.float32).reshape(-1, 4)
    corners = [[*points.min(axis=0), *points.max(axis=0)] for points in outlines_of(findings)]
    overlaps = pairwise_iou(np.array(corners, np.float32).reshape(-1, 4), wanted)
    assert overlaps.shape == (len(wanted), len(wanted))
    assert (overlaps >= 0.8).all()
