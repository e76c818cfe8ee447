"""DICOM files on disk into the spool, byte for byte, as if they had come over the network."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from node.errors import DatasetError
from node.header import FileMeta, guess_transfer_syntax, read_file_meta, read_identifiers
from node.storage import Storage, Stored

CHUNK_BYTES = 1 << 20
SEVERAL_FILES = ".mrxs"


def find_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files among the paths and in the folders; raises DatasetError for a path that is neither.

    What lies in the folder of a slide in several files is left out: it is read with the file that names it.
    """
    for path in paths:
        if path.is_dir():
            yield from sorted(
                one
                for one in path.rglob("*")
                if one.is_file() and not one.name.startswith(".") and not _belongs_to_a_slide(one)
            )
        elif path.is_file():
            yield path
        else:
            raise DatasetError(path.name, "there is no such file or folder")


def companions(path: Path) -> list[Path]:
    """Return the files that belong to a slide in several (MIRAX), in a folder of its name beside it."""
    if path.suffix.lower() != SEVERAL_FILES:
        return []
    folder = path.with_suffix("")
    return sorted(one for one in folder.iterdir() if one.is_file()) if folder.is_dir() else []


def _belongs_to_a_slide(path: Path) -> bool:
    folder = path.parent
    return (folder.parent / f"{folder.name}{SEVERAL_FILES}").is_file()


def store_file(path: Path, storage: Storage) -> Stored:
    """Put one DICOM file into the spool; without file meta its first element tells the transfer syntax.

    Raises DatasetError where it is no DICOM file or lacks an identifier, OutOfResourcesError for a full disk.
    """
    with path.open("rb") as file:
        return store_open_file(file, path.name, storage)


def store_open_file(
    file: BinaryIO,
    name: str,
    storage: Storage,
    called_ae_title: str = "",
    before_commit: Callable[[], None] = lambda: None,
) -> Stored:
    """Put one DICOM file into the spool as `store_file` does; what `before_commit` raises keeps it out."""
    meta = read_file_meta(file)
    start = file.tell()
    syntax = meta.transfer_syntax_uid or guess_transfer_syntax(file)
    identifiers = read_identifiers(file, syntax, name)
    file.seek(start)
    uids = (identifiers.sop_class_uid, identifiers.sop_instance_uid)
    with storage.new_instance(FileMeta(*uids, syntax, called_ae_title=called_ae_title)) as writer:
        while chunk := file.read(CHUNK_BYTES):
            writer.write(chunk)
        before_commit()
        return writer.commit()
