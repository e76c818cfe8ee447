"""The bytes of a connection, cut into PDUs and their fragments where they lie (PS3.8 9.3).

All of it is hostile: each length is checked against what is around it, before what follows is believed.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

P_DATA_TF = 0x04
PDU_HEADER = struct.Struct(">BxL")
PDV_HEADER = struct.Struct(">LBB")
PDV_LENGTH_BYTES = 4
CONTEXT_AND_CONTROL_BYTES = 2

# PS3.8 table 9-26: why a service provider aborts.
UNRECOGNIZED_PDU, UNEXPECTED_PDU, INVALID_VALUE = 0x01, 0x02, 0x06

# 128 presentation contexts with every transfer syntax there is make about half of it.
MAX_REQUEST_BYTES = 1 << 20
SHORT_PDU_BYTES = 4
MAX_BYTES_BY_TYPE = {
    0x01: MAX_REQUEST_BYTES,  # A-ASSOCIATE-RQ
    0x02: MAX_REQUEST_BYTES,  # A-ASSOCIATE-AC
    0x03: SHORT_PDU_BYTES,  # A-ASSOCIATE-RJ
    0x05: SHORT_PDU_BYTES,  # A-RELEASE-RQ
    0x06: SHORT_PDU_BYTES,  # A-RELEASE-RP
    0x07: SHORT_PDU_BYTES,  # A-ABORT
}


class PduError(Exception):
    """What came is no PDU; `reason` is that of the abort that answers it, the text is fit for a log."""

    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of a presentation data value; with `is_last`, command set or data set end here."""

    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


class Inbox:
    """One buffer for what a connection brings; fragments are views of it, and stay until `reclaim`.

    Memory is used as far as it was ever filled: with `reclaim` after each read, as far as one read goes.
    """

    def __init__(self, size_bytes: int, max_data_bytes: int) -> None:
        """Take P-DATA PDUs of up to so many bytes; no other PDU has more than the buffer holds."""
        self._buffer = memoryview(mmap(-1, size_bytes))
        self._max_data_bytes = max_data_bytes
        self._start = self._end = 0
        self._pdu_left = self._fragment_left = 0
        self._context_id = self._control = 0

    @property
    def free(self) -> memoryview:
        """Where the next bytes go; empty where the buffer has to be reclaimed first."""
        return self._buffer[self._end :]

    @property
    def is_between_pdus(self) -> bool:
        """Has everything been given out, to the end of a PDU?"""
        return not (self._pdu_left or self._fragment_left or self._start != self._end)

    def add(self, count: int) -> None:
        """Note that so many bytes were put where `free` says."""
        self._end += count

    def reclaim(self) -> None:
        """Make room again: every fragment that was given out is overwritten from now on."""
        rest = self._end - self._start
        if self._start:
            self._buffer[:rest] = bytes(self._buffer[self._start : self._end])
        self._start, self._end = 0, rest

    def take(self) -> Iterator[Fragment | tuple[int, bytes]]:
        """Yield what is there: fragments of P-DATA, and every other PDU whole, as its type and its bytes.

        Raises PduError for what is none.
        """
        while True:
            if self._fragment_left:
                if self._start == self._end:
                    return
                yield self._next_piece()
            elif self._pdu_left:
                if self._end - self._start < PDV_HEADER.size:
                    return
                self._open_fragment()
                if not self._fragment_left:
                    yield self._piece(0)
            elif self._end - self._start < PDU_HEADER.size:
                return
            else:
                other = self._open_pdu()
                if other is not None:
                    if not other[1]:
                        return
                    yield other

    def _open_pdu(self) -> tuple[int, bytes] | None:
        """Begin a P-DATA PDU, or return another one: its type and its bytes, none while some lack."""
        kind, length = PDU_HEADER.unpack_from(self._buffer, self._start)
        if kind == P_DATA_TF:
            if not PDV_HEADER.size <= length <= self._max_data_bytes:
                raise PduError(INVALID_VALUE, f"a P-DATA PDU of {length} bytes")
            self._start += PDU_HEADER.size
            self._pdu_left = length
            return None
        limit = MAX_BYTES_BY_TYPE.get(kind)
        if limit is None:
            raise PduError(UNRECOGNIZED_PDU, f"a PDU of type 0x{kind:02X}")
        if length > limit:
            raise PduError(INVALID_VALUE, f"a PDU of type 0x{kind:02X} and {length} bytes")
        stop = self._start + PDU_HEADER.size + length
        if stop > self._end:
            return kind, b""
        pdu = bytes(self._buffer[self._start : stop])
        self._start = stop
        return kind, pdu

    def _open_fragment(self) -> None:
        length, self._context_id, self._control = PDV_HEADER.unpack_from(self._buffer, self._start)
        left = self._pdu_left - PDV_LENGTH_BYTES - length
        # What is left holds nothing, or another item.
        if length < CONTEXT_AND_CONTROL_BYTES or left < 0 or 0 < left < PDV_HEADER.size:
            raise PduError(INVALID_VALUE, f"an item of {length} bytes in {self._pdu_left} of a PDU")
        self._start += PDV_HEADER.size
        self._pdu_left = left
        self._fragment_left = length - CONTEXT_AND_CONTROL_BYTES

    def _next_piece(self) -> Fragment:
        return self._piece(min(self._fragment_left, self._end - self._start))

    def _piece(self, size: int) -> Fragment:
        data = self._buffer[self._start : self._start + size]
        self._start += size
        self._fragment_left -= size
        is_last = bool(self._control & 2) and not self._fragment_left
        return Fragment(self._context_id, bool(self._control & 1), is_last, data)
