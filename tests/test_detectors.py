"""From what detectors say to regions: agreement, sides, sizes, kinds, and what contradicts them."""

from dataclasses import replace

import numpy as np
import pytest
from pydicom.sr.codedict import codes

from node.domain import code
from node.domain.card import Fusion
from node.domain.findings import (
    Algorithm,
    Doubt,
    Findings,
    OutOfDistribution,
    Presence,
    Priority,
)
from node.domain.image import Image
from node.domain.location import Frame
from node.engines.card import parse_card
from node.errors import ModelError
from node.imaging.agreement import weigh_agreement
from node.interfaces import models_of
from node.pipelines.chest_xray import ChestXray
from node.pipelines.chest_xray.detectors import find_places
from node.pipelines.chest_xray.lesions import BESIDE_LUNGS, NO_LUNGS, Detected, detect_lesions
from node.triage import TriageRule, prioritize
from tests.detecting import (
    A_CONSOLIDATION,
    A_MASS,
    A_NODULE,
    A_RIGHT_LUNG,
    BOTH_LUNGS,
    DETECTORS,
    MASS,
    NODULE,
    SIZE_PX,
    DetectingEngine,
    Said,
    padded,
)
from tests.models import card

IN_RIGHT, IN_LEFT, BETWEEN = (100, 200, 160, 240), (300, 200, 360, 240), (232, 100, 268, 140)
ABSENT, PRESENT, UNDETERMINED = Presence.ABSENT, Presence.PRESENT, Presence.UNDETERMINED


def picture(
    shape: tuple[int, int] = (SIZE_PX, SIZE_PX), spacing: tuple[float, float] | None = (0.5, 0.5)
) -> Image:
    return Image("1.2.3", np.zeros(shape, np.float32), spacing, "PixelSpacing" if spacing else "")


def detected(*members: list[Said], image: Image | None = None, **engine: object) -> Detected:
    both = [[*said, *BOTH_LUNGS] for said in members]
    return detect_lesions(image or picture(), DetectingEngine(both, **engine), DETECTORS)  # type: ignore[arg-type]


def agreed(*said: Said, **changes: object) -> Detected:
    """What two members that say the same come to."""
    return detected(list(said), list(said), **changes)  # type: ignore[arg-type]


# --- agreement


def test_the_interval_is_that_of_the_members_logits() -> None:
    found = weigh_agreement(np.array([(0.9, 0.8)]), Fusion())

    # Logits 2.1972 and 1.3863: s = 0.5734; around their mean, 1.7918, 1.96 s to either side.
    assert found.probability.item() == pytest.approx(0.8571, abs=1e-4)
    assert (found.low.item(), found.high.item()) == pytest.approx((0.6611, 0.9486), abs=1e-4)
    assert found.entropy.item() == pytest.approx(0.5917, abs=1e-4)
    # The entropies of the members are 0.4690 and 0.7219: what is more than their mean.
    assert found.mutual_information.item() == pytest.approx(0.0144, abs=1e-4)


def test_calibration_changes_the_logit_and_the_constant_widens_the_interval() -> None:
    found = weigh_agreement(np.array([(0.7, 0.7)]), Fusion(slope=2.0, offset=-1.0, interval_constant=0.5))

    # The logit of 0.7 is 0.8473: 2 · 0.8473 - 1 = 0.6946, ± 1.96 · 0.5.
    assert found.probability.item() == pytest.approx(0.6670, abs=1e-4)
    assert (found.low.item(), found.high.item()) == pytest.approx((0.4291, 0.8422), abs=1e-4)


def test_members_count_by_their_weights() -> None:
    found = weigh_agreement(np.array([(0.9, 0.8)]), Fusion(weights=(0.75, 0.25)))

    # 0.75 · 2.1972 + 0.25 · 1.3863 = 1.9945.
    assert found.probability.item() == pytest.approx(0.8802, abs=1e-4)
    with pytest.raises(ValueError, match="3 weights of 2 members"):
        weigh_agreement(np.array([(0.9, 0.8)]), Fusion(weights=(1.0, 1.0, 1.0)))


def test_what_one_of_two_finds_alone_spans_the_threshold() -> None:
    alone, together = (
        weigh_agreement(np.array([members]), Fusion()) for members in ((0.98, 0.0), (0.98, 0.9))
    )

    assert alone.low.item() < 0.05 < 0.95 < alone.high.item()
    assert together.low.item() > 0.5


def test_one_member_alone_has_no_disagreement_and_none_is_ever_sure() -> None:
    found = weigh_agreement(np.array([(1.0,), (0.0,)]), Fusion())

    np.testing.assert_allclose(found.probability, [0.99, 0.01])
    np.testing.assert_allclose(found.low, found.probability)
    np.testing.assert_allclose(found.mutual_information, 0, atol=1e-9)


