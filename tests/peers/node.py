"""The node as a user runs it: a process of its own, its configuration in a file, its log as JSON lines.

Run as a program, this module is the node with a trip wire: it stops dead in the thread that logs the given
event, so that a test can kill it there, at a known point of its work.
"""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.peers import LOOPBACK, REPOSITORY, end_process, free_ports, wait_until

AE_TITLE = "SIGHTLINE"
UNFINISHED = ("", None)
NEVER_FULL = {"max_used_percent": 100, "min_free_gib": 0}
"""Receive settings by which no disk counts as full: how full the machine's is, decides no test."""

Json = dict[str, Any]


class Node:
    """One node and its folder; it can be started, killed and started again."""

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        """Write the configuration; the ports, the data folder and loopback are filled in."""
        self.ae_title = AE_TITLE
        self.processes = 2
        self.host = LOOPBACK
        self.port, self.web_port = free_ports(2)
        self.folder = folder
        self.log_path = folder / "node.log"
        self.configuration_path = folder / "sightline.toml"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._configuration: Json = {
            "data": str(folder / "data"),
            "receive": {"host": LOOPBACK, "port": self.port} | NEVER_FULL,
            "web": {"host": LOOPBACK, "port": self.web_port},
        }
        self.configure(configuration)

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Change the configuration file; a running node goes on with what it read."""
        self._configuration = _merge(self._configuration, changes)
        self.configuration_path.write_text(to_toml(self._configuration))

    @property
    def address(self) -> str:
        """What `sightline send --to` wants."""
        return f"{self.ae_title}@{self.host}:{self.port}"

    def start(self, hold_at: Mapping[str, str] | None = None) -> None:
        """Start the node, wait until it is ready; `hold_at` are fields of the log record to stop dead at."""
        # What a receiver process logs, it logs by itself: no trip wire is in it.
        self.configure({"receive": {"processes": 0 if hold_at else self.processes}})
        module = ["node.cli"] if hold_at is None else ["tests.peers.node", json.dumps(hold_at)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *module, "run", "-c", self.configuration_path],
                cwd=REPOSITORY,
                env=os.environ | {"TCP_NODELAY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: self.is_ready() or not self.is_alive(), "the node is ready")
        assert self.is_alive(), f"the node ended at once:\n{self.log_text()}"

    def kill(self) -> None:
        """SIGKILL the node and whatever it started: nothing gets to run any more."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self) -> int:
        """Stop the node as a service manager does, and return its exit status."""
        assert self._process, "never started"
        end_process(self._process, patience_s=30)
        return self._process.returncode

    def is_alive(self) -> bool:
        """Does the process run?"""
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Does /readyz answer 200?"""
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the node."""
        connection = http.client.HTTPConnection(self.host, self.web_port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def log_text(self) -> str:
        """All the node wrote since it was made, restarts included."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_records(self, **fields: object) -> list[Json]:
        """The records of the log that have these fields."""
        lines = self.log_text().splitlines()
        records = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [record for record in records if fields.items() <= record.items()]

    def wait_for_record(self, timeout_s: float = 60, **fields: object) -> Json:
        """Wait until the log has a record with these fields, and return it."""
        found = wait_until(lambda: self.log_records(**fields), f"the log has {fields}", timeout_s, 0.02)
        return found[0]

    def sightline(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command beside the running node."""
        return run_sightline(*arguments)

    def studies(self) -> list[Json]:
        """What `sightline studies list --json` says."""
        listed = self.sightline("studies", "list", "--json", "-c", str(self.configuration_path))
        assert listed.returncode == 0, listed.stderr
        return json.loads(listed.stdout)["studies"]

    def wait_for_studies(self, count: int, timeout_s: float = 60) -> list[Json]:
        """Wait until so many studies are read and no result waits for delivery, and return all studies."""
        deadline = time.monotonic() + timeout_s
        while not self._is_done(count):
            assert self.is_alive(), f"the node died:\n{self.log_text()[-3000:]}"
            assert time.monotonic() < deadline, (
                f"wanted {count} studies done: {self.studies()}\n{self.log_text()[-3000:]}"
            )
            time.sleep(0.1)
        return self.studies()

    def wait_for_confirmation(self, study_instance_uid: str, timeout_s: float = 60) -> Json:
        """Wait until every archive has confirmed the results of a study, and return what is shown of it."""
        command = ("studies", "show", study_instance_uid, "--json", "-c", str(self.configuration_path))
        deadline = time.monotonic() + timeout_s
        while (shown := json.loads(self.sightline(*command).stdout))["state"] == "confirming":
            assert time.monotonic() < deadline, shown["unconfirmed"]
        return shown

    def metrics(self) -> dict[str, float]:
        """The samples of /metrics: name with labels → value."""
        lines = self.get("/metrics")[1].splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def _is_done(self, count: int) -> bool:
        metrics = self.metrics()
        read = metrics['sightline_studies_open{state="analyzed"}']
        waiting = [f'sightline_studies_open{{state="{state}"}}' for state in ("receiving", "queued")]
        waiting.append("sightline_deliveries_pending")
        return read >= count and not any(metrics[name] for name in waiting)


def run_sightline(*arguments: str, timeout_s: float = 110) -> subprocess.CompletedProcess[str]:
    """Run a command of the node to its end, from the checkout."""
    return subprocess.run(
        [sys.executable, "-m", "node.cli", *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )


@contextmanager
def make_node(folder: Path, configuration: Mapping[str, Any]) -> Iterator[Node]:
    """A node that is not started yet, and is killed in any case: to stop in good order takes a while."""
    node = Node(folder, configuration)
    try:
        yield node
    finally:
        node.kill()


def to_toml(table: Mapping[str, Any]) -> str:
    """The mapping as TOML: tables below as inline values, which TOML allows at any depth."""
    return "".join(f"{_toml_key(key)} = {_toml_value(value)}\n" for key, value in table.items())


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").isalnum() else json.dumps(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(key)} = {_toml_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value)  # strings, numbers and booleans are written alike in both


def _merge(defaults: Json, changes: Mapping[str, Any]) -> Json:
    merged = dict(defaults)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


class _TripWire:
    """A stream that never returns from writing the record it waits for."""

    def __init__(self, stream: Any, fields: Mapping[str, str]) -> None:
        self._stream = stream
        self._fields = fields

    def write(self, text: str) -> int:
        written = self._stream.write(text)
        self._stream.flush()
        if self._matches(text):
            while True:
                time.sleep(60)
        return written

    def _matches(self, text: str) -> bool:
        try:
            record = json.loads(text)
        except ValueError:
            return False
        return isinstance(record, dict) and self._fields.items() <= record.items()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


if __name__ == "__main__":
    trip_wire, *sys.argv[1:] = sys.argv[1:]
    sys.stderr = _TripWire(sys.stderr, json.loads(trip_wire))  # type: ignore[assignment]
    sys.stdout = _TripWire(sys.stdout, json.loads(trip_wire))  # type: ignore[assignment]

    from node.cli import main

    main()
