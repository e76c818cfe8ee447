"""What readers say of our results, told by the codes of their reports."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from structlog.testing import capture_logs

from node.domain.feedback import VERDICT_CODES, Feedback, Verdict
from node.domain.profile import Kind
from node.domain.study import Instance
from node.encode import Predecessor
from node.feedback import REPORTS, read_feedback
from node.receive.folder import store_file
from node.samples.dicom import fresh_uid
from node.storage import Storage
from tests.peers.validators import dciodvfy_errors
from tests.readers import (
    ACCEPT,
    AGREEMENT,
    CONTAINS,
    DISAGREEMENT,
    HOSTILE,
    MODIFY,
    PNEUMONIA,
    READER,
    REJECT,
    VIRAL,
    Results,
    container,
    finding_report,
    judged,
    ours,
    person,
    pointing,
    reference,
    rejection_note,
    report,
    verdict_item,
    with_purpose,
)
from tests.results import encode_case, save

Maker = Callable[[Results], Dataset]


@pytest.fixture(scope="module")
def results(positive: Path) -> Results:
    """The objects of a result, by kind."""
    return encode_case("findings", positive)


class Desk(NamedTuple):
    """A spool to put reports into, and the files of the results that they may speak of."""

    storage: Storage
    path_by_uid: dict[str, Path]

    def spool(self, document: Dataset, syntax: str = ExplicitVRLittleEndian) -> Instance:
        document.file_meta.TransferSyntaxUID = syntax
        return store_file(save(document, self.storage.root / "report.dcm"), self.storage).instance

    def read(self, instance: Instance) -> tuple[Feedback, ...]:
        return read_feedback(
            instance, lambda uids: {uid: self.path_by_uid[uid] for uid in uids & self.path_by_uid.keys()}
        )


@pytest.fixture
def desk(tmp_path: Path, results: Results) -> Desk:
    paths = {str(one.SOPInstanceUID): save(one, tmp_path / f"{kind}.dcm") for kind, one in results.items()}
    return Desk(Storage(tmp_path / "data"), paths)


SAYS: dict[str, tuple[Maker, list[tuple[str, str, Verdict]]]] = {
    "our codes, of the whole document": (
        lambda r: report([r["findings_sr"], r["summary_sr"]], verdict_item(ours(ACCEPT))),
        [("findings_sr", "", ACCEPT), ("summary_sr", "", ACCEPT)],
    ),
    "a code beside the reference": (
        lambda r: report(r.values(), container(verdict_item(DISAGREEMENT), reference(r["summary_sr"]))),
        [("summary_sr", "", REJECT)],
    ),
    "a code above the reference": (
        lambda r: report(
            r.values(),
            verdict_item(ours(MODIFY), reference(r["findings_sr"], sr.RelationshipTypeValues.INFERRED_FROM)),
            reference(r["summary_sr"]),
        ),
        [("findings_sr", "", MODIFY)],
    ),
    "a code beside the parent of which the picture is referred to": (
        lambda r: report(
            r.values(), container(container(verdict_item(AGREEMENT)), reference(r["secondary_capture"]))
        ),
        [("secondary_capture", "", ACCEPT)],
    ),
    "two containers, each with its own": (
        lambda r: report(
            r.values(),
            container(verdict_item(ours(ACCEPT)), reference(r["findings_sr"])),
            container(verdict_item(ours(REJECT)), reference(r["secondary_capture"])),
        ),
        [("findings_sr", "", ACCEPT), ("secondary_capture", "", REJECT)],
    ),
    "by reference": (lambda r: pointing(r, at=5), [("findings_sr", "", REJECT)]),
    "by reference to nothing, so of the whole document": (
        lambda r: pointing(r, at=99),
        [(kind, "", REJECT) for kind in ("findings_sr", "summary_sr", "secondary_capture")],
    ),
    "findings by their tracking UID": (
        lambda r: judged(r, {PNEUMONIA: AGREEMENT, VIRAL: ours(MODIFY)}),
        [("findings_sr", PNEUMONIA, ACCEPT), ("findings_sr", VIRAL, MODIFY)],
    ),
    "a rejection note": (
        lambda r: rejection_note([r["findings_sr"], r["secondary_capture"]]),
        [("findings_sr", "", REJECT), ("secondary_capture", "", REJECT)],
    ),
    "a rejection note for safety": (
        lambda r: rejection_note([r["findings_sr"]], codes.cid7010.RejectedForPatientSafetyReasons),
        [("findings_sr", "", REJECT)],
    ),
    "a new version of the measurement report": (
        lambda r: report(
            [r["findings_sr"]],
            reference(r["findings_sr"]),
            title=codes.DCM.ImagingMeasurementReport,
            predecessors=[r["findings_sr"]],
        ),
        [("findings_sr", "", MODIFY)],
    ),
    "a report that replaces ours": (
        lambda r: with_purpose(
            report(r.values(), reference(r["findings_sr"]), predecessors=[r["summary_sr"]]),
            codes.cid7009.ReplacedReport,
        ),
        [("summary_sr", "", MODIFY)],
    ),
    "a code outranks the predecessor": (
        lambda r: report(
            [r["findings_sr"]],
            verdict_item(ours(REJECT)),
            title=codes.DCM.ImagingMeasurementReport,
            predecessors=[r["findings_sr"]],
        ),
        [("findings_sr", "", REJECT)],
    ),
}


@pytest.mark.parametrize("case", SAYS)
def test_a_report_says_what_its_codes_say(desk: Desk, results: Results, case: str) -> None:
    make, expected = SAYS[case]
    kind_by_uid = {str(one.SOPInstanceUID): kind for kind, one in results.items()}

    said = desk.read(desk.spool(make(results)))

    found = [(kind_by_uid[one.result_sop_instance_uid], one.finding, one.verdict) for one in said]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("case", SAYS)
def test_the_reports_of_these_tests_are_valid(results: Results, tmp_path: Path, case: str) -> None:
    path = save(SAYS[case][0](results), tmp_path / "report.dcm")

    assert dciodvfy_errors([path]) == []


SAYS_NOTHING: dict[str, Maker] = {
    "no verdict": lambda r: report(r.values(), reference(r["findings_sr"])),
    "the prior findings may be anybody's": lambda r: report(r.values(), container(verdict_item(AGREEMENT))),
    "a verdict on another's finding": lambda r: finding_report(r["findings_sr"], (fresh_uid(), ours(REJECT))),
    "a verdict on another's result": lambda r: report(
        [r["findings_sr"], another(r["findings_sr"])],
        container(verdict_item(AGREEMENT), reference(another(r["findings_sr"]))),
        reference(r["findings_sr"]),
    ),
    "both at once": lambda r: report(
        r.values(), container(verdict_item(ours(ACCEPT)), verdict_item(ours(REJECT)))
    ),
    "a wish for the display": lambda r: report(
        r.values(),
        container(
            sr.CodeContentItem(
                codes.DCM.RenderingIntent,
                codes.cid6034.NotForPresentationRenderingDeviceExpectedNotToPresent,
                relationship_type=CONTAINS,
            ),
            reference(r["findings_sr"]),
        ),
    ),
    "key images, not rejected": lambda r: rejection_note([r["findings_sr"]], codes.cid7010.ForTeaching),
    "a report made after ours": lambda r: with_purpose(
        report(r.values(), reference(r["findings_sr"]), predecessors=[r["findings_sr"]]),
        codes.cid7009.AddendedReport,
    ),
    "the code of another scheme": lambda r: report(
        r.values(), verdict_item(Code("FB-REJECT", "99OTHER", "Rejected"))
    ),
}


def another(result: Dataset) -> Dataset:
    """The result, were it of somebody else."""
    copy = deepcopy(result)
    copy.SOPInstanceUID = "2.25.4711"
    return copy


@pytest.mark.parametrize("case", SAYS_NOTHING)
def test_a_report_without_a_clear_verdict_on_ours_says_nothing(
    desk: Desk, results: Results, case: str
) -> None:
    assert desk.read(desk.spool(SAYS_NOTHING[case](results))) == ()


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
def test_a_report_says_the_same_in_every_encoding(desk: Desk, results: Results, syntax: str) -> None:
    (said,) = desk.read(desk.spool(judged(results, {PNEUMONIA: ours(REJECT)}), syntax))

    assert (said.verdict, said.finding) == (REJECT, PNEUMONIA)


def test_every_class_of_report_is_one_and_no_picture_is() -> None:
    assert {BasicTextSRStorage, Comprehensive3DSRStorage, KeyObjectSelectionDocumentStorage} <= REPORTS
    assert not {SecondaryCaptureImageStorage, SegmentationStorage} & REPORTS


AUTHORS: dict[str, tuple[list[sr.ContentItem], str]] = {
    "role in the organization": (person(), "Consultant"),
    "no role": (person(role=None), "person"),
    "a role that no dictionary has": (person(role=Code("1", "99OTHER", READER)), "person"),
    "a device": (
        list(sr.ObserverContext(codes.DCM.Device, sr.DeviceObserverIdentifyingAttributes("2.25.1"))),
        "device",
    ),
    "nobody": ([], ""),
}


@pytest.mark.parametrize("case", AUTHORS)
def test_the_author_is_a_role_and_never_a_name(desk: Desk, results: Results, case: str) -> None:
    observer, expected = AUTHORS[case]
    document = report([results["findings_sr"]], verdict_item(ours(ACCEPT)), observer=observer)

    (said,) = desk.read(desk.spool(document))

    assert said.author == expected


# --- hostile input


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_report_beyond_every_measure_says_nothing(
    desk: Desk, results: Results, case: str, syntax: str
) -> None:
    document = report([results["findings_sr"]], verdict_item(ours(REJECT)))
    assert desk.read(desk.spool(document, syntax)), "it would say something, were it not for its measure"

    assert desk.read(desk.spool(HOSTILE[case](document), syntax)) == ()


def test_a_report_nested_beyond_the_stack_says_nothing(desk: Desk, results: Results) -> None:
    instance = desk.spool(report([results["findings_sr"]], verdict_item(ours(REJECT))))
    opened = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with instance.path.open("ab") as file:
        file.write(20_000 * opened)

    assert desk.read(instance) == ()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_report_that_ends_too_early_costs_nothing_but_itself(
    desk: Desk, results: Results, share: float
) -> None:
    instance = desk.spool(report([results["findings_sr"]], verdict_item(ours(REJECT))))
    data = instance.path.read_bytes()
    instance.path.write_bytes(data[: int(share * len(data))])

    said = desk.read(instance)

    assert {one.verdict for one in said} <= {REJECT}


def test_what_no_report_may_hold_says_nothing(desk: Desk, results: Results) -> None:
    instance = desk.spool(report([results["findings_sr"]], verdict_item(ours(REJECT))))
    data = instance.path.read_bytes()
    code = VERDICT_CODES[REJECT].value.encode()
    for broken in (data.replace(b"SQ\0\0", b"FD\0\0"), data.replace(code, b"\0" * len(code))):
        instance.path.write_bytes(broken)

        assert desk.read(instance) == ()


def test_a_picture_is_not_opened_and_a_report_on_others_not_parsed(desk: Desk, results: Results) -> None:
    document = HOSTILE["deep"](report([results["findings_sr"]], verdict_item(ours(REJECT))))
    instance = desk.spool(document)
    picture = replace(instance, sop_class_uid=str(SecondaryCaptureImageStorage), path=Path("/nowhere"))

    with capture_logs() as log:
        said = (desk.read(picture), Desk(desk.storage, {}).read(instance))

    assert said == ((), ())
    assert log == [], "it would complain, had it looked"


def test_a_result_of_ours_that_comes_back_is_no_verdict_on_what_it_supersedes(
    desk: Desk, results: Results, positive: Path
) -> None:
    earlier = results["findings_sr"]
    uids = (earlier.StudyInstanceUID, earlier.SeriesInstanceUID, earlier.SOPClassUID, earlier.SOPInstanceUID)
    predecessor = Predecessor(Kind.FINDINGS_SR, *map(str, uids))
    later = encode_case("findings", positive, run_key="later", predecessors=(predecessor,))["findings_sr"]
    instance = desk.spool(later)

    known = desk._replace(path_by_uid=desk.path_by_uid | {instance.sop_instance_uid: instance.path})

    assert known.read(instance) == ()
    assert [one.verdict for one in desk.read(instance)] == [Verdict.MODIFY], "of another's, it would be one"
