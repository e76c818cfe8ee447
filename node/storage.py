"""Files on disk: instances as they came in, and one folder for what each run makes of them.

```
incoming/                                          half-written files; nothing there counts
instances/<study>/<series>/<instance>_<sha256>_<called AE title>.dcm
runs/<run>/
```
A file that has its final name is whole, synced, and never changed again: the index can be rebuilt from names
and headers alone, and the time of its last change is the time it was received.
"""

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import structlog

from node.disk import FOLDER_MODE, Sync, create_file, disk_errors, make_folder, sync_folder
from node.domain.study import Instance
from node.errors import DatasetError, OutOfResourcesError, StoreError
from node.header import FileMeta, Identifiers, encode_file_meta, read_file_meta, read_identifiers

log = structlog.get_logger()

UID = re.compile(r"[0-9]+(\.[0-9]+)*")
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
        self._path = storage.incoming / f"{uuid.uuid4().hex}.part"
        head = encode_file_meta(meta)
        self._offset = len(head)
        with disk_errors():
            self._file: BinaryIO = create_file(self._path)
            self._file.write(head)

    def write(self, data: bytes) -> None:
        """Append a piece of the encoded data set, exactly as it came."""
        with disk_errors():
            self._file.write(data)
        self._sha256.update(data)

    def identifiers(self) -> Identifiers:
        """Return what names the instance once it is complete; DatasetError where it cannot be told."""
        with disk_errors():
            self._file.seek(self._offset)
            return read_identifiers(self._file, self._meta.transfer_syntax_uid, self._meta.sop_instance_uid)

    def commit(self) -> Stored:
        """Return the instance once file and folder are synced under the final name."""
        instance = self._storage.describe(self.identifiers(), self._meta, self._sha256.hexdigest())
        # A file there that cannot be read is worth no more than none, and is replaced.
        with suppress(StoreError):
            return Stored(self._storage.read_instance(instance.path), is_new=False)
        with disk_errors():
            self._file.flush()
            self._storage.sync(self._file.fileno())
            make_folder(instance.path.parent, sync=self._storage.sync)
            self._path.rename(instance.path)
            sync_folder(instance.path.parent, sync=self._storage.sync)
        return Stored(instance, is_new=True)

    def abort(self) -> None:
        """Close, and delete what was not committed."""
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
        """Make the folders that are missing under `root`."""
        self.root = root = root.absolute()
        self.incoming = root / "incoming"
        self.instances_folder = root / "instances"
        self.runs_folder = root / "runs"
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

    def has_room(self, nearness: float = 1.0) -> bool:
        """Is the disk below its watermark, or (less than 1) so near to it that something should leave?"""
        usage, mark = shutil.disk_usage(self.root), self._watermark
        used_percent = 100 * usage.used / (usage.used + usage.free)
        return usage.free * nearness >= mark.free_bytes and used_percent <= mark.used_percent * nearness

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


def _token(text: str, grammar: re.Pattern[str]) -> str:
    """Return text as one component of a path: itself if it is as it should be, else its digest.

    What comes over the network may hold `..`, slashes, or more than a file name takes.
    """
    if not text or (len(text) <= 64 and grammar.fullmatch(text)):
        return text
    return "x" + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:40]
