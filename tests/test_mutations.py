"""Valid objects, each spoiled in one way: the gate names the rule that is broken, before any that follows."""

import pytest

from node import conformance
from node.domain.profile import SegmentationType
from tests.mutations import headers, pixels, reports
from tests.mutations.ways import Mutation, move_pixels, shift_frames
from tests.runs import LESIONS, SEGMENTATION, Run, make_run, polygons
from tests.sources import write_ct_series, write_enhanced_ct, write_radiograph, write_slide

MUTATIONS = [*headers.ROWS, *reports.ROWS, *pixels.ROWS]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    ct, enhanced, slide, dx = (
        write(tmp_path_factory.mktemp("source"))
        for write in (write_ct_series, write_enhanced_ct, write_slide, write_radiograph)
    )
    return {
        "ct": make_run(ct),
        "ct fractional": make_run(ct, segmentation_type=SegmentationType.FRACTIONAL),
        "ct labelmap": make_run(ct, segmentation_type=SegmentationType.LABELMAP),
        "enhanced": make_run(enhanced),
        "slide": make_run(slide),
        "slide polygons": make_run(slide, polygons(slide)),
        "dx": make_run(dx),
    }


@pytest.mark.parametrize(
    ("rule", "source", "name", "mutate"),
    [
        pytest.param(rule, source, name, mutate, id=f"{rule}-{source}-{name[:-2]}-{what}".replace(" ", "_"))
        for rule, source, name, what, mutate in MUTATIONS
    ],
)
def test_the_gate_names_the_broken_rule(
    rule: str, source: str, name: str, mutate: Mutation, runs: dict[str, Run]
) -> None:
    broken = runs[source].fresh(name)
    mutate(broken, runs[source])

    violations = runs[source].check(name, broken)

    assert violations, "the spoiled object passes"
    assert violations[0].rule == rule, [str(one) for one in violations]
    assert "cannot be judged" not in violations[0].message
    text = " ".join(map(str, violations))
    assert not any(word in text for word in ("SYNTH", "Somebody", "4711"))


def test_every_rule_has_a_mutation() -> None:
    assert {rule for rule, *_ in MUTATIONS} == {rule.name for rule in conformance.RULES}


def test_pixels_in_another_place_are_found_by_the_report_that_outlines_them(runs: dict[str, Run]) -> None:
    run = runs["ct"]
    spoiled = run.fresh(SEGMENTATION)
    move_pixels(spoiled)
    others = [one for one in run.others(LESIONS) if one.SOPInstanceUID != spoiled.SOPInstanceUID]

    violations = conformance.check(run.fresh(LESIONS), run.sources, [*others, spoiled])

    assert {one.rule for one in violations} == {"outlines_on_segments"}


def test_a_shift_below_the_tolerance_passes(runs: dict[str, Run]) -> None:
    shifted = runs["ct"].fresh(SEGMENTATION)
    shift_frames(0.05)(shifted)

    assert runs["ct"].check(SEGMENTATION, shifted) == []
