"""STOW-RS with a real archive as the client: Orthanc's DICOMweb plugin sends whole studies."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from pydicom import dcmread

from node.samples.dicom import fresh_uid
from tests.doors import dataset_digest
from tests.instances import PATIENT, encode_dataset, write_instance
from tests.peers.orthanc import DICOMWEB_PLUGIN, Orthanc, run_orthanc
from tests.web_doors import WebDoor, opening_web

TOKEN = "let me in"  # noqa: S105    # of the test alone


class Hospital(NamedTuple):
    orthanc: Orthanc
    door: WebDoor


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    if not DICOMWEB_PLUGIN.exists():
        pytest.skip("needs Orthanc's DICOMweb plugin (Debian package orthanc-dicomweb)")
    folder = tmp_path_factory.mktemp("hospital")
    with opening_web(folder) as open_door:
        door = open_door(token=TOKEN)
        server = {
            "Url": f"http://127.0.0.1:{door.port}/dicom-web/",
            "HttpHeaders": {"Authorization": f"Bearer {TOKEN}"},
        }
        with run_orthanc(
            folder / "orthanc", {}, {"node": server, "stranger": {"Url": server["Url"]}}
        ) as orthanc:
            yield Hospital(orthanc, door)


def upload(orthanc: Orthanc, folder: Path, count: int) -> tuple[str, list[str]]:
    """A study of so many instances in the archive; its UID, and those of the instances."""
    study, series = fresh_uid(), fresh_uid()
    uids = [fresh_uid() for _ in range(count)]
    for uid in uids:
        dataset = encode_dataset(
            uid, study_instance_uid=study, series_instance_uid=series, pixels=uid.encode() * 2000
        )
        orthanc.upload(write_instance(folder / f"{uid}.dcm", dataset, sop_instance_uid=uid))
    return study, uids


def test_a_study_that_orthanc_sends_is_stored_as_orthanc_has_it(hospital: Hospital, tmp_path: Path) -> None:
    study, uids = upload(hospital.orthanc, tmp_path, 12)

    hospital.orthanc.stow_to("node", [study])

    stored = [each.instance for each in hospital.door.stored if each.instance.study_instance_uid == study]
    assert sorted(each.sop_instance_uid for each in stored) == sorted(uids)
    for each in stored:
        assert dataset_digest(each.path) == dataset_digest(tmp_path / f"{each.sop_instance_uid}.dcm")
        assert dcmread(each.path).PatientName == PATIENT
    assert {ended for studies, ended in hospital.door.released if study in studies} == {"released"}
    assert hospital.door.leftovers() == []


def test_orthanc_hears_that_it_is_not_let_in(hospital: Hospital, tmp_path: Path) -> None:
    study, _ = upload(hospital.orthanc, tmp_path, 1)

    with pytest.raises(AssertionError, match="stranger/stow: 500"):
        hospital.orthanc.stow_to("stranger", [study])

    assert not [each for each in hospital.door.stored if each.instance.study_instance_uid == study]
