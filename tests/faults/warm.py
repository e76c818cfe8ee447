"""Nodes that start at once: a process that has imported everything, and forks a `sightline run` when told to.

An interpreter of its own would spend three seconds on imports at each of the hundreds of starts. What is
forked has a session of its own, so that all that it ever started is found, orphans too.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from tests.peers import REPOSITORY, end_process, wait_until
from tests.peers.node import Node


class WarmNode(Node):
    """A node of such a process; `start` of the ordinary one is `launch` and waiting here."""

    def __init__(self, folder: Path, configuration: dict[str, object], nursery: "Nursery") -> None:
        super().__init__(folder, configuration)
        self._nursery = nursery
        self.sessions: list[int] = []

    def launch(self) -> None:
        """Start it, and do not wait."""
        self.sessions.append(self._nursery.fork(self.configuration_path, self.log_path))

    def is_alive(self) -> bool:
        """Does the main process run?"""
        return bool(self.sessions) and Path(f"/proc/{self.sessions[-1]}").exists()

    def children(self) -> list[int]:
        """What the running node has started."""
        return [pid for pid in members(self.sessions[-1:]) if pid != self.sessions[-1]]

    def orphans(self) -> list[int]:
        """What nodes that are dead have left behind."""
        return members(self.sessions if not self.is_alive() else self.sessions[:-1])

    def kill(self) -> None:
        """SIGKILL it with all that it started."""
        for pid in {*members(self.sessions[-1:]), self.sessions[-1]}:
            kill_process(pid)
        self._wait_for_end()

    def kill_main(self) -> None:
        """SIGKILL its main process alone."""
        kill_process(self.sessions[-1])
        self._wait_for_end()

    def kill_all(self) -> None:
        """SIGKILL everything that any start of it has left."""
        for pid in members(self.sessions):
            kill_process(pid)

    def _wait_for_end(self) -> None:
        wait_until(lambda: not self.is_alive(), "the node is dead", 10, 0.005)


class Nursery:
    """The process that forks."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def fork(self, configuration: Path, log: Path) -> int:
        """Start a node, and return its process, which is the leader of its session."""
        commands, answers = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        commands.write(f"{configuration}\t{log}\n".encode())
        commands.flush()
        return int(answers.readline())


@contextmanager
def run_nursery() -> Iterator[Nursery]:
    """Have the process until the end of the block."""
    # Threads of a linear algebra library would not survive the fork.
    environment = os.environ | {"TCP_NODELAY": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        env=environment,
    )
    try:
        yield Nursery(process)
    finally:
        cast(IO[bytes], process.stdin).close()
        end_process(process)


def members(sessions: list[int]) -> list[int]:
    """Return the living processes of these sessions."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # Behind the name, which may hold anything: state, parent, group, session.
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(session) in sessions and state != "Z":
            found.append(int(path.parent.name))
    return sorted(found)


def kill_process(pid: int) -> None:
    """SIGKILL a process; one that has just ended is none the worse for it."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _serve() -> None:
    import node.app  # noqa: F401
    from node.cli import main
    from node.encode import warm_up

    warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        configuration, log = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            _become_node(configuration, log)
            try:
                main()
            finally:
                os._exit(1)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _become_node(configuration: str, log: str) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, target)
    sys.argv = ["sightline", "run", "-c", configuration]


if __name__ == "__main__":
    _serve()
