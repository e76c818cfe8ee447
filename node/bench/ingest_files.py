"""Files to send: of three sizes, with UIDs of a fixed length, so that a file can become another instance."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
)

UID_ROOT = "1.2.826.0.1.3680043.8.498"
NUMBER_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Kind:
    """One size of instance: its class, its matrix, and how many are sent in one run."""

    title: str
    sop_class_uid: str
    modality: str
    rows: int
    columns: int
    frames: int
    count: int

    @property
    def size_bytes(self) -> int:
        """The bytes of its pixels, which are 16 bits each."""
        return 2 * self.rows * self.columns * self.frames


KINDS = {
    "ct": Kind("0.5 MB CT", CTImageStorage, "CT", 512, 512, 1, 500),
    "cr": Kind("10 MB CR", ComputedRadiographyImageStorage, "CR", 2560, 2048, 1, 40),
    "multiframe": Kind("200 MB multi-frame", EnhancedCTImageStorage, "CT", 512, 512, 400, 4),
}


class Batch:
    """The files of one kind; `renew` makes other instances of them, as if a modality had taken them anew."""

    def __init__(self, kind: Kind, count: int, folder: Path, seed: int) -> None:
        """Write the files."""
        self.kind = kind
        self._next = seed * 10**9
        self._study = 0
        self.paths = [folder / f"{kind.modality}-{kind.frames}-{number}.dcm" for number in range(count)]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = os.urandom(kind.size_bytes)
        for path in self.paths:
            _dataset(kind, UID(self._uid(self._next)), pixels).save_as(path, enforce_file_format=True)
            self._next += 1

    def renew(self, *, study: int = 0) -> None:
        """Give every file another SOP Instance UID, and those of a study of this number."""
        was, self._study = self._study, study
        studies = self._study_uid(was).encode(), self._study_uid(study).encode()
        for number, path in enumerate(self.paths, start=self._next - len(self.paths)):
            old, new = self._uid(number).encode(), self._uid(number + len(self.paths)).encode()
            with path.open("r+b") as file:
                head = file.read(4096)
                file.seek(0)
                file.write(head.replace(old, new).replace(studies[0], studies[1]))
        self._next += len(self.paths)

    def shares(self, associations: int) -> list[Sequence[Path]]:
        """Return the files that each association sends."""
        return [self.paths[number::associations] for number in range(associations)]

    @staticmethod
    def _uid(number: int) -> str:
        return f"{UID_ROOT}.9{number:0{NUMBER_DIGITS}d}"

    @staticmethod
    def _study_uid(number: int) -> str:
        return f"{UID_ROOT}.8{number:0{NUMBER_DIGITS}d}"


def _dataset(kind: Kind, sop_instance_uid: UID, pixels: bytes) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID(kind.sop_class_uid)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = sop_instance_uid
    dataset.Modality = kind.modality
    dataset.PatientID = dataset.PatientName = "BENCH"
    study = Batch._study_uid(0)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.1"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = kind.rows, kind.columns, kind.frames
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.add_new("PixelData", "OW", pixels)
    return dataset