@pytest.mark.parametrize(
    "changes", [{"slope": 0.0}, {"slope": -1.0}, {"offset": np.nan}, {"interval_constant": -1}]
)
def test_a_fusion_that_turns_scores_round_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"slope|interval"):
        Fusion(**changes)


def test_a_card_states_the_fusion_of_each_class() -> None:
    stated = {"slope": 1.5, "offset": -0.25, "interval_constant": 0.4, "weights": [0.65, 0.35]}
    classes = card("one", {})["classes"]

    with_fusion = parse_card("one", card("one", {}, classes=[classes[0] | {"fusion": stated}]))

    assert with_fusion.classes[0].fusion == Fusion(1.5, -0.25, 0.4, (0.65, 0.35))
    assert parse_card("one", card("one", {})).classes[0].fusion == Fusion()
    for wrong in ({"slop": 1.0}, {"slope": 0}, {"slope": "steep"}, {"weights": [1, -1]}, 3):
        with pytest.raises(ModelError, match=r"card\.json"):
            parse_card("one", card("one", {}, classes=[classes[0] | {"fusion": wrong}]))


def test_a_card_states_how_often_a_disease_is_outlined() -> None:
    stated = {
        "name": "Pneumonia",
        "code": ["233604007", "SCT", "Pneumonia"],
        "share": 0.4,
        "measured_on": "x",
    }

    parsed = parse_card("one", card("one", {}, outlined=[stated]))

    assert parsed.outlined_share == {"233604007": 0.4}
    assert parse_card("one", card("one", {})).outlined_share == {}
    for wrong in (1.2, -0.1, "often"):
        with pytest.raises(ModelError, match=r"card\.json"):
            parse_card("one", card("one", {}, outlined=[stated | {"share": wrong}]))


# --- regions


def test_what_both_members_see_is_one_region_with_their_spread() -> None:
    left = [(IN_RIGHT, 0.9, A_NODULE)]
    right = [((102, 200, 162, 240), 0.8, A_NODULE)]

    (region,) = detected(left, right).regions

    assert (region.identifier, region.code) == ("Lesion 1", NODULE)
    # (0.9 · 100 + 0.8 · 102) / 1.7
    assert region.outline.points_xy.min(axis=0).tolist() == pytest.approx([100.941, 200], abs=1e-3)
    assert region.outline.points_xy.max(axis=0).tolist() == pytest.approx([160.941, 240], abs=1e-3)
    assert region.outline.frame == Frame("1.2.3")
    assert region.score is not None
    assert region.score.probability == pytest.approx(6 / 7, abs=1e-6)  # odds of 9 and 4: of 6
    assert region.score.uncertainty.spread == pytest.approx(0.05)
    assert region.score.uncertainty.interval == pytest.approx((0.6610, 0.9486), abs=1e-4)
    assert region.score.presence is PRESENT


def test_a_box_is_brought_to_the_picture() -> None:
    (region,) = agreed((IN_RIGHT, 0.9, A_NODULE), image=picture((2000, 1000))).regions

    (left, top), (right, bottom) = region.outline.points_xy[0], region.outline.points_xy[2]
    # Columns by 1000 / 512, rows by 2000 / 512.
    assert (left, right) == pytest.approx((195.3125, 312.5))
    assert (top, bottom) == pytest.approx((781.25, 937.5))


def test_an_outline_never_leaves_the_picture() -> None:
    (region,) = agreed(((-20, 480, 60, 530), 0.9, A_NODULE), image=picture((333, 777))).regions

    assert region.outline.points_xy.min() == 0
    assert region.outline.points_xy[2].tolist() == pytest.approx([60 * 777 / 512, 333])


@pytest.mark.parametrize(
    ("box", "lungs", "site", "side", "words"),
    [
        (IN_RIGHT, BOTH_LUNGS, code.LUNG, code.RIGHT, ""),
        (IN_LEFT, BOTH_LUNGS, code.LUNG, code.LEFT, ""),
        (BETWEEN, BOTH_LUNGS, None, None, BESIDE_LUNGS),
        # Half of it and more lies in the right lung.
        ((200, 200, 260, 240), BOTH_LUNGS, code.LUNG, code.RIGHT, ""),
        ((201, 200, 262, 240), BOTH_LUNGS, None, None, BESIDE_LUNGS),
        (IN_LEFT, BOTH_LUNGS[:1], None, None, BESIDE_LUNGS),
        (IN_LEFT, (), None, None, ""),
    ],
)
def test_the_side_is_that_of_the_lung_it_lies_in(
    box: tuple, lungs: tuple, site: object, side: object, words: str
) -> None:
    said = [(box, 0.9, A_NODULE), *lungs]

    found = detect_lesions(picture(), DetectingEngine([said, said]), DETECTORS)

    (region,) = found.regions
    assert (region.site, region.laterality) == (site, side)
    assert (words in region.remark) if words else (BESIDE_LUNGS not in region.remark)
    assert (NO_LUNGS in found.remarks) is (not lungs)


