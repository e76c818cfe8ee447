"""Real files, some broken on purpose: each is stored and ends in an outcome, or is refused in words."""

import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.filereader import read_partial
from pydicom.uid import ImplicitVRLittleEndian

from tests.peers import dcmtk
from tests.peers.archive import Recorder
from tests.peers.node import Node, run_sightline

OUTCOMES = {"findings", "no_findings", "not_eligible", "failed"}
STORESCU_CANNOT = (
    "No SOP Class or Instance UID in file",
    "Bad DICOM file",
    "DIMSE Failed to send message",  # transfer syntaxes newer than this DCMTK
)
UIDS = ("StudyInstanceUID", "SOPClassUID")
LAST_TAG = 0x0020000D  # what is damaged comes later, in all files that have a study
NUMBER = re.compile(r"[\d.]+")  # found in any UID by chance, as are short names in any log
SHORTEST_TELLING = 5


@dataclass(frozen=True)
class Identity:
    """What pydicom, at its most tolerant, makes of a header; there are headers it cannot read at all."""

    study_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    patient: tuple[str, ...]


def identify(path: Path) -> Identity | None:
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")
        try:
            dataset = read_partial(file, lambda tag, *_: tag > LAST_TAG, force=True)
            texts = [str(dataset.get(name) or "") for name in ("PatientName", "PatientID", *UIDS)]
        except (OSError, ValueError, NotImplementedError):
            return None
    *patient, study_instance_uid, sop_class_uid = texts
    parts = {part for whole in patient for part in (whole, *whole.split("^"))}
    return Identity(
        study_instance_uid,
        sop_class_uid,
        str(dataset.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian),
        tuple(part for part in parts if len(part) >= SHORTEST_TELLING and not NUMBER.fullmatch(part)),
    )


@pytest.fixture(scope="module")
def identities(zoo: list[Path]) -> dict[Path, Identity]:
    identity_by_path = {path: identify(path) for path in zoo}
    return {path: identity for path, identity in identity_by_path.items() if identity}


@pytest.fixture
def options(identities: dict[Path, Identity], tmp_path: Path) -> list[str]:
    pairs = {
        (each.sop_class_uid, each.transfer_syntax_uid) for each in identities.values() if each.sop_class_uid
    }
    return dcmtk.write_profile(tmp_path / "storescu.cfg", pairs)


@pytest.fixture
def node(new_node: Callable[[Mapping[str, Any]], Node], recorder: Recorder) -> Node:
    node = new_node(
        {
            "receive": {"accept_private_classes": True},
            "assembly": {"quiet_period_s": 1},
            "destinations": {
                "pacs": {"host": recorder.host, "port": recorder.port, "ae_title": recorder.ae_title}
            },
        }
    )
    node.start()
    return node


@pytest.mark.timeout(300)
def test_all_on_one_association(
    node: Node, zoo: list[Path], identities: dict[Path, Identity], options: list[str]
) -> None:
    sending = dcmtk.send(zoo, node.port, called=node.ae_title, options=options)
    rest = send_by_ourselves(node, list(sending.unsent))

    assert_told(sending)
    assert_all_ended(node, identities, sending.stored + rest)
    assert_silent_on_patients(node, identities)


@pytest.mark.timeout(300)
def test_one_association_per_file(
    node: Node, zoo: list[Path], identities: dict[Path, Identity], options: list[str]
) -> None:
    stored: list[Path] = []
    for path in zoo:
        sending = dcmtk.send([path], node.port, called=node.ae_title, options=options)
        assert_told(sending)
        stored += sending.stored
        assert node.is_alive()

    assert_all_ended(node, identities, stored)
    assert_silent_on_patients(node, identities)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_by_our_own_sender(node: Node, zoo: list[Path], identities: dict[Path, Identity]) -> None:
    stored = send_by_ourselves(node, zoo)

    assert_all_ended(node, identities, stored)
    assert_silent_on_patients(node, identities)


def send_by_ourselves(node: Node, paths: list[Path]) -> list[Path]:
    """Send by `sightline send`, which also sends what storescu cannot; the files that the node stored."""
    sent = run_sightline("send", *map(str, paths), "--to", node.address, "--json")
    assert sent.returncode in (0, 1), sent.stderr
    assert "Traceback" not in sent.stderr
    files = json.loads(sent.stdout)["files"]
    assert {Path(item["path"]) for item in files} == set(paths)
    assert {item["answer"] for item in files} <= {"accepted", "refused", "not a DICOM file"}
    assert [item for item in files if item["answer"] != "accepted" and not item["comment"]] == []
    return [Path(item["path"]) for item in files if item["answer"] == "accepted"]


def assert_told(sending: dcmtk.Sending) -> None:
    """Whatever was not stored was refused with a reason, or never left storescu, which says why."""
    for path, answer in sending.refused.items():
        assert answer.comment, f"{path.name}: {answer.status} without a comment"
    for path, complaint in sending.unsent.items():
        assert any(words in complaint for words in STORESCU_CANNOT), (
            f"{path.name}: {complaint or sending.output}"
        )


def assert_all_ended(node: Node, identities: dict[Path, Identity], stored: list[Path]) -> None:
    uids = {identities[path].study_instance_uid for path in stored if path in identities}
    studies = node.wait_for_studies(len(uids), timeout_s=200)
    assert {study["study_instance_uid"] for study in studies} >= uids
    for study in studies:
        assert (study["state"], study["outcome"] in OUTCOMES) == ("done", True), study
        assert study["reason"] or study["outcome"] in ("findings", "no_findings"), study
    assert node.is_alive()
    assert node.is_ready()


def assert_silent_on_patients(node: Node, identities: dict[Path, Identity]) -> None:
    records = node.log_records()
    log = node.log_text() + json.dumps(records, ensure_ascii=False)
    names = {name for each in identities.values() for name in each.patient}
    assert not {name for name in names if name in log}
    assert "Traceback" not in log
    assert [record for record in records if "exception" in record or record["level"] == "error"] == []
