from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.domain.code import ATTENTION_WEIGHT
from node.domain.findings import Presence
from node.domain.location import Frame, Mask, Outline, Segment, ValueMap
from node.encode.markings import PRESENT, REVIEW
from node.encode.overlay import ANATOMY, draw_overlay
from tests.displayed import Shown, anatomy_of, bare, is_color, near, nearest, only
from tests.located import NO_UNITS, NODULE
from tests.shapes import WRITERS
from tests.sources import write_slide


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shown]:
    return {shape: Shown(write(tmp_path_factory.mktemp(shape))) for shape, write in WRITERS.items()}


# --- segments


@pytest.mark.parametrize("shape", WRITERS)
def test_the_border_of_a_segment_is_drawn(shape: str, shown: dict[str, Shown]) -> None:
    view = shown[shape]
    mask = anatomy_of(view)

    body = view.body(replace(bare(view.findings), regions=(), masks=(mask,)))

    line = is_color(body, ANATOMY[0])
    plane = mask.frames.index(view.findings.regions[0].outline.frame)
    inside = nearest(mask.labels[plane] > 0, body.shape[:2])
    rows, columns = np.nonzero(line)
    assert line.sum() > 100
    # All is at the border, within an element of the mask, and all around: its middle is the segment's.
    step = max(body.shape[0] / mask.labels.shape[1], body.shape[1] / mask.labels.shape[2], 2)
    assert near(inside, step)[line].all()
    assert near(~inside, step)[line].all()
    edge_rows, edge_columns = np.nonzero(inside & near(~inside, 1))
    assert abs(rows.mean() - edge_rows.mean()) < step / 2
    assert abs(columns.mean() - edge_columns.mean()) < step / 2
    assert np.array_equal(body[~line], np.full_like(body[~line], 128))


def test_a_segment_has_the_color_of_its_region(shown: dict[str, Shown]) -> None:
    view = shown["series"]
    masks = view.findings.masks
    colors = {}
    for presence in Presence:
        findings = replace(only(view.findings, presence=presence), masks=masks)
        with_mask, without = (view.body(one) for one in (findings, replace(findings, masks=())))
        drawn = with_mask[(with_mask != without).any(axis=-1)]
        colors[presence] = {tuple(color) for color in drawn.tolist()}

    # The second segment has no region here.
    assert colors == {
        Presence.PRESENT: {PRESENT, ANATOMY[1]},
        Presence.UNDETERMINED: {REVIEW, ANATOMY[1]},
        Presence.ABSENT: {ANATOMY[1]},
    }


def test_a_small_segment_is_not_lost_in_a_large_picture(shown: dict[str, Shown]) -> None:
    view = shown["series"]
    frame = Frame(view.image.sop_instance_uid)
    view_of_large = replace(view.image, pixels=np.full((3000, 3000), 0.5, np.float32), spacing_yx_mm=None)
    labels = np.zeros((1, 3000, 3000), np.uint8)
    labels[0, 1500:1502, 700:702] = 1
    findings = replace(
        bare(view.findings), regions=(), masks=(Mask((frame,), (Segment("Dot", NODULE),), labels),)
    )

    body = draw_overlay(view_of_large, findings, "algorithm 1").pixels[:1024]

    rows, columns = np.nonzero(is_color(body, ANATOMY[0]))
    assert rows.mean() == pytest.approx(1501 * 1024 / 3000, abs=2)
    assert columns.mean() == pytest.approx(701 * 1024 / 3000, abs=2)


# --- slides


def test_what_lies_on_another_level_is_drawn_on_the_one_displayed(tmp_path: Path) -> None:
    view = Shown(write_slide(tmp_path))
    findings = only(view.findings)
    fine, coarse = (Frame(uid) for uid in findings.sop_instance_uids)
    (region,) = findings.regions
    assert view.image.frame == fine
    small = replace(
        region, outline=Outline(coarse, np.array([(50, 20), (70, 20), (70, 44), (50, 44)], np.float32))
    )

    body = view.body(replace(findings, regions=(small,)))

    line = is_color(body, PRESENT)
    # The body has 768 columns as the finer level has: four for one of the coarser.
    assert line[100:170, 200 - 2 : 200 + 2].any(axis=1).all()
    assert line[100:170, 280 - 2 : 280 + 2].any(axis=1).all()
    assert line[176 - 2 : 176 + 2, 210:270].any(axis=0).all()


@pytest.mark.parametrize("level", [0, 1])
def test_attention_is_drawn_where_it_was(level: int, shown: dict[str, Shown]) -> None:
    view = shown["slide"]
    stride = 64 if level == 0 else 16
    values = np.zeros((1, 8, 12), np.float32)
    values[0, 5, 9] = 0.02
    frame = Frame(view.findings.sop_instance_uids[level])
    attention = ValueMap("Attention", ATTENTION_WEIGHT, NO_UNITS, (frame,), values, stride)
    findings = replace(only(view.findings), maps=(*view.findings.maps, attention))

    body, without = (view.body(one) for one in (findings, replace(findings, maps=())))

    rows, columns = np.nonzero((body != without).any(axis=-1))
    assert rows.mean() == pytest.approx(5.5 * 64, abs=1)
    assert columns.mean() == pytest.approx(9.5 * 64, abs=1)
    # Translucent: the gray below is seen in it.
    assert body[round(5.5 * 64), round(9.5 * 64)].min() > 60


@pytest.mark.parametrize("presence", [Presence.UNDETERMINED, Presence.ABSENT])
def test_no_attention_is_drawn_for_what_is_not_present(presence: Presence, shown: dict[str, Shown]) -> None:
    view = shown["slide"]
    findings = only(view.findings, presence=presence)

    with_map = view.body(replace(findings, maps=view.findings.maps))

    assert np.array_equal(with_map, view.body(findings))


def test_a_map_over_slices_is_not_drawn(shown: dict[str, Shown]) -> None:
    for shape in ("series", "enhanced"):
        view = shown[shape]
        findings = only(view.findings)

        assert np.array_equal(view.body(replace(findings, maps=view.findings.maps)), view.body(findings))


def test_activation_is_not_drawn_on_a_slice_of_many(shown: dict[str, Shown]) -> None:
    view = shown["series"]
    findings = only(view.findings)

    with_score = view.body(replace(findings, scores=view.findings.scores))

    assert all(one.activation is not None for one in view.findings.scores)
    assert np.array_equal(with_score, view.body(findings))
