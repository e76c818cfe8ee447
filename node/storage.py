"""Files on disk: instances as they came in, and one folder for what each run makes of them.

```
incoming/                                          half-written files; nothing there counts
instances/<study>/<series>/<instance>_<digest>_<called AE title>.dcm
runs/<run>/
journal/<process>/                                 what is safe there already, and may not be yet in its place
```
A file that has its final name is whole, synced, and never changed again: the index can be rebuilt from names
and headers alone, and the time of its last change is the time it was received.
"""

import hashlib
import io
import itertools
import os
import re
import shutil
import time
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import structlog
from xxhash import xxh3_128

from node.disk import (
    FOLDER_MODE,
    Sync,
    disk_errors,
    make_folder,
    new_descriptor,
    out_of_resources,
    sync_folder,
    write_all,
)
from node.domain.study import Instance
from node.errors import DatasetError, OutOfResourcesError, StoreError
from node.header import FileMeta, Identifiers, encode_file_meta, read_file_meta, read_identifiers
from node.journal import SEGMENT_BYTES, Journal
from node.journal_record import Entry, replay

log = structlog.get_logger()
_numbers = itertools.count()

UID = re.compile(r"[0-9]+(\.[0-9]+)*")
# What names an instance is looked for in so much of it first.
BEGINNING_BYTES = 1 << 16
COMPARED_BYTES = 1 << 20
# So long the disk is taken to have the room that it had.
ROOM_S = 0.1
# From this part of the way to the watermark on, the disk counts as nearly full.
NEAR = 0.97
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Watermark:
    """How full the disk may get before nothing new is taken; whichever is reached first."""

    used_percent: float = 90.0
    free_bytes: int = 5 << 30


@dataclass(frozen=True, slots=True)
class Stored:
    """An instance that is safe on disk; `is_new` is False where these very bytes were there before."""

    instance: Instance
    is_new: bool


