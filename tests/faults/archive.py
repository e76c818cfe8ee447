"""Orthanc that can be killed, and comes back with what it had."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.peers import free_ports
from tests.peers.orthanc import Orthanc, launch_orthanc


class MortalOrthanc(Orthanc):
    """One Orthanc in one folder on its two ports, however often it is started; `peers` are its modalities."""

    def __init__(self, folder: Path) -> None:
        dicom_port, http_port = free_ports(2)
        super().__init__(dicom_port=dicom_port, http_port=http_port)
        self._folder = folder
        self.peers: Mapping[str, tuple[str, str, int]] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it, and do not wait."""
        self._process = launch_orthanc(self._folder, self, self.peers)

    def kill(self) -> None:
        """SIGKILL it."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def kill_all(self) -> None:
        """The same: it has no children."""
        self.kill()

    def is_alive(self) -> bool:
        """Does the process run?"""
        return self._process is not None and self._process.poll() is None
