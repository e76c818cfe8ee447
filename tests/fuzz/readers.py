"""The targets that are files: names in a header, and everything that makes pixels or attributes of a file."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, replace
from io import BytesIO
from pathlib import Path
from random import Random

from node.conformance import read_headers
from node.domain.study import Instance, Series
from node.errors import PermanentError
from node.header import Identifiers, guess_transfer_syntax, read_file_meta, read_identifiers, read_sop_uids
from node.read.header import read_attributes
from node.read.picture import read_picture
from node.read.projection import read_projection
from node.read.slide import open_slide
from node.read.volume import read_volume
from tests.fuzz.mutation import mutate
from tests.fuzz.seeds import Seed
from tests.fuzz.values import spoil
from tests.instances import DEFLATED, EXPLICIT, IMPLICIT
from tests.received import received
from tests.slides import made_of

TILE = 64


class Headers:
    """Identifiers and file meta, read from bytes in memory."""

    def __init__(self, seeds: list[Seed], _folder: Path) -> None:
        self._data = [seed.path.read_bytes()[:20_000] for seed in seeds]

    def make(self, rng: Random) -> bytes:
        return (spoil if rng.random() < 0.6 else mutate)(rng, rng.choice(self._data))

    def attempt(self, data: bytes, rng: Random) -> None:
        syntax = rng.choice((EXPLICIT, IMPLICIT, DEFLATED))
        _tried(lambda: read_file_meta(BytesIO(data)))
        file = BytesIO(data)
        _tried(lambda: read_file_meta(file))
        start = file.tell()
        file.seek(start)
        _tried(lambda: _check_names(read_identifiers(file, syntax, "fuzz")))
        file.seek(start)
        _tried(lambda: read_sop_uids(file, syntax, "fuzz"))
        file.seek(start)
        _tried(lambda: guess_transfer_syntax(file))


class Pixels:
    """Attributes and pixels of a file, by each reader that would be asked."""

    def __init__(self, seeds: list[Seed], folder: Path) -> None:
        self._path = folder / "fuzzed.dcm"
        self._seeds = seeds
        self._instances = [_instance(seed.path) for seed in seeds]
        kinds = sorted({seed.kind for seed in seeds})
        self._numbers = [[n for n, seed in enumerate(seeds) if seed.kind == kind] for kind in kinds]
        self._companions = [tuple(map(received, seed.companions)) for seed in seeds]

    def make(self, rng: Random) -> bytes:
        """Return the number of the seed, then the file."""
        # Each kind as often as any other, however many there are of it.
        number = rng.choice(rng.choice(self._numbers))
        change = spoil if rng.random() < 0.7 else mutate
        return number.to_bytes(2, "big") + change(rng, self._seeds[number].path.read_bytes())

    def attempt(self, data: bytes, rng: Random) -> None:
        number = int.from_bytes(data[:2], "big")
        self._path.write_bytes(data[2:])
        instance, others = replace(self._instances[number], path=self._path), self._companions[number]
        _tried(lambda: read_attributes([instance]))
        _tried(lambda: read_headers([self._path]))
        _tried(lambda: read_projection(instance))
        _tried(lambda: read_picture(instance, rng.choice((None, 1, 3))))
        _tried(lambda: read_volume(made_of(instance, *others)))
        _tried(lambda: _read_slide(made_of(instance)))


def _check_names(found: Identifiers) -> None:
    """What names an instance stands in paths, logs and answers."""
    *uids, modality = astuple(found)
    assert all(0 < len(uid) <= 64 and uid.isascii() and uid.isprintable() for uid in uids), found
    assert len(modality) <= 16, found
    assert not modality or modality.isprintable(), found


def _read_slide(series: Series) -> None:
    with open_slide(series) as slide:
        for level in range(len(slide.levels)):
            slide.regions(level, [(0, 0), (TILE, TILE), (30, 40)], TILE, TILE)


def _instance(path: Path) -> Instance:
    """The instance as it would have been received, if only its bytes had not been spoiled on the way."""
    with path.open("rb") as file:
        meta = read_file_meta(file)
    syntax = meta.transfer_syntax_uid or EXPLICIT
    return Instance("1.2.3", "1.2.3.4", "1.2.3.4.5", meta.sop_class_uid, syntax, "CT", path, "")


def _tried(read: Callable[[], object]) -> None:
    """Permanent errors are the right answer to a bad file: it will not get better, so no other error is."""
    with suppress(PermanentError):
        read()
