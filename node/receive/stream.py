"""The data set of a message on its way from the network to the spool."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from node.errors import DatasetError, SightlineError
from node.storage import InstanceWriter

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class DatasetStream(io.BytesIO):
    """What a DIMSE message takes for the buffer of its data set; an instance goes to the spool instead.

    `new_writer` is asked when the first piece comes; it returns None for a message that is no instance, whose
    data set is kept here. A failure waits until the data set is there in whole: before, nobody could be told.
    """

    def __init__(self, new_writer: Callable[[], InstanceWriter | None]) -> None:
        super().__init__()
        self._new_writer = new_writer
        self._has_begun = False
        self._writer: InstanceWriter | None = None
        self._fault: SightlineError | None = None

    def write(self, data: ReadableBuffer) -> int:
        """Append a piece; after a failure it is dropped."""
        piece = bytes(data)
        try:
            if not self._has_begun:
                self._has_begun = True
                self._writer = self._new_writer()
            if self._writer is None:
                return super().write(piece)
            if self._fault is None:
                self._writer.write(piece)
        except SightlineError as fault:
            self._fault = fault
            self.discard()
        return len(piece)

    def complete(self) -> InstanceWriter:
        """Return the writer that has the whole data set; raises what came in between."""
        if self._fault is not None:
            raise self._fault
        if self._writer is None:
            raise DatasetError("C-STORE", "the data set is empty")
        return self._writer

    def discard(self) -> None:
        """Delete what was written, unless it was committed."""
        if self._writer is not None:
            self._writer.abort()
