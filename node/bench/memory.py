"""What a process holds in memory, now and at most, as Linux counts it."""

from pathlib import Path


def forget_peak() -> int:
    """Have Linux forget the most that was resident, and return what is now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def peak() -> int:
    """Return the most that was resident since then, in bytes."""
    return _resident("VmHWM")


def peak_of_children() -> int:
    """Return the most that was resident of each process that this one has started, added up, in bytes."""
    children = (task.read_text().split() for task in Path("/proc/self/task").glob("*/children"))
    return sum(_resident("VmHWM", child) for numbers in children for child in numbers)


def forget_peak_of(process: int) -> None:
    """Have Linux forget the most that was resident of another process of ours."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def peak_of(process: int) -> int:
    """Return the most that was resident of another process since then, in bytes."""
    return _resident("VmHWM", str(process))


def resident_of(process: int) -> int:
    """Return what is resident of another process, in bytes."""
    return _resident("VmRSS", str(process))


def _resident(name: str, process: str = "self") -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(kibibytes) << 10
