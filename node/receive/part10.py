"""A DICOM file (PS3.10) on its way from the network to the spool, without its own file meta."""

import io
import struct
from collections.abc import Callable

from node.errors import DatasetError, SightlineError
from node.header import META_GROUP_LENGTH, PREAMBLE_BYTES, PREFIX, FileMeta, read_file_meta
from node.storage import InstanceWriter

# The head holds a dozen short values; more is no file meta.
MAX_HEAD_BYTES = 1 << 16
GROUP_LENGTH_ELEMENT = struct.Struct("<HH2sHL")
START = PREAMBLE_BYTES + len(PREFIX)


class FileStream:
    """Takes a DICOM file in pieces of any size; the data set goes to the spool as it comes.

    `new_writer` is asked once the file meta is there. A failure waits until the file is there in whole:
    before, nobody could be told of it.
    """

    def __init__(self, new_writer: Callable[[FileMeta], InstanceWriter]) -> None:
        self._new_writer = new_writer
        self._head: bytearray | None = bytearray()
        self._writer: InstanceWriter | None = None
        self._fault: SightlineError | None = None
        self.length = 0
        self.meta = FileMeta("", "", "")

    def write(self, data: bytes) -> None:
        """Append a piece; after a failure it is dropped."""
        self.length += len(data)
        if self._fault is not None:
            return
        try:
            self._write(data)
        except SightlineError as fault:
            self.fail(fault)

    def fail(self, fault: SightlineError) -> None:
        """Drop the file, with this reason."""
        self._fault = fault
        self._head = None
        self.discard()

    def complete(self) -> InstanceWriter:
        """Return the writer that has the whole data set; raises what came in between."""
        if self._head is not None:
            self._begin(self._head)
        if self._fault is not None:
            raise self._fault
        if self._writer is None:
            raise DatasetError("file", "no DICOM file: it ends in its file meta")
        return self._writer

    def discard(self) -> None:
        """Delete what was written, unless it was committed."""
        if self._writer is not None:
            self._writer.abort()

    def _write(self, data: bytes) -> None:
        if self._head is None:
            if self._writer is not None:
                self._writer.write(data)
            return
        self._head += data
        if len(self._head) >= _head_length(self._head):
            self._begin(self._head)

    def _begin(self, head: bytearray) -> None:
        """Open the writer with the file meta, and write what of the data set came with it."""
        self._head = None
        if head[PREAMBLE_BYTES:START] != PREFIX:
            raise DatasetError("file", "no DICOM file: it has no preamble")
        file = io.BytesIO(head)
        self.meta = read_file_meta(file)
        if not self.meta.transfer_syntax_uid or not self.meta.sop_instance_uid:
            raise DatasetError("file", "its file meta lacks transfer syntax or SOP Instance UID")
        self._writer = self._new_writer(self.meta)
        self._writer.write(file.read())


def _head_length(head: bytearray) -> int:
    """Return how much is needed to read the file meta; all that is allowed where its length is not told."""
    if len(head) < START + GROUP_LENGTH_ELEMENT.size:
        return START + GROUP_LENGTH_ELEMENT.size
    if head[PREAMBLE_BYTES:START] != PREFIX:
        return 0
    group, number, vr, size, length = GROUP_LENGTH_ELEMENT.unpack_from(head, START)
    if (group << 16 | number, vr, size) != (META_GROUP_LENGTH, b"UL", 4):
        return MAX_HEAD_BYTES
    # read_file_meta looks at the head of the element after the group.
    return min(START + GROUP_LENGTH_ELEMENT.size + int(length) + 12, MAX_HEAD_BYTES)
