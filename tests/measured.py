"""How long a command takes, and how much memory it and what it starts need at most."""

import subprocess
import sys
import time
from pathlib import Path

from tests.peers import REPOSITORY


def run_measured(*arguments: str) -> tuple[float, float]:
    """Run a command of the node; return its seconds, and the peak of its memory and its processes' in GiB."""
    started = time.monotonic()
    with subprocess.Popen([sys.executable, "-m", "node.cli", *arguments], cwd=REPOSITORY) as process:
        peak_kib: dict[int, int] = {}
        while process.poll() is None:
            for pid in (process.pid, *children_of(process.pid)):
                peak_kib[pid] = max(peak_kib.get(pid, 0), peak_of(pid))
            time.sleep(0.2)
    assert process.returncode == 0
    return time.monotonic() - started, sum(peak_kib.values()) / 1024**2


def children_of(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    children = [int(word) for word in text.split()]
    return [*children, *(grandchild for child in children for grandchild in children_of(child))]


def peak_of(pid: int) -> int:
    """The most that a process ever had in memory, in KiB; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
