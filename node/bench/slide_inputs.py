"""What the benchmark of slides reads: synthetic slides with a tumor, as DICOM and as a scanner's file."""

from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.encaps import generate_frames

from node.domain.study import Instance, Series
from node.samples.slide import SlideSample, slide_sample
from node.samples.slide_series import write_slide
from node.samples.slide_tiff import write_slide_tiff

SEED = 3


def draw_slide(side: int) -> SlideSample:
    """Return the slide of so many pixels a side."""
    return slide_sample(SEED, columns=side, rows=side, is_tumor=True)


def write_dicom(sample: SlideSample, folder: Path) -> Path:
    """Write a slide as DICOM with JPEG tiles, and return the folder."""
    write_slide(sample, folder)
    return folder


def write_file(sample: SlideSample, folder: Path) -> Path:
    """Write a slide as tiled TIFF, and return the file."""
    return write_slide_tiff(sample, folder / "slide.tiff")


def find_series(folder: Path) -> Series:
    """Return the slide that was written into a folder, as if it had been received."""
    instances = tuple(_instance(path) for path in sorted(folder.glob("*.dcm")))
    return Series(instances[0].study_instance_uid, instances[0].series_instance_uid, instances, {})


def find_level(folder: Path) -> Path:
    """Return the file of the finest level."""
    return folder / "slide-level-0.dcm"


def stored_streams(folder: Path, corners: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return the JPEG streams of the tiles of the finest level that hold these corners."""
    level = dcmread(find_level(folder))
    across = -(-level.TotalPixelMatrixColumns // level.Columns)
    streams = list(generate_frames(level.PixelData, number_of_frames=int(level.NumberOfFrames)))
    return [streams[top // level.Rows * across + left // level.Columns] for left, top in corners]


def _instance(path: Path) -> Instance:
    header = dcmread(path, stop_before_pixels=True)
    return Instance(
        header.StudyInstanceUID,
        header.SeriesInstanceUID,
        header.SOPInstanceUID,
        header.SOPClassUID,
        header.file_meta.TransferSyntaxUID,
        header.Modality,
        path,
        "",
    )