def test_an_unlikely_lung_is_none() -> None:
    said = [(IN_RIGHT, 0.9, A_NODULE), ((30, 60, 230, 450), 0.3, A_RIGHT_LUNG)]

    found = detect_lesions(picture(), DetectingEngine([said]), DETECTORS)

    assert found.regions[0].laterality is None
    assert found.remarks == (NO_LUNGS,)


def test_lungs_are_no_lesions() -> None:
    assert detected([], []) == Detected((), ())


def test_sizes_are_of_both_sides_in_millimeters() -> None:
    image = picture((1024, 512), (0.25, 0.8))

    (region,) = agreed((IN_RIGHT, 0.9, A_NODULE), image=image).regions

    # 60 columns of 0.8 mm, and 40 of 512 rows, which are 80 of 1024, of 0.25 mm.
    sizes = [(one.quantity, one.value, one.unit) for one in region.measurements]
    assert sizes == [(code.LONG_AXIS, 48.0, code.MILLIMETER), (code.SHORT_AXIS, 20.0, code.MILLIMETER)]


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("PixelSpacing", "at the patient"),
        ("ImagerPixelSpacing", "at the detector"),
        ("ImagerPixelSpacing/EstimatedRadiographicMagnificationFactor", "by the estimated magnification"),
        ("NominalScannedPixelSpacing", "on the scanned film"),
        ("SomeOtherSpacing", "size by SomeOtherSpacing"),
    ],
)
def test_a_size_says_where_it_was_measured(attribute: str, words: str) -> None:
    (region,) = agreed(
        (IN_RIGHT, 0.9, A_NODULE), image=replace(picture(), spacing_attribute=attribute)
    ).regions

    assert words in region.remark


def test_without_spacing_there_is_no_size() -> None:
    (region,) = agreed((IN_RIGHT, 0.9, A_NODULE), image=picture(spacing=None)).regions

    assert region.measurements == ()
    assert region.remark.startswith("size unknown")


def test_the_certain_come_first_and_then_the_likely() -> None:
    both = [(IN_LEFT, 0.7, A_NODULE), ((100, 300, 140, 340), 0.95, A_NODULE)]
    one = [*both, (IN_RIGHT, 0.99, A_MASS)]
    other = [*both, (IN_RIGHT, 0.5, A_MASS)]

    regions = detected(one, other).regions

    assert [region.identifier for region in regions] == ["Lesion 1", "Lesion 2", "Lesion 3"]
    assert [region.code for region in regions] == [NODULE, NODULE, MASS]
    assert [region.score.presence for region in regions if region.score] == [PRESENT, PRESENT, UNDETERMINED]
    assert [round(region.score.probability, 3) for region in regions if region.score] == [0.95, 0.7, 0.909]


def test_members_that_differ_on_the_kind_mean_one_lesion() -> None:
    one = [(IN_RIGHT, 0.9, A_NODULE), (IN_LEFT, 0.8, A_MASS)]
    other = [((101, 200, 161, 240), 0.8, A_MASS), (IN_LEFT, 0.8, A_MASS)]

    regions = detected(one, other).regions

    assert [region.code for region in regions] == [NODULE, MASS]
    assert [region.score.probability for region in regions if region.score] == pytest.approx([6 / 7, 0.8])
    assert regions[0].remark.startswith("some detectors call it mass; ")
    assert "call it" not in regions[1].remark


def test_the_kind_is_what_the_detectors_think_of_most_together() -> None:
    kinds = np.zeros((1, 2, 8, 3), np.float32)
    # Box by box: the one is nearly sure of a mass, the other sees about as much of a nodule.
    kinds[0, 0, 0], kinds[0, 1, 0] = (0.1, 0.9, 0.0), (0.55, 0.45, 0.0)

    (region,) = detected(
        [(IN_RIGHT, 0.8, A_MASS)], [(IN_RIGHT, 0.9, A_NODULE)], changed={"kinds": kinds}
    ).regions

    assert region.code == MASS
    assert region.remark.startswith("some detectors call it nodule; ")


def test_a_lesion_that_fills_a_lung_is_still_no_lung() -> None:
    regions = agreed((BOTH_LUNGS[0][0], 0.9, A_CONSOLIDATION)).regions

    assert [(region.code, region.laterality) for region in regions] == [(code.CONSOLIDATION, code.RIGHT)]


