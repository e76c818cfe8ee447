"""The stored frames of one level of a slide, through all instances of its concatenation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset
from pydicom.uid import JPEGBaseline8Bit

from node.domain.study import Instance
from node.errors import PixelError
from node.read.color import LUMINANCE_FIRST, declare_colors, is_luminance_first
from node.read.dataset import dataset_faults, pixel_faults
from node.read.slide_frames import FileBytes, FrameTable, find_frames
from node.read.stored import StoredFrames
from node.read.tile_isolation import ROOM_BYTES, TILE_DECODERS, TileError
from node.shrink import shrink

Colors = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One instance of a level; `first` is the number of its first frame (from 0) in the concatenation."""

    instance: Instance
    header: FileDataset
    position: int
    first: int

    @property
    def uid(self) -> str:
        """Its SOP Instance UID."""
        return self.instance.sop_instance_uid

    @property
    def frames(self) -> int:
        """How many frames it says it has."""
        return int(self.header.get("NumberOfFrames") or 1)


class PartFrames:
    """The stored frames of one instance."""

    def __init__(self, part: Part) -> None:
        """Find the frames; raises PixelError for pixels that are no 8-bit colors, or cannot be told apart."""
        self._part = part
        header = part.header
        header.add_new("PixelData", "OB", b"")
        with pixel_faults(part.uid):
            self._stored = StoredFrames(part.instance, header)
            self.layout = self._stored.layout
            if self.layout.samples != 3:
                raise PixelError(part.uid, f"{self.layout.photometric}: no colors, as bright field has them")
        self._is_plain = self.layout.photometric == "RGB" and not header.get("PlanarConfiguration")
        self._syntax = header.file_meta.TransferSyntaxUID
        tile_bytes = self.layout.rows * self.layout.columns * 3
        self._is_fast = self._syntax == JPEGBaseline8Bit and tile_bytes <= ROOM_BYTES
        with dataset_faults(part.uid):
            self.file = FileBytes(part.instance.path)
        try:
            self.table: FrameTable = find_frames(
                part.uid, self.file, header, position=part.position, frame_bytes=self.layout.frame_bytes
            )
        except BaseException:
            self.file.close()
            raise

    @property
    def note(self) -> str:
        """What the first frame says otherwise than the header, in words; empty if nothing."""
        photometric = self.layout.photometric
        if self._syntax != JPEGBaseline8Bit or not self.table.frames:
            return ""
        is_luminance = is_luminance_first(self.table.encoded(self.file, 0), photometric)
        if is_luminance == (photometric in LUMINANCE_FIRST):
            return ""
        actual = "YCbCr" if is_luminance else "RGB"
        return f"The tiles are said to be {photometric}, but their JPEG streams are {actual}."

    def decode(self, numbers: Sequence[int], factor: int = 1) -> list[Colors]:
        """Return the tiles of some frames (from 0) in RGB; raises TileError for the first that fails.

        By a factor that divides both sides they come smaller, each pixel the mean of factor × factor.
        """
        encoded = [self._encoded(index, number) for index, number in enumerate(numbers)]
        if self._is_fast:
            streams = [declare_colors(stream, self.layout.photometric) for stream in encoded]
            return TILE_DECODERS.decode(streams, self.layout.rows, self.layout.columns, factor)
        return [shrink(self._decode_one(index, stream), factor) for index, stream in enumerate(encoded)]

    def _encoded(self, index: int, number: int) -> bytes:
        try:
            return self.table.encoded(self.file, number)
        except OSError as error:
            raise TileError(index, f"the file cannot be read: {error.strerror}") from error

    def _decode_one(self, index: int, encoded: bytes) -> Colors:
        is_native = not self._syntax.is_encapsulated
        if is_native and len(encoded) < self.layout.frame_bytes:
            raise TileError(index, "the file ends within it")
        if is_native and self._is_plain:
            shape = self.layout.rows, self.layout.columns, 3
            return np.frombuffer(bytearray(encoded), np.uint8).reshape(shape)
        try:
            with pixel_faults(self._part.uid):
                return self._stored.colors_of(encoded)
        except PixelError as error:
            raise TileError(index, error.message) from error


class LevelFrames:
    """The frames of one level, through all parts of its concatenation."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """Open the parts, which are in order and complete."""
        self.parts = parts
        self._firsts = [part.first for part in parts]
        self._frames: list[PartFrames] = []
        try:
            self._frames += map(PartFrames, parts)
            layouts = {(one.layout.rows, one.layout.columns) for one in self._frames}
            if len(layouts) > 1:
                raise PixelError(parts[0].uid, f"a concatenation with tiles of {sorted(layouts)} pixels")
        except BaseException:
            self.close()
            raise

    @property
    def layout_rows_columns(self) -> tuple[int, int]:
        """How many rows and columns a tile has."""
        return self._frames[0].layout.rows, self._frames[0].layout.columns

    @property
    def note(self) -> str:
        """What the stream of the first frame says otherwise than the header."""
        return self._frames[0].note

    @property
    def total(self) -> int:
        """How many frames there are in all parts."""
        return sum(part.frames for part in self.parts)

    @property
    def fault(self) -> tuple[int, str] | None:
        """The first frame (from 0) that is not wholly in its file, and why."""
        for first, frames in zip(self._firsts, self._frames, strict=True):
            if frames.table.fault:
                return first + frames.table.fault[0], frames.table.fault[1]
        return None

    def decode(self, numbers: Sequence[int], factor: int = 1) -> list[Colors]:
        """Return the tiles of some frames (from 0 through all parts); raises TileError."""
        if len(self._frames) == 1:
            return self._frames[0].decode(numbers, factor)
        tiles: list[Colors] = []
        for index, number in enumerate(numbers):
            part = int(np.searchsorted(self._firsts, number, side="right")) - 1
            try:
                tiles += self._frames[part].decode([number - self._firsts[part]], factor)
            except TileError as error:
                raise TileError(index, str(error)) from error
        return tiles

    def close(self) -> None:
        """Close the files."""
        for frames in self._frames:
            frames.file.close()
