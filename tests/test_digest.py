"""The digest of pieces: that of the whole, however they come and whoever does the work."""

import hashlib

import pytest

from node.digest import AHEAD_BYTES, Digest

DATA = bytes(range(256)) * 4096


@pytest.mark.parametrize("size", [1 << 20, 100_000, AHEAD_BYTES, 4099])
def test_it_is_that_of_the_whole_at_any_time(size: int) -> None:
    digest = Digest()

    for start in range(0, len(DATA), size):
        digest.add(memoryview(DATA)[start : start + size])
        if start % 3 == 0:
            assert digest.catch_up() == hashlib.sha256(DATA[: start + size]).digest()

    assert digest.catch_up() == hashlib.sha256(DATA).digest()
    assert digest.catch_up() == hashlib.sha256(DATA).digest()


def test_a_buffer_that_is_used_again_after_catching_up_changes_nothing() -> None:
    digest, buffer = Digest(), bytearray(DATA)

    digest.add(memoryview(buffer))
    digest.catch_up()
    buffer[:] = bytes(len(buffer))

    assert digest.catch_up() == hashlib.sha256(DATA).digest()


def test_many_at_once_do_not_get_in_each_others_way() -> None:
    digests = [Digest() for _ in range(20)]

    for start in range(0, len(DATA), AHEAD_BYTES):
        for number, digest in enumerate(digests):
            digest.add(bytes([number]) + DATA[start : start + AHEAD_BYTES])

    for number, digest in enumerate(digests):
        parts = (bytes([number]) + DATA[s : s + AHEAD_BYTES] for s in range(0, len(DATA), AHEAD_BYTES))
        assert digest.catch_up() == hashlib.sha256(b"".join(parts)).digest()
