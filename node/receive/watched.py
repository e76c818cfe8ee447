"""Instances come in as files that somebody puts into a folder."""

import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import structlog

from node.disk import FILE_MODE, FOLDER_MODE
from node.errors import ConfigurationError, DatasetError, OutOfResourcesError, TransientError
from node.receive.folder import store_open_file
from node.receive.notes import Notes
from node.storage import Storage, Stored

log = structlog.get_logger()

DONE, REJECTED = "done", "rejected"
UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".crdownload")
CANNOT_UNDERSTAND = 0xC000
MAX_DEPTH = 32
# What cannot be looked at, or put away, is left alone for so long.
STUCK_S = 60.0
# Whoever makes a folder needs a while to fill it.
EMPTY_FOLDER_S = 3600
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a pipe that somebody put there waits for ever.
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class FolderSettings:
    """A folder to watch, and for which AE title its files count.

    A file is taken once nobody has changed it for `settle_s`. Then it is deleted, or moved to `done/`.
    """

    name: str
    path: Path
    called_ae_title: str
    settle_s: float = 2.0
    poll_s: float = 1.0
    deletes: bool = False


class _Signature(NamedTuple):
    inode: int
    length: int
    changed_ns: int


class _ChangingError(TransientError):
    """A file was changed while it was read."""


