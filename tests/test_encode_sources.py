from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from node.encode import encode
from node.encode.source import COPIED
from node.errors import DatasetError
from node.samples.dicom import write_dx
from node.samples.thorax import thorax_radiograph
from tests.peers.validators import dciodvfy_errors
from tests.results import ALGORITHM, SCORES, encode_case, make_context, make_findings, picture_of, save

CHARSET_FILES = ["Arab", "Fren", "Greek", "H32", "Hbrw", "I2", "JapMultiExplicitIR6", "Russ", "X2"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dx(thorax_radiograph(5, size=256), tmp_path_factory.mktemp("source") / "dx.dcm")


@pytest.mark.parametrize("case", SCORES)
def test_encoding_twice_gives_the_same_bytes(case: str, source: Path, tmp_path: Path) -> None:
    first, second = (
        {
            kind: save(dataset, tmp_path / kind).read_bytes()
            for kind, dataset in encode_case(case, source).items()
        }
        for _ in range(2)
    )

    assert first == second


def test_another_run_shares_no_identifier_but_the_study(source: Path) -> None:
    def identifiers(run_key: str) -> set[str]:
        objects = encode_case("findings", source, run_key=run_key).values()
        return {
            str(value)
            for one in objects
            for value in (one.SOPInstanceUID, one.SeriesInstanceUID, one.SeriesNumber, one.SeriesDescription)
        }

    first, second = identifiers("first"), identifiers("second")

    assert len(first) == len(second) == 4 * len(encode_case("findings", source))
    assert not first & second


def test_a_new_version_is_another_device(source: Path) -> None:
    findings = make_findings("findings", source)
    retrained = replace(findings, algorithm=replace(ALGORITHM, version="1.0.1"))

    devices = {
        equipment.DeviceUID
        for one in (findings, retrained)
        for item in encode(one, [source], make_context("findings", picture_of(source)))
        for equipment in item.dataset.ContributingEquipmentSequence
        if "DeviceUID" in equipment
    }

    assert len(devices) == 2


@pytest.mark.parametrize("suffix", CHARSET_FILES)
def test_names_in_any_character_set_arrive_as_they_were_sent(
    suffix: str, zoo: list[Path], tmp_path: Path
) -> None:
    foreign = next(path for path in zoo if path.stem == f"charset_chr{suffix}")
    before = dcmread(foreign)
    name = before.get_item("PatientName").value.rstrip()

    for kind, dataset in encode_case("not_eligible", foreign).items():
        after = dcmread(save(dataset, tmp_path / f"{kind}.dcm"))

        assert after.get_item("PatientName").value.rstrip() == name
        assert after.PatientName == before.PatientName
        assert after.SpecificCharacterSet == before.SpecificCharacterSet


def test_patient_and_study_are_copied_whole(source: Path, tmp_path: Path) -> None:
    before = dcmread(source)
    before.PatientComments = "x" * 200
    before.TimezoneOffsetFromUTC = "-0330"
    before.IssuerOfAccessionNumberSequence = [Dataset()]
    before.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID = "RIS"
    path = save(before, tmp_path / "source.dcm")

    for kind, dataset in encode_case("findings", path).items():
        after = dcmread(save(dataset, tmp_path / f"{kind}.dcm"))

        copied = [keyword for keyword in COPIED if keyword in before]
        assert len(copied) > 10
        assert {keyword: after[keyword].value for keyword in copied} == {
            keyword: before[keyword].value for keyword in copied
        }
        assert (after.ContentDate, after.ContentTime) == ("20260304", "013607")


ODDITIES = {
    "no study id": lambda ds: ds.__delattr__("StudyID"),
    "no patient at all": lambda ds: [ds.pop(keyword, None) for keyword in COPIED],
    "blank name": lambda ds: ds.__setattr__("PatientName", ""),
    "private class": lambda ds: ds.__setattr__("SOPClassUID", "1.2.826.0.1.3680043.8.498.1"),
    "no pixels": lambda ds: [ds.pop(keyword, None) for keyword in ("Rows", "Columns", "PixelData")],
    "no modality": lambda ds: ds.__delattr__("Modality"),
    "empty character set": lambda ds: ds.__setattr__("SpecificCharacterSet", None),
    "claims no method": lambda ds: ds.__setattr__("PatientIdentityRemoved", "YES"),
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_odd_sources_still_get_their_report(oddity: str, source: Path, tmp_path: Path) -> None:
    odd = dcmread(source)
    ODDITIES[oddity](odd)
    path = save(odd, tmp_path / "odd.dcm")

    objects = encode_case("not_eligible", path)

    paths = [save(dataset, tmp_path / f"{kind}.dcm") for kind, dataset in objects.items()]
    assert dciodvfy_errors(paths) == []


def test_values_that_break_the_rules_are_copied_without_a_word(source: Path, tmp_path: Path) -> None:
    data = source.read_bytes().replace(b"SYNTHETIC^THORAX", b"SYNTH\xc4\xd6\xdc^T=A=B=C")
    path = tmp_path / "odd.dcm"
    path.write_bytes(data)

    for dataset in encode_case("failed", path).values():
        assert b"SYNTH\xc4\xd6\xdc^T=A=B=C" in save(dataset, tmp_path / "result.dcm").read_bytes()


def test_a_source_without_identifiers_is_refused(source: Path, tmp_path: Path) -> None:
    broken = dcmread(source)
    findings = make_findings("failed", source)
    del broken.StudyInstanceUID

    with pytest.raises(DatasetError, match="StudyInstanceUID"):
        list(encode(findings, [save(broken, tmp_path / "broken.dcm")], make_context("failed")))


def test_findings_about_an_absent_image_are_refused(source: Path) -> None:
    findings = replace(make_findings("findings", source), sop_instance_uids=("1.2.3",))

    with pytest.raises(DatasetError, match=r"1\.2\.3: is not among the sources"):
        list(encode(findings, [source], make_context("findings")))
