"""A power cut: what was answered with success is there after it, on the file systems that nodes run on."""

import fcntl
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.storage import Storage
from tests.doors import dataset_digest
from tests.peers import REPOSITORY, wait_until

# Linux, fs/xfs/libxfs/xfs_fs.h: XFS_IOC_GOINGDOWN, which ext4 knows too; the flag is "no log flush".
SHUTDOWN, WITHOUT_FLUSH = 0x8004587D, 2
IMAGE_MIB = 512

slow = pytest.mark.slow

STORING = """
import os, sys, threading
from pathlib import Path
from node.header import FileMeta
from node.storage import Storage, Watermark
from tests.instances import CT, EXPLICIT, encode_dataset

storage = Storage(Path(sys.argv[1]), Watermark(used_percent=100, free_bytes=0))
storage.open_journal("0", segment_bytes=8 << 20)

def store(thread):
    for number in range(10_000):
        uid = f"1.2.{thread}.{number}"
        size = (20_000, 300_000, 5_000_000)[number % 23 == 5 and 2 or number % 2]
        dataset = encode_dataset(uid, study_instance_uid=f"1.{number // 10}", pixels=bytes(size))
        with storage.new_instance(FileMeta(CT, uid, EXPLICIT)) as writer:
            for start in range(0, len(dataset), 100_000):
                writer.write(dataset[start : start + 100_000])
            stored = writer.commit()
        os.write(1, f"kept {uid} {stored.instance.digest}\\n".encode())

threads = [threading.Thread(target=store, args=(number,), daemon=True) for number in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:  # in a container, most often
        pytest.skip(f"this machine does not let us mount a file system: {done.stderr.strip()[-100:]}")


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """A disk of its own: each call has the power gone if it is mounted, and mounts it again."""
    maker = shutil.which(f"mkfs.{request.param}", path="/usr/sbin:/sbin")
    if os.geteuid() or not maker:
        pytest.skip(f"mounting is for root and mkfs.{request.param}")
    image, place = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(IMAGE_MIB << 20)
    run(maker, "-q", image)
    place.mkdir()

    def mount() -> Path:
        if place.is_mount():
            descriptor = os.open(place, os.O_RDONLY)
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
            os.close(descriptor)
            wait_until(lambda: not subprocess.run(["umount", place], check=False).returncode, "unmounted")
        run("mount", "-o", "loop", image, place)
        return place

    yield mount
    subprocess.run(["umount", place], check=False, capture_output=True)


@pytest.mark.parametrize("moment_s", [0.5, pytest.param(0.05, marks=slow), pytest.param(1.0, marks=slow)])
def test_what_was_safe_is_there_after_a_power_cut(disk: Callable[[], Path], moment_s: float) -> None:
    folder = disk() / "data"
    with subprocess.Popen(
        [sys.executable, "-c", STORING, folder],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        assert child.stdout
        told = child.stdout.readline()
        time.sleep(moment_s)
        disk()
        child.kill()
        told += child.stdout.read()

    storage = Storage(folder)
    storage.recover()
    found = {(one.sop_instance_uid, one.digest): one for one in storage.instances()}

    said = [line.split() for line in told.decode().splitlines()]
    promised = {(words[1], words[2]) for words in said if words[0] == "kept"}
    assert len(promised) > 3
    assert promised <= found.keys()
    assert all(is_whole(one.path) for one in found.values())


def is_whole(path: Path) -> bool:
    """Does the file have the digest that stands in its name?"""
    return path.name.split("_")[1].removesuffix(".dcm") == dataset_digest(path)