class FolderListener:
    """A Listener on one folder, its sub-folders included; links are not followed, and only files are read.

    It keeps nothing in mind that a restart could lose: a file that was stored and not yet moved is stored
    again, which is no new work. One that cannot be moved holds up no other. A study is released when no file
    of the folder is left to wait for.
    """

    def __init__(self, settings: FolderSettings, storage: Storage, notes: Notes) -> None:
        self._settings = settings
        self._storage = storage
        self._notes = notes
        self._log = log.bind(folder=settings.name)
        self._seen: dict[str, tuple[_Signature, float]] = {}
        self._now: dict[str, tuple[_Signature, float]] = {}
        self._stuck: dict[str, float] = {}
        self._unreleased: set[str] = set()
        self._is_short = False
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"folder-{settings.name}", daemon=True)

    def start(self) -> None:
        """Begin to watch; raises ConfigurationError where the folder cannot be used."""
        path = self._settings.path
        try:
            make_folders(path)
        except OSError as fault:
            name = f"receive.folders.{self._settings.name}.path"
            raise ConfigurationError([f"{name}: {path} cannot be used: {fault.strerror}"]) from fault
        self._thread.start()
        self._log.info("folder_watched")

    def stop(self) -> None:
        """Take no new file; one that is being stored is finished."""
        self._is_stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._is_stopping.wait(self._settings.poll_s):
            try:
                self.look()
            except OSError as fault:  # the folder is on a network, or somebody took it away
                self._log.warning("folder_unreadable", reason=fault.strerror)
            except Exception:  # the watch must outlive one bad round
                log.exception("folder_round_failed", folder=self._settings.name)

    def look(self) -> None:
        """Take every file that has come to rest since it was first seen like this."""
        self._now = {}
        with _opened(self._settings.path, None) as root, suppress(OutOfResourcesError):
            self._look_into(root, "", 0)
        self._seen = self._now
        forgotten = time.monotonic() - STUCK_S
        self._stuck = {path: until for path, until in self._stuck.items() if until > forgotten}
        if self._unreleased and not self._seen and not self._is_stopping.is_set():
            studies, self._unreleased = frozenset(self._unreleased), set()
            self._notes.on_release(studies, ended="released")

    def _look_into(self, folder: int, prefix: str, depth: int) -> None:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            if self._is_stopping.is_set():
                return
            if name.startswith(".") or name.lower().endswith(UNFINISHED):
                continue
            if self._stuck.get(prefix + name, 0.0) > time.monotonic():
                continue
            try:
                self._look_at_entry(folder, name, prefix, depth)
            except FileNotFoundError:  # somebody else took it
                continue
            except OSError as fault:
                self._leave_alone(prefix + name, fault)

    def _look_at_entry(self, folder: int, name: str, prefix: str, depth: int) -> None:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode):
            self._look_at(folder, name, prefix + name, _signature(found))
        elif stat.S_ISDIR(found.st_mode) and prefix + name not in (DONE, REJECTED):
            self._look_below(folder, name, prefix, depth)

    def _leave_alone(self, path: str, fault: OSError) -> None:
        """Look at something later again, and say so once; its name is for nobody's log."""
        if path not in self._stuck:
            self._log.warning("folder_entry_stuck", reason=fault.strerror)
        self._stuck[path] = time.monotonic() + STUCK_S
        self._now.pop(path, None)

    def _look_below(self, folder: int, name: str, prefix: str, depth: int) -> None:
        if depth == MAX_DEPTH:
            return
        with _opened(name, folder) as below:
            self._look_into(below, f"{prefix}{name}/", depth + 1)
            is_old = time.time() - os.fstat(below).st_mtime > EMPTY_FOLDER_S
        if is_old:
            with suppress(OSError):  # it is not empty
                os.rmdir(name, dir_fd=folder)

    def _look_at(self, folder: int, name: str, path: str, signature: _Signature) -> None:
        now = time.monotonic()
        before, since = self._seen.get(path, (None, now))
        since = since if before == signature else now
        self._now[path] = (signature, since)
        if now - since >= self._settings.settle_s and self._take(folder, name, signature):
            del self._now[path]

    def _take(self, folder: int, name: str, signature: _Signature) -> bool:
        """Store a file and put it away, or reject it; False where it is to be looked at again."""
        try:
            stored = self._store(folder, name, signature)
        except _ChangingError:
            return False
        except OutOfResourcesError as fault:
            if not self._is_short:
                self._log.warning("folder_waits", reason=str(fault))
            self._is_short = True
            raise
        except (DatasetError, OSError) as fault:
            reason = fault.message if isinstance(fault, DatasetError) else f"cannot be read: {fault.strerror}"
            self._reject(folder, name, reason)
            return True
        self._is_short = False
        self._unreleased.add(stored.instance.study_instance_uid)
        self._notes.on_stored([stored])
        uids = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
        named = {uid: getattr(stored.instance, uid) for uid in uids}
        self._log.info("instance_stored", is_new=stored.is_new, **named)
        self._put_away(folder, name)
        return True

    def _store(self, folder: int, name: str, signature: _Signature) -> Stored:
        descriptor = os.open(name, OPEN_FILE, dir_fd=folder)
        with os.fdopen(descriptor, "rb") as file:

            def check() -> None:
                found = os.fstat(file.fileno())
                if _signature(found) != signature or not stat.S_ISREG(found.st_mode):
                    raise _ChangingError(self._settings.name)

            check()
            title = self._settings.called_ae_title
            return store_open_file(file, "file", self._storage, title, check)

    def _put_away(self, folder: int, name: str) -> None:
        if self._settings.deletes:
            os.unlink(name, dir_fd=folder)
        else:
            self._move(folder, name, DONE)

    def _reject(self, folder: int, name: str, reason: str) -> None:
        """Move a file out of the way, with the reason beside it; its name is for nobody's log."""
        moved = self._move(folder, name, REJECTED)
        with _opened(self._settings.path / REJECTED, None) as rejected:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(f"{moved}.reason.txt", flags, FILE_MODE, dir_fd=rejected)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(f"{reason}\n")
        self._notes.on_refused(self._settings.called_ae_title, CANNOT_UNDERSTAND)
        self._log.warning("file_rejected", reason=reason)

    def _move(self, folder: int, name: str, where: str) -> str:
        """Move a file into one of our folders, under a name that is free there, and return that."""
        with _opened(self._settings.path, None) as root:
            with suppress(FileExistsError):  # somebody may have removed it
                os.mkdir(where, FOLDER_MODE, dir_fd=root)
            with _opened(where, root) as target:
                free = next(one for one in _numbered(name) if not _exists(one, target))
                os.rename(name, free, src_dir_fd=folder, dst_dir_fd=target)
                return free


def make_folders(path: Path) -> None:
    """Make a folder to watch, and ours in it; raises OSError where they cannot be used."""
    for folder in (path, path / DONE, path / REJECTED):
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        os.close(os.open(folder, OPEN_FOLDER))
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "it cannot be written to")


def _signature(found: os.stat_result) -> _Signature:
    return _Signature(found.st_ino, found.st_size, found.st_mtime_ns)


@contextmanager
def _opened(path: Path | str, folder: int | None) -> Iterator[int]:
    """Give a descriptor of a folder, which a link put in its place later does not change."""
    descriptor = os.open(path, OPEN_FOLDER, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _numbered(name: str) -> Iterator[str]:
    """Yield a name, and then others like it, short enough to be followed by `.reason.txt`."""
    stem, dot, suffix = name[:160].rpartition(".")
    stem, suffix = (stem, dot + suffix) if stem else (suffix, "")
    yield stem + suffix
    number = 2
    while True:
        yield f"{stem}-{number}{suffix}"
        number += 1


def _exists(name: str, folder: int) -> bool:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        return True
    return False
