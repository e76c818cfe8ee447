"""The chest CT pipeline on chests whose nodules are known: where they come back, how large, and as what."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.sr.codedict import codes

from node.domain import code
from node.domain.findings import Findings, Outcome, OutOfDistribution, Presence
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.errors import GeometryError, ModelError
from node.interfaces import models_of
from node.pipelines.chest_ct import ChestCt
from node.pipelines.chest_ct.nodules import Nodule
from node.pipelines.chest_ct.results import in_order, left_out, study_scores
from node.read.volume import read_volume
from tests import ct_models, ct_phantom
from tests.ct_phantom import BALLS, Ball, volume_of
from tests.results import score
from tests.sources import real_small_ct_series
from tests.volumes import series_of

SPACING_MM = (2.5, 0.8, 0.8)
ARRANGED = [
    ("axial", (0.6, 1.0, 1.0)),
    ("axial", SPACING_MM),
    ("axial", (5.0, 0.7, 0.7)),
    ("reversed", SPACING_MM),
    ("oblique", SPACING_MM),
    ("tilted", SPACING_MM),
    ("tilted", (5.0, 0.8, 0.8)),
]
HALF_A_PIXEL = 0.5


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ct") / "repository"
    ct_models.write_ct_models(path)
    return path


@pytest.fixture(scope="module")
def engine(repository: Path) -> Iterator[OnnxEngine]:
    engine = OnnxEngine(ModelRepository(repository), 2)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return ct_phantom.write(tmp_path_factory.mktemp("chest"), ct_phantom.stack(SPACING_MM))


@pytest.fixture(scope="module")
def findings(paths: list[Path], engine: OnnxEngine) -> Findings:
    return ChestCt().analyze(series_of(paths), engine)


def measured(findings: Findings, number: int) -> dict[str, float]:
    return {one.quantity.meaning: one.value for one in findings.regions[number].measurements}


# --- geometry


@pytest.mark.parametrize(("arrangement", "spacing_mm"), ARRANGED)
def test_nodules_come_back_at_their_place_and_in_their_size(
    arrangement: str, spacing_mm: tuple[float, float, float], engine: OnnxEngine, tmp_path: Path
) -> None:
    files = ct_phantom.write(tmp_path, ct_phantom.stack(spacing_mm, arrangement))

    volume = read_volume(series_of(files))
    _, judged = ChestCt().find(volume, engine)

    nodules = [one for one in judged if one.is_reported]
    assert len(nodules) == len(BALLS)
    for ball in BALLS:
        nodule = nearest(nodules, ball)
        assert nodule.centroid_xyz_mm == pytest.approx(ball.place_xyz_mm, abs=1)
        assert nodule.volume_mm3 == pytest.approx(ball.volume_mm3, rel=0.1)
        # In slices 5 mm apart none may pass through the middle.
        longest, across = nodule.diameters_mm
        assert across <= longest < ball.diameter_mm + 0.7
        assert longest > ball.diameter_mm - 1


@pytest.mark.parametrize(("arrangement", "spacing_mm"), ARRANGED[1:])
def test_the_mask_lies_on_the_voxels_of_the_nodule(
    arrangement: str, spacing_mm: tuple[float, float, float], engine: OnnxEngine
) -> None:
    sample = ct_phantom.scan(ct_phantom.stack(spacing_mm, arrangement))
    volume = volume_of(sample)

    _, judged = ChestCt().find(volume, engine)

    for ball in BALLS:
        place = nearest(judged, ball).place
        centers = [
            volume.to_patient(np.argwhere(np.ones_like(place.mask)) + corner)
            for corner in [np.array([place.planes.start, place.box_yx[0].start, place.box_yx[1].start])]
        ]
        distance_mm = np.linalg.norm(centers[0] - ball.place_xyz_mm, axis=1).reshape(place.mask.shape)
        truth = distance_mm <= ball.diameter_mm / 2
        dice = 2 * (truth & place.mask).sum() / (truth.sum() + place.mask.sum())
        assert dice > 0.93


def nearest(nodules: list[Nodule], ball: Ball) -> Nodule:
    return min(nodules, key=lambda one: float(np.linalg.norm(one.centroid_xyz_mm - ball.place_xyz_mm)))


def test_a_nodule_between_two_thick_slices_is_not_lost(engine: OnnxEngine) -> None:
    small = Ball((-29.0, 3.3, 0.0), 7.0)
    volume = volume_of(ct_phantom.scan(ct_phantom.stack((5.0, 0.7, 0.7)), (small,)))

    _, judged = ChestCt().find(volume, engine)

    nodule = nearest(judged, small)
    assert nodule.centroid_xyz_mm == pytest.approx(small.place_xyz_mm, abs=2.5)
    assert nodule.place.mask.any()


# --- findings


def test_the_findings_are_of_the_slices_of_the_series(findings: Findings, paths: list[Path]) -> None:
    assert len(findings.sop_instance_uids) == len(paths)
    assert findings.outcome is Outcome.FINDINGS
    assert findings.algorithm.name == "chest_ct"
    assert "segmentation=chest_ct_nodules 1.2.3" in findings.algorithm.parameters


def test_every_nodule_is_a_region_a_segment_and_a_key_image(findings: Findings) -> None:
    names = [f"Nodule {number}" for number in (1, 2, 3)]
    (mask,) = findings.masks

    assert [region.identifier for region in findings.regions] == names
    assert [segment.identifier for segment in mask.segments] == names
    assert set(findings.key_frames) == {region.outline.frame for region in findings.regions}
    assert all(region.site == code.LUNG for region in findings.regions)


def test_the_mask_is_over_the_slices_with_nodules_alone(findings: Findings) -> None:
    (mask,) = findings.masks

    assert mask.labels.any(axis=(1, 2)).all()
    assert set(np.unique(mask.labels)) == {0, 1, 2, 3}
    assert mask.probability is not None
    assert mask.probability.shape == (1, *mask.labels.shape)
    assert (mask.probability[0][mask.labels > 0] >= 0.5).all()


def test_the_box_of_a_region_holds_its_segment_on_that_slice(findings: Findings) -> None:
    (mask,) = findings.masks

    for number, region in enumerate(findings.regions, 1):
        plane = mask.labels[mask.frames.index(region.outline.frame)]
        rows, columns = np.nonzero(plane == number)
        corners = [(columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)]
        points = region.outline.points_xy
        np.testing.assert_array_equal([points.min(axis=0), points.max(axis=0)], corners)


def test_what_is_measured_is_in_its_unit_and_near_the_truth(findings: Findings) -> None:
    values = sorted((measured(findings, number) for number in range(3)), key=lambda one: one["Volume"])

    for one, ball in zip(values, sorted(BALLS, key=lambda ball: ball.diameter_mm), strict=True):
        assert one["Volume"] == pytest.approx(ball.volume_mm3, rel=0.1)
        assert one["Long axis"] == pytest.approx(ball.diameter_mm, abs=0.7)
        assert one["Short axis"] <= one["Long axis"]
        assert -100 < one["Mean Attenuation Coefficient"] < ct_phantom.NODULE_HU
        assert 50 < one["Probability of cancer"] <= 100
    assert "size class" in findings.regions[0].remark


def test_the_scores_are_of_the_surest_place_and_of_the_most_suspicious(findings: Findings) -> None:
    nodule, suspicion = findings.scores

    assert (nodule.code.meaning, suspicion.code.meaning) == ("Nodule", "Probability of cancer")
    assert nodule.probability == max(region.score.probability for region in findings.regions if region.score)
    percents = [measured(findings, number)["Probability of cancer"] for number in range(3)]
    assert 100 * suspicion.probability == pytest.approx(max(percents), abs=0.1)


def test_the_entropy_is_large_on_the_edge_of_a_nodule_and_small_inside(findings: Findings) -> None:
    (entropy,) = findings.maps
    (mask,) = findings.masks

    assert set(entropy.frames) >= set(mask.frames)
    for frame, labels in zip(mask.frames, mask.labels, strict=True):
        values = entropy.values[entropy.frames.index(frame)]
        inside = labels > 0
        core = inside & np.roll(inside, 3, 0) & np.roll(inside, -3, 0) & np.roll(inside, 3, 1)
        assert core.sum() == 0 or np.median(values[core]) < 0.3
    assert 0.8 < entropy.values.max() <= 1


def test_a_map_over_every_slice_is_made_where_it_is_asked_for(paths: list[Path], engine: OnnxEngine) -> None:
    findings = ChestCt(maps_every_slice=True).analyze(series_of(paths), engine)

    assert len(findings.maps[0].frames) == len(paths)


def test_places_that_were_too_many_to_be_judged_are_told(paths: list[Path], engine: OnnxEngine) -> None:
    findings = ChestCt(most_places=2).analyze(series_of(paths), engine)

    assert len(findings.regions) <= 2
    assert "only the 2 surest were judged" in findings.remarks[-1]


# --- without nodules, without lungs


def test_lungs_without_nodules_have_a_score_and_nothing_else(engine: OnnxEngine, tmp_path: Path) -> None:
    geometry = ct_phantom.stack(SPACING_MM)
    files = ct_phantom.write(tmp_path, geometry, balls=())

    findings = ChestCt().analyze(series_of(files), engine)

    assert findings.outcome is Outcome.NO_FINDINGS
    assert [one.code.meaning for one in findings.scores] == ["Nodule"]
    assert findings.scores[0].presence is Presence.ABSENT
    assert (findings.regions, findings.masks, findings.key_frames) == ((), (), ())


def test_a_series_without_lungs_is_not_eligible_and_says_so(engine: OnnxEngine, tmp_path: Path) -> None:
    files = ct_phantom.write(tmp_path, ct_phantom.stack(SPACING_MM), lungs=0)

    findings = ChestCt().analyze(series_of(files), engine)

    assert (findings.outcome, findings.reason) == (
        Outcome.NOT_ELIGIBLE,
        "no lung was found in the series",
    )


def test_slices_of_two_stacks_are_refused_with_the_reason(
    paths: list[Path], engine: OnnxEngine, tmp_path: Path
) -> None:
    turned = ct_phantom.write(tmp_path, ct_phantom.stack(SPACING_MM, "oblique"))

    with pytest.raises(GeometryError, match="expected one stack of slices"):
        ChestCt().analyze(series_of([*paths, *turned[:9]]), engine)


def test_a_cropped_real_chest_is_read_and_says_that_lung_is_missing(tmp_path: Path) -> None:
    ct_models.write_ct_models(tmp_path, spacing_mm=(3.0, 3.0, 3.0))

    findings = ChestCt().analyze(series_of(real_small_ct_series()), OnnxEngine(ModelRepository(tmp_path), 2))

    assert findings.outcome in (Outcome.FINDINGS, Outcome.NO_FINDINGS)
    assert any("reaches the edge" in remark for remark in findings.remarks)


# --- models


def test_a_gap_in_the_series_is_told(engine: OnnxEngine, tmp_path: Path) -> None:
    files = ct_phantom.write(tmp_path, ct_phantom.stack((2.5, 1.0, 1.0)))
    del files[3]

    findings = ChestCt().analyze(series_of(files), engine)

    assert any("slice" in remark for remark in findings.remarks)


@pytest.mark.parametrize("changes", [{"input_spacing_zyx_mm": None}, {"input_shape": (2,)}])
def test_a_model_that_states_no_window_is_refused(
    changes: dict[str, object], paths: list[Path], repository: Path
) -> None:
    class Forgetful(OnnxEngine):
        def card(self, model: str):  # type: ignore[no-untyped-def]
            return replace(super().card(model), **changes)

    with pytest.raises(ModelError, match="states no spacing, or no volume"):
        ChestCt().analyze(series_of(paths), Forgetful(ModelRepository(repository), 1))


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"probability": np.zeros((2, 1, *ct_models.WINDOW))}, "output entropy is absent"),
        ({"probability": np.zeros((2, 1)), "entropy": np.zeros((2, 1))}, "output probability is"),
    ],
)
def test_answers_that_are_no_maps_are_refused(
    outputs: dict[str, np.ndarray], words: str, paths: list[Path], repository: Path
) -> None:
    class Terse(OnnxEngine):
        def infer(self, model, inputs):  # type: ignore[no-untyped-def]
            return outputs

    with pytest.raises(ModelError, match=words):
        ChestCt().analyze(series_of(paths), Terse(ModelRepository(repository), 1))


# --- doubt


def judged(probability: float, suspicion: float, strangeness: float | None = None) -> Nodule:
    scores = tuple(
        score(name, value, (value, value), Presence.PRESENT if value >= 0.5 else Presence.ABSENT)
        for name, value in ((code.LUNG, probability), (code.PROBABILITY_OF_CANCER, suspicion))
    )
    strange = None if strangeness is None else OutOfDistribution(strangeness, 1.0)
    nodule, suspect = (
        replace(one, uncertainty=replace(one.uncertainty, out_of_distribution=strange)) for one in scores
    )
    return Nodule((nodule, suspect), None, np.zeros(3), 1.0, 0.0, 0, (1.0, 1.0))  # type: ignore[arg-type]


def test_a_place_unlike_the_models_own_does_not_speak_for_the_series() -> None:
    scores = study_scores([judged(0.9, 0.9, 2.0), judged(0.7, 0.3, 0.5)])

    assert [one.probability for one in scores] == [0.7, 0.3]
    assert {one.uncertainty.out_of_distribution for one in scores} == {OutOfDistribution(0.5, 1.0)}


def test_where_all_places_are_strange_so_is_the_series() -> None:
    scores = study_scores([judged(0.9, 0.9, 2.0)])

    assert all(one.is_uncertain for one in scores)


def test_the_suspicion_of_what_is_no_nodule_counts_for_nothing() -> None:
    scores = study_scores([judged(0.9, 0.2), judged(0.1, 0.95)])

    assert [one.probability for one in scores] == [0.9, 0.2]


def doubtful(probability: float) -> Nodule:
    """A place whose threshold lies in its interval."""
    certain = judged(probability, 0.2)
    nodule, suspicion = certain.judgment
    doubt = replace(nodule, uncertainty=replace(nodule.uncertainty, interval=(0.01, 0.99)))
    return replace(certain, judgment=(doubt, suspicion))


def test_places_that_reach_the_threshold_are_listed_the_certain_ones_first() -> None:
    places = [judged(0.9, 0.2), doubtful(0.8), doubtful(0.4), judged(0.95, 0.9), judged(0.1, 0.9)]

    listed = in_order(places)

    assert [one.judgment[0].probability for one in listed] == [0.95, 0.9, 0.8]


def test_doubtful_places_below_the_threshold_are_told_of_in_number() -> None:
    assert left_out([judged(0.9, 0.2), doubtful(0.8), judged(0.1, 0.2)]) == ()
    assert left_out([doubtful(0.4)]) == (
        "1 more place is below the threshold, but not certainly no nodule (40% at most): not listed.",
    )
    assert left_out([doubtful(0.4), doubtful(0.12)]) == (
        "2 more places are below the threshold, but not certainly no nodule (40% at most): not listed.",
    )


# --- codes


@pytest.mark.parametrize(
    ("own", "standard"),
    [
        (code.VOLUME, codes.SCT.Volume),
        (code.LONG_AXIS, codes.SCT.LongAxis),
        (code.SHORT_AXIS, codes.SCT.ShortAxis),
        (code.MEAN_ATTENUATION, codes.DCM.MeanAttenuationCoefficient),
        (code.PROBABILITY_OF_CANCER, codes.DCM.ProbabilityOfCancer),
        (code.LUNG, codes.SCT.Lung),
        (code.CUBIC_MILLIMETER, codes.UCUM.CubicMillimeter),
        (code.MILLIMETER, codes.UCUM.Millimeter),
        (code.HOUNSFIELD_UNIT, codes.UCUM.HounsfieldUnit),
        (code.PERCENT, codes.UCUM.Percent),
    ],
)
def test_codes_are_those_of_the_dictionaries(own: code.Code, standard: object) -> None:
    assert own == code.Code(standard.value, standard.scheme_designator, standard.meaning)  # type: ignore[attr-defined]


# --- what a node must know of it


def test_both_models_are_known_before_a_study_comes() -> None:
    assert models_of(ChestCt(segmentation_model="another")) == ("chest_ct", "another")
