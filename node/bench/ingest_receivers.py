"""What instances are sent to: the node's receiver, synced and not, DCMTK's storescp, and Orthanc."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from node.errors import ConfigurationError, OutOfResourcesError
from node.index import open_index
from node.receive.notes import Notes
from node.receive.processes import ReceiverProcesses
from node.receiver import build_receiver, build_storage
from node.settings import Configuration, LogSettings, ReceiveSettings
from node.storage import Stored

LOOPBACK, AE_TITLE = "127.0.0.1", "SIGHTLINE"
NODE, UNSYNCED, STORESCP, ORTHANC = "node", "node unsynced", "storescp", "orthanc"
RECEIVERS = (NODE, UNSYNCED, STORESCP, ORTHANC)
START_S, END_S = 30.0, 10.0
# Without it, both wait for the sender's Nagle and their own delayed acknowledgement.
ENVIRONMENT = {"TCP_NODELAY": "1"}


@dataclass(frozen=True, slots=True)
class Receiver:
    """One that runs: where it listens, its processes, and how the room that it took is freed."""

    name: str
    port: int
    processes: Callable[[], Sequence[int]]
    clean: Callable[[], None]


def find_program(name: str, package: str) -> str:
    """Return the path of a program; raises ConfigurationError where the machine has none.

    The system's folders come first: pynetdicom puts a storescp of its own beside Python's interpreter.
    """
    found = shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin")
    if not found:
        raise ConfigurationError([f"{name} is not installed, which is measured beside (package {package})"])
    return found


@contextmanager
def running_node(folder: Path, *, name: str = NODE, sync: bool = True) -> Iterator[Receiver]:
    """Run the node's receiver in its own process, and its index in this one, as in `sightline run`."""
    receive = ReceiveSettings(
        port=free_port(), sync=sync, max_associations=64, max_used_percent=100, min_free_gib=0
    )
    log = LogSettings(level="warning", path=str(folder / "log"))
    configuration = Configuration(data=folder / "data", receive=receive, log=log)
    storage = build_storage(configuration.data, receive)
    with closing(open_index(configuration.data)) as index:

        def note(stored: Sequence[Stored]) -> None:
            index.record_instances([one.instance for one in stored])

        receiver = build_receiver(configuration, storage, index, Notes(note, _ignore, _ignore))
        if not isinstance(receiver, ReceiverProcesses):
            raise ConfigurationError(["the receiver is measured in a process of its own"])
        receiver.start()
        try:
            yield Receiver(
                name, receiver.port, lambda: receiver.process_ids, lambda: _empty(storage.instances_folder)
            )
        finally:
            receiver.stop()


@contextmanager
def running_storescp(folder: Path, associations: int) -> Iterator[Receiver]:
    """Run DCMTK's storescp with its defaults; it serves several associations in a process for each."""
    port, files = free_port(), folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    program = find_program("storescp", "dcmtk")
    fork = ["--fork"] if associations > 1 else []
    command = [program, *fork, "-aet", AE_TITLE, "-od", str(files), str(port)]
    with _program(command, folder, port) as process:
        yield Receiver(STORESCP, port, lambda: [process], lambda: _empty(files))


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Receiver]:
    """Run Orthanc with its defaults, which sync each file."""
    port, program = free_port(), find_program("Orthanc", "orthanc")
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpServerEnabled": False,
        "DicomAet": AE_TITLE,
        "DicomPort": port,
        "DicomAlwaysAllowStore": True,
        "SyncStorageArea": True,
        "OverwriteInstances": False,
        "Plugins": [],
    }
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(settings))
    with _program([program, str(configuration)], folder, port) as process:
        yield Receiver(ORTHANC, port, lambda: [process], lambda: None)


@contextmanager
def running_receivers(folder: Path, names: Sequence[str], associations: int) -> Iterator[dict[str, Receiver]]:
    """Run all that are named, by their names."""
    with ExitStack() as stack:
        starts = {
            NODE: lambda place: running_node(place),
            UNSYNCED: lambda place: running_node(place, name=UNSYNCED, sync=False),
            STORESCP: lambda place: running_storescp(place, associations),
            ORTHANC: running_orthanc,
        }
        yield {
            name: stack.enter_context(starts[name](folder / f"{name.replace(' ', '-')}-{associations}"))
            for name in names
        }


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server((LOOPBACK, 0)) as one:
        return int(one.getsockname()[1])


@contextmanager
def _program(command: Sequence[str], folder: Path, port: int) -> Iterator[int]:
    """Run a peer until the end of the block, and give its process; raises OutOfResourcesError if it fails."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - the peers that this file names
            command, stdout=log, stderr=log, cwd=folder, env=os.environ | ENVIRONMENT
        )
    try:
        _await_port(process, port)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_port(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)) == 0:
                return
        time.sleep(0.05)
    raise OutOfResourcesError(f"the program that is measured beside does not listen on port {port}")


def _empty(folder: Path) -> None:
    """Free what the files hold, and leave them there.

    For minutes ext4 steps over each inode that was deleted, one by one: thousands of them make every new file
    slow, whoever writes it.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)


def _ignore(*_: object, **_named: object) -> None:
    """Do nothing: a benchmark wants to know the rate alone."""
