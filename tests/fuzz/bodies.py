"""The target that is the body of a STOW-RS request: parts and files, spoiled, in pieces of any size."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from xml.etree import ElementTree

from node.errors import MalformedRequestError, RequestTooLargeError
from node.receive.multipart import MAX_HEAD_BYTES, MultipartReader, parse_media_type
from node.receive.notes import Notes
from node.receive.stow import Admission, StowReception
from node.receive.stow_answer import JSON, PROCESSING_FAILURE, XML, encode_answer
from node.storage import Storage, Stored
from tests.doors import ANY_DISK
from tests.fuzz.mutation import mutate
from tests.fuzz.network import CLIMBING, strays_in
from tests.fuzz.seeds import Seed
from tests.fuzz.values import rename_file, spoil
from tests.web_doors import BOUNDARY, file, multipart

MAX_PARTS = 5
PIECE_BYTES = (1, 7, 100, 5000)
TYPES = ("application/dicom", 'application/dicom; x="', "é", "x*0*=''%zz", "a\x0bb", "multipart/related")
DEPTH = "a/b/c/d/spool"


class Bodies:
    """A request without its network: what is read of it, stored, and answered."""

    def __init__(self, _seeds: list[Seed], folder: Path) -> None:
        self._watched = folder / "bodies"
        self._data = self._watched / DEPTH / "data"
        self._storage = Storage(self._data, ANY_DISK)
        self._names = (*CLIMBING, str(self._watched / "out").encode())
        self._files = [file(f"1.2.3.{number}", pixels=bytes(2000)) for number in range(3)]
        self._stored: set[Path] = set()

    def make(self, rng: Random) -> bytes:
        files = [self._spoiled(rng, one) for one in self._files]
        body = multipart(files, part_type=rng.choice(TYPES) if rng.random() < 0.2 else TYPES[0])
        return mutate(rng, body) if rng.random() < 0.4 else body

    def _spoiled(self, rng: Random, data: bytes) -> bytes:
        way = rng.random()
        if way < 0.3:
            return rename_file(rng, data, self._names)
        return spoil(rng, data) if way < 0.6 else mutate(rng, data) if way < 0.8 else data

    def attempt(self, data: bytes, rng: Random) -> None:
        parse_media_type(data[:100].decode("latin-1"))
        admission = Admission("FUZZ", accept_private_classes=True, max_instance_bytes=10_000)
        reception = StowReception(self._storage, admission, Notes(self._note, _ignore, _ignore))
        try:
            self._feed(MultipartReader(BOUNDARY, reception, max_parts=MAX_PARTS), data, rng)
        except (MalformedRequestError, RequestTooLargeError):
            pass
        finally:
            reception.discard()
        failures = [one.failure for one in reception.answered]
        assert len(failures) <= MAX_PARTS
        assert PROCESSING_FAILURE not in failures, "something went wrong in the node"
        encode_answer(reception.answered, JSON).decode()
        ElementTree.fromstring(encode_answer(reception.answered, XML))  # noqa: S314 - our own
        assert not list(self._storage.incoming.iterdir()), "something half-written"
        strays = strays_in(self._watched, self._data)
        assert not strays, f"files in odd places: {strays[:3]}"
        while self._stored:
            self._stored.pop().unlink()

    def _feed(self, reader: MultipartReader, data: bytes, rng: Random) -> None:
        size = rng.choice(PIECE_BYTES)
        for start in range(0, len(data), size):
            reader.feed(data[start : start + size])
            held = len(reader._buffer)
            assert held <= MAX_HEAD_BYTES + size, f"{held} bytes are held"
        reader.close()

    def _note(self, stored: Sequence[Stored]) -> None:
        self._stored |= {one.instance.path for one in stored}


def _ignore(*_: object, **__: object) -> None: ...