class InstanceWriter:
    """Takes the data set of one instance in pieces and makes it a stored file, or leaves nothing.

    It is a context manager: leaving without `commit` deletes what was written. Every failure of the disk is
    OutOfResourcesError, so that the sender keeps its copy and tries again.
    """

    def __init__(self, storage: "Storage", meta: FileMeta) -> None:
        self._storage = storage
        self._meta = meta
        self._digest = xxh3_128()
        self._head = encode_file_meta(meta)
        self._beginning = bytearray()
        self._size = 0
        self._slab = storage.journal.take_slab() if storage.journal else None
        # No Path: with it, to make a file and to give it its name takes twice as long.
        self._path = f"{storage.incoming}/{os.getpid()}-{next(_numbers)}.part"
        with disk_errors():
            self._descriptor = new_descriptor(self._path)
        self._is_there = True
        try:
            self._append(self._head)
        except OutOfResourcesError:
            self.abort()
            raise

    def write(self, data: bytes | memoryview) -> None:
        """Append a piece of the encoded data set, exactly as it came, while the processor has it at hand."""
        self._digest.update(data)
        if len(self._beginning) < BEGINNING_BYTES:
            self._beginning += data[: BEGINNING_BYTES - len(self._beginning)]
        self._size += len(data)
        if self._slab and not self._slab.add(data):
            self._give_back_slab()
        self._append(data)

    def _append(self, data: bytes | memoryview) -> None:
        try:
            write_all(self._descriptor, data)
        except OSError as fault:
            raise out_of_resources(fault) from fault

    def _give_back_slab(self) -> None:
        if self._slab and self._storage.journal:
            self._storage.journal.give_back(self._slab)
        self._slab = None

    def identifiers(self) -> Identifiers:
        """Return what names the instance once it is complete; DatasetError where it cannot be told."""
        beginning = io.BytesIO(self._beginning)
        if self._size == len(self._beginning):
            return self._read_identifiers(beginning)
        with suppress(DatasetError):  # the rest is pixels, most often
            found = self._read_identifiers(beginning)
            if found.modality:
                return found
        with disk_errors(), Path(self._path).open("rb") as file:
            file.seek(len(self._head))
            return self._read_identifiers(file)

    def _read_identifiers(self, file: BinaryIO) -> Identifiers:
        return read_identifiers(file, self._meta.transfer_syntax_uid, self._meta.sop_instance_uid)

    def commit(self, identifiers: Identifiers | None = None) -> Stored:
        """Return the instance once it is safe under its final name; `identifiers` are its own, if known."""
        storage = self._storage
        named = identifiers or self.identifiers()
        instance = storage.describe(named, self._meta, self._digest.hexdigest())
        if os.path.exists(instance.path):  # noqa: PTH110 - half the time, for each instance
            # A file there that is damaged is worth no more than none, and is replaced.
            with suppress(StoreError):
                before = storage.read_instance(instance.path)
                if self._is_in(instance.path):
                    return Stored(before, is_new=False)
        with disk_errors():
            if not self._commit_by_journal(instance.path):
                self._commit_by_itself(instance.path)
        return Stored(instance, is_new=True)

    def _is_in(self, path: Path) -> bool:
        """Does the file hold the same data set? False where it is damaged.

        Raises DatasetError for another data set of the same digest, which is no proof against a forger.
        """
        digest, is_same = xxh3_128(), True
        with disk_errors(), Path(self._path).open("rb") as ours, path.open("rb") as theirs:
            ours.seek(len(self._head))
            read_file_meta(theirs)
            while piece := theirs.read(COMPARED_BYTES):
                digest.update(piece)
                is_same = is_same and ours.read(COMPARED_BYTES) == piece
            is_same = is_same and not ours.read(1)
        if not is_same and digest.digest() == self._digest.digest():
            raise DatasetError(self._meta.sop_instance_uid, "other bytes with this UID have the same digest")
        return is_same

    def _commit_by_journal(self, path: Path) -> bool:
        """Have the bytes in the journal, synced, before the file has its name; nobody waits for the file.

        False, and nothing is done, where there is no journal, or it does not take this.
        """
        journal = self._storage.journal
        if not journal or not self._slab:
            return False
        name = str(path)[len(str(self._storage.root)) + 1 :]
        entry = Entry(name, self._head, self._slab, self._digest.digest())
        if not entry.fits:
            return False
        with journal.keeping(entry):
            try:
                self._give_name(path)
            except FileNotFoundError:  # the first of its series
                make_folder(path.parent, sync=_sync_later)
                self._give_name(path)
        return True

    def _commit_by_itself(self, path: Path) -> None:
        """Sync the file, give it its name, and sync that."""
        storage = self._storage
        storage.sync(self._descriptor)
        make_folder(path.parent, sync=storage.sync)
        if storage.journal:  # which may have made folders and left them to the page cache
            for folder in (path.parent.parent, storage.instances_folder):
                sync_folder(folder, sync=storage.sync)
        self._give_name(path)
        sync_folder(path.parent, sync=storage.sync)

    def _give_name(self, path: Path) -> None:
        os.rename(self._path, path)  # noqa: PTH104 - see __init__
        self._is_there = False

    def abort(self) -> None:
        """Close, and delete what was not committed."""
        self._give_back_slab()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._is_there:
            with suppress(OSError):
                os.unlink(self._path)  # noqa: PTH108 - see __init__
            self._is_there = False

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete what was not committed."""
        self.abort()


class Storage:
    """The node's folder. Several processes may use one; only the owner calls `sweep`."""

    def __init__(self, root: Path, watermark: Watermark | None = None, *, sync: Sync = os.fsync) -> None:
        """Make the folders that are missing under `root`.

        Whoever gives it a `journal` has instances of up to 4 MiB safe by one sync for several.
        """
        self.journal: Journal | None = None
        self._room = (0.0, True)
        self.root = root = root.absolute()
        self.incoming = root / "incoming"
        self.instances_folder = root / "instances"
        self.runs_folder = root / "runs"
        self.journals_folder = root / "journal"
        self.sync = sync
        self._watermark = watermark or Watermark()
        for folder in (self.incoming, self.instances_folder, self.runs_folder):
            folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        root.chmod(FOLDER_MODE)

    def sweep(self) -> int:
        """Delete what a killed process left half-written, before any port opens; return how many files."""
        leftovers = list(self.incoming.glob("*.part"))
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)

    def open_journal(self, name: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Keep small instances in the journal of this name, which one process may have open at a time."""
        folder = self.journals_folder / name
        self.journal = Journal(folder, self.root, segment_bytes=segment_bytes)

    def close_journal(self) -> None:
        """Leave the journal empty, where there is one."""
        if self.journal:
            self.journal.close()
            self.journal = None

    def recover(self) -> int:
        """Do what a killed node left to do, before any port opens; return how many files that was."""
        return sum(replay(folder, self.root) for folder in self.journals_folder.glob("*")) + self.sweep()

    def has_room(self) -> bool:
        """Is the disk below its watermark, or was it a moment ago?"""
        asked_at, has_room = self._room
        if time.monotonic() - asked_at > ROOM_S:
            has_room = self._measure_room()
            self._room = (time.monotonic(), has_room)
        return has_room

    def is_nearly_full(self) -> bool:
        """Is the disk so near to its watermark that something should leave?"""
        return not self._measure_room(NEAR)

    def _measure_room(self, part: float = 1.0) -> bool:
        usage, mark = shutil.disk_usage(self.root), self._watermark
        used_percent = 100 * usage.used / (usage.used + usage.free)
        return usage.free * part >= mark.free_bytes and used_percent <= mark.used_percent * part

    def new_instance(self, meta: FileMeta) -> InstanceWriter:
        """Return the writer for an instance that begins to come in.

        Raises OutOfResourcesError where the disk is at its watermark, or cannot be written to.
        """
        if not self.has_room():
            raise OutOfResourcesError("the disk is full to its watermark")
        return InstanceWriter(self, meta)

    def instances(self, known: Set[Path] = frozenset()) -> Iterator[Instance]:
        """Yield the stored instances but those at `known` paths, read from names and headers.

        A file that is no instance is logged and left out.
        """
        for path in sorted(self.instance_paths() - known):
            if instance := self.read_whole(path):
                yield instance

    def instance_paths(self) -> set[Path]:
        """Return every file that is an instance by its name."""
        return set(self.instances_folder.glob("*/*/*.dcm"))

    def read_whole(self, path: Path) -> Instance | None:
        """Return the instance in a stored file; None, and a line in the log, where it is none."""
        try:
            return self.read_instance(path)
        except StoreError as fault:
            log.warning("spool_file_skipped", path=str(path.relative_to(self.root)), reason=fault.message)
            return None

    def read_instance(self, path: Path) -> Instance:
        """Return the instance in a stored file; raises StoreError where it is missing or is none."""
        try:
            with path.open("rb") as file:
                meta = read_file_meta(file)
                identifiers = read_identifiers(file, meta.transfer_syntax_uid, path.name)
        except (OSError, DatasetError) as fault:
            reason = fault.message if isinstance(fault, DatasetError) else f"cannot be read: {fault.strerror}"
            raise StoreError(path.name, reason) from fault
        digest = path.stem.split("_")[1] if "_" in path.stem else ""
        instance = self.describe(identifiers, meta, digest)
        if instance.path != path:
            raise StoreError(path.name, f"its content belongs in {instance.path.relative_to(self.root)}")
        return instance

    def describe(self, identifiers: Identifiers, meta: FileMeta, digest: str) -> Instance:
        """Return the instance with these identifiers, and the path at which it is or will be stored."""
        parts = (_token(identifiers.sop_instance_uid, UID), digest, _token(meta.called_ae_title, PLAIN))
        name = "_".join(filter(None, parts))
        folder = self.series_folder(identifiers.study_instance_uid, identifiers.series_instance_uid)
        return Instance(
            identifiers.study_instance_uid,
            identifiers.series_instance_uid,
            identifiers.sop_instance_uid,
            identifiers.sop_class_uid,
            meta.transfer_syntax_uid,
            identifiers.modality,
            folder / f"{name}.dcm",
            digest,
            meta.called_ae_title,
            meta.calling_ae_title,
        )

    def series_folder(self, study_instance_uid: str, series_instance_uid: str) -> Path:
        """Return the folder that holds, or will hold, the instances of a series."""
        return self.instances_folder / _token(study_instance_uid, UID) / _token(series_instance_uid, UID)

    def run_folder(self, run_id: str) -> Path:
        """Return the folder of one run, made where it is missing."""
        folder = self.runs_folder / _token(run_id, PLAIN)
        with disk_errors():
            make_folder(folder, sync=self.sync)
        return folder


def _sync_later(_descriptor: int) -> None:
    """Leave it to the journal."""


def _token(text: str, grammar: re.Pattern[str]) -> str:
    """Return text as one component of a path: itself if it is as it should be, else its digest.

    What comes over the network may hold `..`, slashes, or more than a file name takes.
    """
    if not text or (len(text) <= 64 and grammar.fullmatch(text)):
        return text
    return "x" + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:40]