def test_what_is_below_the_threshold_is_no_region_but_told_where_it_is_uncertain() -> None:
    unsure = detected([(IN_RIGHT, 0.9, A_NODULE)], [])
    certain = agreed((IN_RIGHT, 0.1, A_NODULE))

    assert unsure.regions == certain.regions == ()
    assert unsure.remarks == (
        "1 more place is below the threshold, but not certainly no lesion (23% at most): no outline.",
    )
    assert certain.remarks == ()


def test_what_is_hardly_likely_at_all_is_not_told() -> None:
    # Odds of 3 and 1/99: of 0.17, and with an offset of -2 of 0.024, in an interval that spans the threshold.
    faint = detected([(IN_RIGHT, 0.75, A_NODULE)], [], fusion=Fusion(slope=1.0, offset=-2.0))

    assert faint.remarks == ()


def test_a_foreign_image_has_no_certain_lesion() -> None:
    engine = DetectingEngine([[(IN_RIGHT, 0.95, A_NODULE), (IN_LEFT, 0.4, A_NODULE)]])
    strange = OutOfDistribution(2.0, 1.0)

    found = detect_lesions(picture(), engine, DETECTORS, strange)

    (region,) = found.regions
    assert region.score is not None
    assert found.remarks == (NO_LUNGS,)
    assert region.score.doubts == (Doubt.FOREIGN_IMAGE,)
    findings = Findings("x", Algorithm("x", "1"), "1", "2", ("1.2.3",), regions=(region,))
    assert prioritize(findings, (TriageRule(finding="Nodule", priority=Priority.STAT),)) is Priority.ROUTINE


def test_calibration_of_the_card_decides() -> None:
    fusion = Fusion(slope=1.0, offset=-4.0)

    assert agreed((IN_RIGHT, 0.9, A_NODULE)).regions
    assert not agreed((IN_RIGHT, 0.9, A_NODULE), fusion=fusion).regions


# --- answers that are none

ONE = [(IN_RIGHT, 0.9, A_NODULE)]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"boxes": None}, "boxes is absent"),
        ({"scores": None}, "scores is absent"),
        ({"labels": np.ones((1, 2, 7), np.int64)}, r"labels is \[1, 2, 7\]"),
        ({"labels": np.ones((1, 8), np.int64)}, r"labels is \[1, 8\]"),
        ({"boxes": np.full((1, 2, 8, 4), np.nan, np.float32)}, "boxes is"),
        ({"boxes": np.zeros((8, 4), np.float32)}, "boxes is"),
        ({"boxes": np.zeros((2, 2, 8, 4), np.float32)}, "boxes is"),
        ({"boxes": np.zeros((1, 2, 0, 4), np.float32)}, "boxes is"),
        ({"scores": np.full((1, 2, 8), 1.5, np.float32)}, "outside 0–1"),
        ({"scores": np.full((1, 2, 8), -0.5, np.float32)}, "outside 0–1"),
        ({"labels": np.full((1, 2, 8), 6, np.int64)}, "its card does not have"),
        ({"labels": np.zeros((1, 2, 8), np.int64)}, "its card does not have"),
        ({"kinds": np.zeros((1, 2, 8, 5), np.float32)}, r"kinds is \[1, 2, 8, 5\]"),
        ({"kinds": np.full((1, 2, 8, 3), 1.5, np.float32)}, "kinds holds values outside 0–1"),
    ],
)
def test_an_answer_that_is_none_is_refused(changed: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        find_places(picture(), DetectingEngine([ONE, ONE], changed=changed), DETECTORS)


def test_a_single_detector_has_no_axis_of_members() -> None:
    single = padded([*ONE, *BOTH_LUNGS])

    places = find_places(picture(), DetectingEngine([[]], changed=single), DETECTORS)

    assert [one.score.probability for one in places] == pytest.approx([0.99, 0.99, 0.9])


def test_rounding_and_boxes_without_area_are_forgiven() -> None:
    said = [
        ((50, 50, 50, 90), 0.9, A_NODULE),
        ((350, 50, 350.0001, 90), 0.9, A_NODULE),
        ((-30, 10, -5, 40), 0.9, A_NODULE),
        (IN_RIGHT, 1.00001, A_NODULE),
    ]

    (place,) = find_places(picture(), DetectingEngine([said]), DETECTORS)

    np.testing.assert_allclose(place.box, IN_RIGHT)


# --- what a node must know of it


def test_detectors_are_asked_only_where_a_model_is_named() -> None:
    assert models_of(ChestXray(detector_model="")) == ("chest_xray",)
    assert models_of(ChestXray()) == ("chest_xray", DETECTORS)


@pytest.mark.parametrize(("own", "standard"), [(code.RIGHT, codes.SCT.Right), (code.LEFT, codes.SCT.Left)])
def test_codes_are_those_of_the_dictionaries(own: code.Code, standard: object) -> None:
    assert own == code.Code(standard.value, standard.scheme_designator, standard.meaning)  # type: ignore[attr-defined]
