"""Whose shared memory it is: a name that tells later whether the process that gave it still lives."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

PROC = Path("/proc")
START_TIME = 19
"""Place of the field `starttime` of /proc/PID/stat, counted from behind the command (proc(5))."""

NOWHERE = "0"


@dataclass(frozen=True, slots=True)
class Owner:
    """One process of this host; `home` stands for its data folder, `started` tells it from later ones."""

    PREFIX: ClassVar[str] = "sightline-"

    home: str
    boot: str
    namespace: int
    pid: int
    started: int

    @classmethod
    def of_this_process(cls, home: str = NOWHERE) -> "Owner":
        """Return this process; a home is letters and digits, and no other node's."""
        boot = (PROC / "sys/kernel/random/boot_id").read_text()[:8]
        pid = int((PROC / "self").readlink().name)
        return cls(home, boot, (PROC / "self/ns/pid").stat().st_ino, pid, _started(pid))

    @property
    def prefix(self) -> str:
        """What the names of its regions begin with."""
        return f"{self.PREFIX}{self.home}-{self.boot}-{self.namespace}-{self.pid}-{self.started}-"

    def has_outlived(self, name: str) -> bool:
        """Return whether a region is of a process that is gone.

        Of one in another container nothing can be seen here; but one of the same home is this node's earlier
        container.
        """
        parts = name.removeprefix(self.PREFIX).split("-")
        if not name.startswith(self.PREFIX) or len(parts) != 6 or not all(map(str.isalnum, parts)):
            return False
        home, boot, namespace, pid, started, _ = parts
        if (boot, namespace) == (self.boot, str(self.namespace)):
            return str(_started(pid)) != started
        return home == self.home != NOWHERE


def _started(pid: int | str) -> int:
    """Return when a process started, in clock ticks after the boot; 0 where there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[START_TIME])
