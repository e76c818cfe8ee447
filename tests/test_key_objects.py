from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom.ko
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from node.domain.findings import Findings, Outcome, Presence, Refusal
from node.domain.location import Frame
from node.domain.profile import Kind
from node.encode import codes as used
from tests.located import NODULE, located_findings
from tests.peers.validators import dciodvfy_errors, report_errors
from tests.results import save, score
from tests.shapes import WRITERS, encoded, foreign
from tests.sources import Written
from tests.trees import evidence_of, references_of, texts_of

KEY_OBJECTS = (Kind.KEY_OBJECTS,)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    return {shape: write(tmp_path_factory.mktemp(shape)) for shape, write in WRITERS.items()}


@pytest.fixture(scope="module")
def selections(written: dict[str, Written], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("selections")
    return {
        shape: save(selected(located_findings(one), one), folder / f"{shape}.dcm")
        for shape, one in written.items()
    }


def selected(findings: Findings, source: Written) -> Dataset:
    return encoded(findings, source.paths, KEY_OBJECTS)[Kind.KEY_OBJECTS]


def test_validators_find_no_error(selections: dict[str, Path]) -> None:
    assert dciodvfy_errors(selections.values()) == []
    assert report_errors([selections["series"], selections["enhanced"]]) == []


@pytest.mark.parametrize("shape", WRITERS)
def test_encoding_twice_gives_the_same_bytes(
    shape: str, written: dict[str, Written], selections: dict[str, Path], tmp_path: Path
) -> None:
    again = selected(located_findings(written[shape]), written[shape])

    assert save(again, tmp_path / "again.dcm").read_bytes() == selections[shape].read_bytes()


@pytest.mark.parametrize("shape", WRITERS)
def test_the_pictures_with_regions_are_selected(
    shape: str, written: dict[str, Written], selections: dict[str, Path]
) -> None:
    findings = located_findings(written[shape])
    selection = dcmread(selections[shape])

    frame = findings.regions[0].outline.frame
    (reference,) = references_of(selection)
    assert reference.ReferencedSOPInstanceUID == frame.sop_instance_uid
    assert reference.get("ReferencedFrameNumber") == frame.frame_number
    assert evidence_of(selection) == {frame.sop_instance_uid: findings.series_instance_uid}
    (item,) = (one for one in selection.ContentSequence if one.ValueType == "IMAGE")
    assert "ConceptNameCodeSequence" not in item


@pytest.mark.parametrize(("shape", "numbers"), [("series", [None, None]), ("enhanced", [[5, 2]])])
def test_key_frames_are_selected_in_their_order(
    shape: str, numbers: list[object], written: dict[str, Written]
) -> None:
    findings = located_findings(written[shape])
    (mask,) = findings.masks
    key_frames = (mask.frames[4], mask.frames[1])

    selection = selected(replace(findings, key_frames=key_frames), written[shape])

    references = references_of(selection)
    uids = list(dict.fromkeys(frame.sop_instance_uid for frame in key_frames))
    assert [one.ReferencedSOPInstanceUID for one in references] == uids
    assert [one.get("ReferencedFrameNumber") for one in references] == numbers


def test_title_and_words_say_what_the_selection_is(selections: dict[str, Path]) -> None:
    selection = dcmread(selections["series"])

    assert selection.ConceptNameCodeSequence[0].CodeValue == codes.cid7010.OfInterest.value
    (words,) = texts_of(selections["series"], used.KEY_OBJECT_DESCRIPTION)
    assert words.startswith("AI result - not for primary diagnosis - unverified. Outcome: findings. Nodule: ")
    assert "Lesion 1: Nodule PRESENT, probability 91 %" in words
    assert selection.ContributingEquipmentSequence[0].DeviceUID
    assert highdicom.ko.KeyObjectSelectionDocument.from_dataset(selection).Modality == "KO"


UNSELECTED: dict[str, Callable[[Findings], Findings]] = {
    "nothing found": lambda one: replace(
        one, regions=(), scores=(score(NODULE, 0.1, (0.05, 0.2), Presence.ABSENT),)
    ),
    "nothing singled out": lambda one: replace(one, regions=()),
    "foreign image": foreign,
    "refusal": lambda one: replace(
        one,
        scores=(),
        regions=(),
        masks=(),
        maps=(),
        marks=(),
        refusal=Refusal(Outcome.FAILED, "the pixel data cannot be decoded"),
    ),
}


@pytest.mark.parametrize("case", UNSELECTED)
def test_without_a_picture_of_interest_there_is_no_selection(case: str, written: dict[str, Written]) -> None:
    findings = UNSELECTED[case](located_findings(written["series"]))

    assert encoded(findings, written["series"].paths, KEY_OBJECTS) == {}


def test_the_one_image_of_a_finding_is_selected(written: dict[str, Written]) -> None:
    findings = replace(located_findings(written["radiograph"]), regions=())

    (reference,) = references_of(selected(findings, written["radiograph"]))

    assert Frame(reference.ReferencedSOPInstanceUID) == findings.shown_frames[0]
