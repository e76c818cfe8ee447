from dataclasses import replace

import numpy as np
import pytest

from node.domain.findings import Presence
from node.domain.location import Outline
from node.encode.caption import bar_mm
from node.encode.markings import PRESENT, REVIEW, markings
from node.encode.overlay import MOST_LINES, draw_overlay
from tests.displayed import (
    LINE_REACH,
    WHITE,
    Shown,
    anatomy_of,
    bare,
    box_of,
    distance_to_box,
    is_color,
    only,
)
from tests.shapes import WRITERS, foreign


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shown]:
    return {shape: Shown(write(tmp_path_factory.mktemp(shape))) for shape, write in WRITERS.items()}


@pytest.mark.parametrize("shape", WRITERS)
def test_the_box_is_where_the_region_is_on_all_four_sides(shape: str, shown: dict[str, Shown]) -> None:
    view = shown[shape]
    findings = only(view.findings)

    body = view.body(findings)

    left, top, right, bottom = box_of(view, findings, body.shape[:2])
    line = is_color(body, PRESENT)
    rows, columns = slice(round(top) + 6, round(bottom) - 6), slice(round(left) + 6, round(right) - 6)
    for side in (
        line[rows, round(left) - 2 : round(left) + 2].any(axis=1),
        line[rows, round(right) - 2 : round(right) + 2].any(axis=1),
        line[round(top) - 2 : round(top) + 2, columns].any(axis=0),
        line[round(bottom) - 2 : round(bottom) + 2, columns].any(axis=0),
    ):
        assert side.size > 20
        assert side.all()


@pytest.mark.parametrize("presence", [Presence.PRESENT, Presence.UNDETERMINED])
@pytest.mark.parametrize("shape", WRITERS)
def test_nothing_is_drawn_elsewhere(shape: str, presence: Presence, shown: dict[str, Shown]) -> None:
    view = shown[shape]
    findings = only(view.findings, presence=presence)

    body, empty = view.body(findings), view.body(replace(findings, regions=()))

    touched = (body != empty).any(axis=-1)
    beside = touched & (distance_to_box(touched.shape, box_of(view, findings, touched.shape)) > LINE_REACH)
    # What is left is the label: one filled rectangle, next to the line.
    rows, columns = np.nonzero(beside)
    label = beside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert label.all()
    assert 12 < label.shape[0] < 40
    assert label.shape[1] < 200
    assert distance_to_box(touched.shape, box_of(view, findings, touched.shape))[beside].min() < 8


@pytest.mark.parametrize("shape", WRITERS)
def test_what_is_absent_or_foreign_is_not_drawn(shape: str, shown: dict[str, Shown]) -> None:
    view = shown[shape]
    empty = view.body(replace(bare(view.findings), regions=()))

    for findings in (
        only(view.findings, presence=Presence.ABSENT),
        bare(foreign(replace(view.findings, regions=only(view.findings).regions))),
        foreign(view.findings),
        replace(foreign(view.findings), masks=(anatomy_of(view),)),
    ):
        assert np.array_equal(view.body(findings), empty)


def test_what_lies_on_another_picture_is_not_drawn(shown: dict[str, Shown]) -> None:
    for shape in ("series", "enhanced"):
        view = shown[shape]
        (region,) = only(view.findings).regions
        other = next(one for one in view.findings.masks[0].frames if one != region.outline.frame)
        moved = replace(region, outline=Outline(other, region.outline.points_xy))
        findings = only(view.findings)

        body = view.body(replace(findings, regions=(moved,)))

        assert np.array_equal(body, view.body(replace(findings, regions=())))


def test_an_uncertain_region_is_dashed_and_amber(shown: dict[str, Shown]) -> None:
    view = shown["radiograph"]
    shares = {}
    for presence, color in ((Presence.PRESENT, PRESENT), (Presence.UNDETERMINED, REVIEW)):
        findings = only(view.findings, presence=presence)
        body = view.body(findings)
        left, _, right, bottom = map(round, box_of(view, findings, body.shape[:2]))

        line = is_color(body, color)[bottom - 2 : bottom + 2, left + 4 : right - 4].any(axis=0)
        shares[presence] = line.mean()

    assert shares[Presence.PRESENT] == 1
    assert 0.5 < shares[Presence.UNDETERMINED] < 0.8


def test_a_polygon_is_drawn_through_its_points(shown: dict[str, Shown]) -> None:
    view = shown["series"]
    frame = view.findings.regions[0].outline.frame
    corners = np.array([(10, 12), (30, 20), (18, 50)], np.float32)
    region = replace(only(view.findings).regions[0], outline=Outline(frame, corners))

    body = view.body(replace(only(view.findings), regions=(region,)))

    scale = np.array([body.shape[1] / 48, body.shape[0] / 64])
    line = is_color(body, PRESENT)
    for start, end in zip(corners * scale, np.roll(corners, -1, axis=0) * scale, strict=True):
        for part in np.linspace(0.05, 0.95, 50):
            x, y = np.floor(start + part * (end - start)).astype(int)
            assert line[y - 1 : y + 2, x - 1 : x + 2].any()


def test_labels_do_not_hide_each_other(shown: dict[str, Shown]) -> None:
    view = shown["series"]
    (region,) = only(view.findings).regions
    regions = tuple(replace(region, identifier=f"Lesion {number}") for number in range(4))

    one, four = (
        is_color(view.body(replace(only(view.findings), regions=part)), PRESENT).sum()
        for part in (regions[:1], regions)
    )

    # Four labels of a digit on a filled ground, each of some 300 pixels, and one and the same line.
    assert four - one > 3 * 200


