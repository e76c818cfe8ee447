"""Files on disk: instances as they came in, and one folder for what each run makes of them.

```
incoming/                                          half-written files; nothing there counts
instances/<study>/<series>/<instance>_<sha256>_<called AE title>.dcm
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

from node.disk import (
    FILE_MODE,
    FOLDER_MODE,
    Sync,
    create_file,
    disk_errors,
    make_folder,
    sync_folder,
    write_all,
)
from node.domain.study import Instance
from node.errors import DatasetError, OutOfResourcesError, StoreError
from node.header import FileMeta, Identifiers, encode_file_meta, read_file_meta, read_identifiers
from node.journal import Entry, Journal, replay

log = structlog.get_logger()
_numbers = itertools.count()

UID = re.compile(r"[0-9]+(\.[0-9]+)*")
# What fits into the journal; more is written to the file as it comes.
MAX_HELD_BYTES = 4 << 20
# So many can be written in one call.
MAX_PIECES = 1000
# So long the disk is taken to have the room that it had.
ROOM_S = 0.1
SEGMENT_BYTES = 64 << 20
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
        self._sha256 = hashlib.sha256()
        self._path = storage.incoming / f"{os.getpid()}-{next(_numbers)}.part"
        self._head = encode_file_meta(meta)
        self._pieces: list[bytes | memoryview] = []
        self._held = 0
        self._file: BinaryIO | None = None
        self._identifiers: Identifiers | None = None

    @property
    def holds_pieces(self) -> bool:
        """Are pieces held that were not copied anywhere?"""
        return bool(self._pieces)

    def write(self, data: bytes | memoryview) -> None:
        """Append a piece of the encoded data set, exactly as it came; it must not change before `spill`."""
        self._identifiers = None
        self._sha256.update(data)
        self._pieces.append(data)
        self._held += len(data)
        if self._held > MAX_HELD_BYTES or len(self._pieces) > MAX_PIECES:
            self.spill()

    def spill(self) -> None:
        """Put what is held into the file."""
        with disk_errors():
            file = self._opened()
            for piece in self._pieces:
                file.write(piece)
        self._pieces, self._held = [], 0

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = create_file(self._path)
            self._file.write(self._head)
        return self._file

    def identifiers(self) -> Identifiers:
        """Return what names the instance once it is complete; DatasetError where it cannot be told."""
        if self._identifiers is None:
            if self._file is None:
                self._identifiers = self._held_identifiers()
            else:
                self.spill()
                with disk_errors():
                    self._file.seek(len(self._head))
                    self._identifiers = self._read_identifiers(self._file)
                    self._file.seek(0, os.SEEK_END)
        return self._identifiers

    def _held_identifiers(self) -> Identifiers:
        """Look for them in the beginning first: the rest is pixels, and is copied to be looked at."""
        if self._pieces and len(self._pieces[0]) < self._held:
            with suppress(DatasetError):
                found = self._read_identifiers(io.BytesIO(self._pieces[0]))
                if found.modality:
                    return found
        return self._read_identifiers(io.BytesIO(b"".join(self._pieces)))

    def _read_identifiers(self, file: BinaryIO) -> Identifiers:
        return read_identifiers(file, self._meta.transfer_syntax_uid, self._meta.sop_instance_uid)

    def commit(self) -> Stored:
        """Return the instance once it is safe under its final name."""
        storage = self._storage
        instance = storage.describe(self.identifiers(), self._meta, self._sha256.hexdigest())
        if os.path.exists(instance.path):  # noqa: PTH110 - half the time, for each instance
            # A file there that cannot be read is worth no more than none, and is replaced.
            with suppress(StoreError):
                return Stored(storage.read_instance(instance.path), is_new=False)
        with disk_errors():
            if self._file is None and storage.journal:
                self._commit_by_journal(instance.path, storage.journal)
            else:
                self._commit_by_itself(instance.path)
        return Stored(instance, is_new=True)

    def _commit_by_journal(self, path: Path, journal: Journal) -> None:
        """Have the bytes in the journal, synced, before the file has its name; nobody waits for the file."""
        self._write_held(_sync_later)
        name = str(path.relative_to(self._storage.root))
        with journal.keeping(Entry(name, self._head, self._pieces, self._sha256.digest())):
            make_folder(path.parent, sync=_sync_later)
            self._path.rename(path)

    def _write_held(self, sync: Sync) -> None:
        """Write the file from what is held, all at once."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            write_all(descriptor, [self._head, *self._pieces])
            sync(descriptor)
        finally:
            os.close(descriptor)

    def _commit_by_itself(self, path: Path) -> None:
        """Sync the file, give it its name, and sync that."""
        storage = self._storage
        if self._file is None:
            self._write_held(storage.sync)
        else:
            self.spill()
            self._file.flush()
            storage.sync(self._file.fileno())
        make_folder(path.parent, sync=storage.sync)
        if storage.journal:  # which may have made folders and left them to the page cache
            for folder in (path.parent.parent, storage.instances_folder):
                sync_folder(folder, sync=storage.sync)
        self._path.rename(path)
        sync_folder(path.parent, sync=storage.sync)

    def abort(self) -> None:
        """Close, and delete what was not committed."""
        self._pieces = []
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._path.unlink(missing_ok=True)

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
        sha256 = path.stem.split("_")[1] if "_" in path.stem else ""
        instance = self.describe(identifiers, meta, sha256)
        if instance.path != path:
            raise StoreError(path.name, f"its content belongs in {instance.path.relative_to(self.root)}")
        return instance

    def describe(self, identifiers: Identifiers, meta: FileMeta, sha256: str) -> Instance:
        """Return the instance with these identifiers, and the path at which it is or will be stored."""
        parts = (_token(identifiers.sop_instance_uid, UID), sha256, _token(meta.called_ae_title, PLAIN))
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
            sha256,
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
