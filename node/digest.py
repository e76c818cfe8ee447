"""SHA-256 of what comes in pieces, on another core as far as one is free."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

Piece = bytes | memoryview

# To hand over costs some 50 µs, the hash of so much about 80.
AHEAD_BYTES = 1 << 17
_others = ThreadPoolExecutor(max_workers=2, thread_name_prefix="sha256")


class Digest:
    """A SHA-256 that is worked at while more comes in; pieces must not change before `catch_up`."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._left: list[Piece] = []
        self._left_bytes = 0
        self._ahead: Future[None] | None = None

    def add(self, piece: Piece) -> None:
        """Append a piece."""
        self._left.append(piece)
        self._left_bytes += len(piece)
        if self._left_bytes >= AHEAD_BYTES and (self._ahead is None or self._ahead.done()):
            self._ahead = _others.submit(self._update, self._left)
            self._left, self._left_bytes = [], 0

    def catch_up(self) -> bytes:
        """Return the digest of all that was added; what is still to do is done here."""
        if self._ahead is not None:
            self._ahead.result()
            self._ahead = None
        self._update(self._left)
        self._left, self._left_bytes = [], 0
        return self._sha256.digest()

    def _update(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self._sha256.update(piece)