def test_numbers_are_those_of_all_objects(shown: dict[str, Shown]) -> None:
    findings = shown["series"].findings
    absent = only(findings, presence=Presence.ABSENT).regions[0]
    second = replace(findings.regions[1])

    marked = markings(replace(findings, regions=(absent, second)))

    assert [(one.number, one.region.identifier) for one in marked] == [(1, "Lesion 2")]
    assert marked[0].sentence == (
        "1 Nodule - needs review [Lesion 2], Right Lung; the threshold lies inside the interval; "
        "the prediction set holds both answers; probability 58 % (95 % interval 42-70 %); "
        "Volume 512.5 mm3 (95 % interval 470 to 560.25); Long Axis 11.25 mm; "
        "Attenuation Coefficient 35.5 HU (95 % interval 30 to 41)"
    )


def test_a_caption_of_many_regions_has_an_end(shown: dict[str, Shown]) -> None:
    view = shown["series"]
    (region,) = only(view.findings).regions
    regions = tuple(replace(region, identifier=f"Lesion {number}") for number in range(3 * MOST_LINES))
    heights = [
        view.draw(replace(only(view.findings), regions=part)).pixels.shape[0]
        for part in (regions[:MOST_LINES], regions[: 2 * MOST_LINES], regions)
    ]

    assert heights[0] < heights[1] == heights[2]


def test_regions_without_scores_are_not_called_nothing(shown: dict[str, Shown]) -> None:
    view = shown["slide"]
    findings = bare(view.findings)

    with_regions, without = (view.draw(one).pixels[512:] for one in (findings, replace(findings, regions=())))

    assert is_color(with_regions, PRESENT).any()
    assert not np.array_equal(with_regions[:60], without[:60])


@pytest.mark.parametrize("size", [(1, 1), (90, 1400), (1600, 120), (3000, 2500)])
def test_a_box_is_drawn_on_a_picture_of_any_size(size: tuple[int, int], shown: dict[str, Shown]) -> None:
    view = shown["series"]
    image = replace(view.gray, pixels=np.full(size, 0.5, np.float32), spacing_yx_mm=None)
    box = Outline.box(image.frame, (size[1] / 4, size[0] / 4), (size[1], size[0]))
    regions = tuple(replace(one, outline=box) for one in view.findings.regions)

    overlay = draw_overlay(image, replace(bare(view.findings), regions=regions), "algorithm 1")

    body = overlay.pixels[: round(size[0] * overlay.scale_yx[0])]
    assert is_color(body, PRESENT).any()
    assert is_color(body, REVIEW).any()


def test_pixels_are_drawn_square(shown: dict[str, Shown]) -> None:
    view = shown["series"]
    tall = replace(view.gray, pixels=np.full((100, 100), 0.5, np.float32), spacing_yx_mm=(2.0, 0.5))
    box = Outline.box(tall.frame, (20, 30), (60, 40))
    findings = replace(only(view.findings), regions=(replace(only(view.findings).regions[0], outline=box),))

    overlay = draw_overlay(tall, findings, "algorithm 1")

    assert overlay.scale_yx == pytest.approx((7.68, 1.92))
    line = is_color(overlay.pixels[:768], PRESENT)
    # The body of 192 columns stands in the middle of the 512 that its caption needs.
    left = (512 - 192) // 2
    columns = line[250:290].all(axis=0).nonzero()[0]
    assert columns.min() == pytest.approx(left + 20 * 1.92, abs=2)
    assert columns.max() == pytest.approx(left + 60 * 1.92, abs=2)
    rows = line[:, left + 50 : left + 100].all(axis=1).nonzero()[0]
    assert rows.max() == pytest.approx(40 * 7.68, abs=2)


def test_pixels_that_are_almost_square_are_not_resampled_for_that(shown: dict[str, Shown]) -> None:
    view = shown["series"]
    image = replace(view.gray, pixels=np.full((900, 900), 0.5, np.float32), spacing_yx_mm=(0.7, 0.7004))

    assert draw_overlay(image, only(view.findings), "algorithm 1").scale_yx == (1, 1)


@pytest.mark.parametrize(
    ("mm_per_px", "longest_px", "expected_mm"),
    [(0.5, 200, 100), (0.46875, 192, 50), (0.001, 192, 0.1), (0.0584, 164, 5), (1, 1, 1), (3, 150, 200)],
)
def test_the_scale_is_a_round_number(mm_per_px: float, longest_px: float, expected_mm: float) -> None:
    assert bar_mm(mm_per_px, longest_px) == pytest.approx(expected_mm)


def test_the_scale_is_as_long_as_it_says(shown: dict[str, Shown]) -> None:
    view = shown["series"]
    image = replace(
        view.gray, pixels=np.full((512, 512), 0.5, np.float32), spacing_yx_mm=(0.703125, 0.703125)
    )

    caption = draw_overlay(image, only(view.findings), "algorithm 1").pixels[768:]

    # 50 mm at 0.703125 mm enlarged by 1.5, from the margin on.
    (bar,) = {
        tuple(np.flatnonzero(row[:130])[[0, -1]])
        for row in is_color(caption[:40], WHITE)
        if row[30:100].all()
    }
    assert bar[1] - bar[0] + 1 == round(50 / (0.703125 / 1.5))


@pytest.mark.parametrize(
    "change", [{"spacing_yx_mm": None}, {"spacing_attribute": "ImagerPixelSpacing"}], ids=str
)
def test_there_is_no_scale_where_the_size_is_not_the_patients(
    change: dict[str, object], shown: dict[str, Shown]
) -> None:
    view = shown["series"]
    image = replace(view.gray, pixels=np.full((512, 512), 0.5, np.float32), spacing_yx_mm=(0.7, 0.7))

    with_scale, without = (
        draw_overlay(one, only(view.findings), "algorithm 1").pixels.shape[0]
        for one in (image, replace(image, **change))
    )

    assert without < with_scale
