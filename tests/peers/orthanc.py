"""Orthanc, the Debian package, as the PACS."""

import http.client
import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset

from tests.peers import LOOPBACK, end_process, free_ports, need_program, wait_until

AE_TITLE = "ORTHANC"
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """One running Orthanc, through its REST interface."""

    def __init__(self, *, dicom_port: int, http_port: int) -> None:
        self.ae_title = AE_TITLE
        self.host = LOOPBACK
        self.port = dicom_port
        self.http_port = http_port

    def upload(self, path: Path) -> None:
        """Put a file into the archive as if a modality had sent it."""
        self._ask("POST", "/instances", path.read_bytes())

    def forward(self, study_instance_uid: str, modality: str = "node") -> dict[str, Any]:
        """C-STORE the whole study to one of its peers; returns the report of the finished job."""
        answer = self._ask(
            "POST", f"/modalities/{modality}/store", self._study_id(study_instance_uid).encode()
        )
        return json.loads(answer)

    def ask_commitment(self, instances: Iterable[tuple[str, str]], modality: str = "node") -> str:
        """Ask one of its peers to keep instances (SOP class, SOP instance); returns an identifier."""
        body = json.dumps({"DicomInstances": [list(one) for one in instances]}).encode()
        return json.loads(self._ask("POST", f"/modalities/{modality}/storage-commitment", body))["ID"]

    def commitment(self, identifier: str) -> dict[str, Any]:
        """What its peer reported on a request: `Status`, and what is in it."""
        return json.loads(self._ask("GET", f"/storage-commitment/{identifier}"))

    def stow_to(self, server: str, study_instance_uids: Iterable[str]) -> dict[str, Any]:
        """Have the plugin send whole studies to one of its servers by STOW-RS; its report."""
        resources = [self._study_id(uid) for uid in study_instance_uids]
        query = json.dumps({"Resources": resources, "Synchronous": True}).encode()
        return json.loads(self._ask("POST", f"/dicom-web/servers/{server}/stow", query))

    def instances(self, study_instance_uid: str) -> dict[str, str]:
        """SOP Instance UID → Orthanc's identifier, for all the study holds now."""
        study_id = self._study_id(study_instance_uid)
        answer = json.loads(self._ask("GET", f"/studies/{study_id}/instances")) if study_id else []
        return {each["MainDicomTags"]["SOPInstanceUID"]: each["ID"] for each in answer}

    def studies(self) -> list[str]:
        """The Study Instance UID of every study in the archive."""
        answer = json.loads(self._ask("GET", "/studies?expand"))
        return [each["MainDicomTags"]["StudyInstanceUID"] for each in answer]

    def arrivals(self) -> int:
        """How many instances were new to the archive since it started."""
        changes = json.loads(self._ask("GET", "/changes?limit=10000"))["Changes"]
        return sum(each["ChangeType"] == "NewInstance" for each in changes)

    def download(self, identifier: str) -> bytes:
        """The file of one instance."""
        return self._ask("GET", f"/instances/{identifier}/file")

    def stow(self, paths: Iterable[Path]) -> None:
        """Store files by STOW-RS (PS3.18 10.5), all in one request; none may be refused."""
        boundary = b"part"
        parts = [
            b"--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n"
            for path in paths
        ]
        content_type = f'multipart/related; type="application/dicom"; boundary={boundary.decode()}'
        answer = json.loads(
            self._ask(
                "POST",
                "/dicom-web/studies",
                b"".join(parts) + b"--" + boundary + b"--\r\n",
                {"Content-Type": content_type, "Accept": "application/dicom+json"},
            )
        )
        # The plug-in always has the sequence of failures; what counts is whether something is in it.
        failed = answer.get("00081198", {}).get("Value", [])
        assert not failed, f"refused by STOW-RS: {failed}"
        assert len(answer["00081199"]["Value"]) == len(parts)

    def retrieve(self, dataset: Dataset) -> bytes:
        """The file of one instance by WADO-RS (PS3.18 10.4), in the transfer syntax it is stored in."""
        path = (
            f"/dicom-web/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
            f"/instances/{dataset.SOPInstanceUID}"
        )
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        content = self._ask("GET", path, headers={"Accept": accept})
        boundary = content[: content.index(b"\r\n")]
        head, _, rest = content.partition(b"\r\n\r\n")
        assert head.startswith(boundary)
        return rest[: rest.rindex(b"\r\n" + boundary)]

    def answers(self) -> bool:
        """Is the REST interface up?"""
        try:
            return bool(self._ask("GET", "/system"))
        except OSError:
            return False

    def _study_id(self, study_instance_uid: str) -> str:
        query = {"Level": "Study", "Query": {"StudyInstanceUID": study_instance_uid}}
        found = json.loads(self._ask("POST", "/tools/find", json.dumps(query).encode()))
        return found[0] if found else ""

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        connection = http.client.HTTPConnection(self.host, self.http_port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        assert response.status == 200, f"Orthanc: {method} {path}: {response.status} {content[:500]!r}"
        return content


@contextmanager
def run_orthanc(
    folder: Path,
    peers: Mapping[str, tuple[str, str, int]],
    web_peers: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[Orthanc]:
    """Start Orthanc in an empty folder; `peers` are its modalities: name → (AE title, host, port).

    `web_peers` are the servers that its DICOMweb plugin knows: name → their settings.
    """
    dicom_port, http_port = free_ports(2)
    orthanc = Orthanc(dicom_port=dicom_port, http_port=http_port)
    process = launch_orthanc(folder, orthanc, peers, web_peers)
    try:
        wait_until(lambda: orthanc.answers() or process.poll() is not None, "Orthanc answers")
        assert process.poll() is None, (folder / "orthanc.log").read_text()
        yield orthanc
    finally:
        end_process(process)


def launch_orthanc(
    folder: Path,
    orthanc: Orthanc,
    peers: Mapping[str, tuple[str, str, int]],
    web_peers: Mapping[str, Mapping[str, Any]] | None = None,
) -> subprocess.Popen[bytes]:
    """Start Orthanc on its ports, with what its folder holds, and do not wait until it answers."""
    program = need_program("Orthanc", "orthanc")
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "orthanc.json"
    settings = _settings(folder, orthanc.port, orthanc.http_port, peers)
    settings["DicomWeb"]["Servers"] = dict(web_peers or {})
    configuration.write_text(json.dumps(settings, indent=2))
    environment = os.environ | {"TCP_NODELAY": "1"}
    with (folder / "orthanc.log").open("ab") as log:
        return subprocess.Popen([program, configuration], stdout=log, stderr=log, cwd=folder, env=environment)


def _settings(
    folder: Path, dicom_port: int, http_port: int, peers: Mapping[str, tuple[str, str, int]]
) -> dict[str, Any]:
    return {
        "Name": "archive of the tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": AE_TITLE,
        "DicomPort": dicom_port,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "UnknownSopClassAccepted": True,
        # A second copy of an instance must not pass unseen by replacing the first.
        "OverwriteInstances": False,
        "StableAge": 1,
        "DicomModalities": {name: list(peer) for name, peer in peers.items()},
        "Plugins": [str(DICOMWEB_PLUGIN)] if DICOMWEB_PLUGIN.exists() else [],
        # No "Host": the plugin then answers with the name and port it was asked by.
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
