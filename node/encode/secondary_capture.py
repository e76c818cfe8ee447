"""The overlay as an RGB Secondary Capture: for viewers that show pictures and nothing else."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from highdicom.sc import SCImage
from PIL import Image as Picture
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)
from pydicom.valuerep import DS

from node.domain.image import Image
from node.domain.profile import Kind
from node.encode.codes import SOURCE_IMAGE
from node.encode.identity import Result, concept, contributing_equipment, stamp
from node.encode.overlay import draw_overlay
from node.encode.source import Source
from node.errors import DatasetError
from node.read.dataset import LIBRARY_ERRORS
from node.read.functional_groups import frame_header

LOSSY_METHOD: Mapping[str, str] = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
}
"""Transfer syntaxes that never keep every pixel, for sources that do not say so themselves."""

METHOD_IF_LOSSY: Mapping[str, str] = {**LOSSY_METHOD, JPEG2000: "ISO_15444_1"}
"""By which method, where the source says that pixels were lost."""

NOT_THE_SLIDE = frozenset({"LABEL", "OVERVIEW"})
"""What else a series of a slide may show (PS3.3 C.8.12.4.1.1)."""

LEAST_COSINE = 0.1
"""A direction that runs less than this towards an end of the body is not said to run there."""


def encode_secondary_capture(result: Result) -> Iterator[Dataset]:
    """Yield an overlay for each displayed image; each must be of one of the sources."""
    if result.findings.refusal:
        return
    source_by_uid = {one.sop_instance_uid: one for one in result.sources}
    for number, image in enumerate(result.context.images, 1):
        if image.sop_instance_uid not in source_by_uid:
            raise DatasetError(image.sop_instance_uid, "the displayed image is not among the sources")
        yield _encode_image(result, source_by_uid[image.sop_instance_uid], image, number)


def _encode_image(result: Result, source: Source, image: Image, number: int) -> Dataset:
    device = result.device
    algorithm = f"{device.name} {device.version}"
    overlay = draw_overlay(image, result.findings, algorithm, _level_sizes(result, source))
    picture = SCImage(
        pixel_array=overlay.pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=source.study_instance_uid,
        series_instance_uid=result.series_uid(Kind.SECONDARY_CAPTURE),
        series_number=result.series_number(Kind.SECONDARY_CAPTURE),
        sop_instance_uid=result.instance_uid(Kind.SECONDARY_CAPTURE, number),
        instance_number=number,
        manufacturer=device.manufacturer,
        pixel_spacing=_spacing_mm(image, overlay.scale_yx),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        contributing_equipment=[contributing_equipment(device)],
    )
    stamp(picture, result, Kind.SECONDARY_CAPTURE)
    _describe(picture, source, image)
    declare_loss(picture, source)
    return picture


def _level_sizes(result: Result, source: Source) -> dict[str, tuple[int, int]]:
    """Return rows and columns of all levels of the slide that is displayed; of another image, nothing."""
    if not source.number("TotalPixelMatrixRows"):
        return {}
    sizes = {
        one.sop_instance_uid: (one.number("TotalPixelMatrixRows"), one.number("TotalPixelMatrixColumns"))
        for one in result.sources
        if one.series_instance_uid == source.series_instance_uid
        and not NOT_THE_SLIDE & set(one.text("ImageType").split("\\"))
    }
    return {uid: size for uid, size in sizes.items() if min(size) > 0}


def _spacing_mm(image: Image, scale_yx: tuple[float, float]) -> tuple[float, float] | None:
    """Return the spacing where it is the patient's: a detector's would be read as if it were."""
    if image.spacing_yx_mm is None or image.spacing_attribute != "PixelSpacing":
        return None
    row_mm, column_mm = image.spacing_yx_mm
    return row_mm / scale_yx[0], column_mm / scale_yx[1]


def _describe(picture: Dataset, source: Source, image: Image) -> None:
    """Say what the picture is made of, and that words are burned into it."""
    picture["PixelData"].VR = "OB"
    picture.ImageType = ["DERIVED", "SECONDARY"]
    picture.ConversionType = "WSD"
    picture.BurnedInAnnotation = "YES"
    picture.DateOfSecondaryCapture = picture.ContentDate
    picture.TimeOfSecondaryCapture = picture.ContentTime
    picture.DerivationDescription = (
        "AI result, with outlines and maps of findings, burned into the displayed image"
    )
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.sop_class_uid
    reference.ReferencedSOPInstanceUID = source.sop_instance_uid
    if image.frame_number is not None:
        reference.ReferencedFrameNumber = image.frame_number
    reference.PurposeOfReferenceCodeSequence = [concept(SOURCE_IMAGE)]
    picture.SourceImageSequence = [reference]
    source.copy(picture, ("PatientOrientation",))
    if not source.text("PatientOrientation"):
        picture.PatientOrientation = _orientation(source, image)
    source.copy_body_part(picture)


def _orientation(source: Source, image: Image) -> list[str] | None:
    """Return where rows and columns run in the patient, by the letters of PS3.3 C.7.6.1.1.1, if known.

    A capture has no plane in the patient: without these letters a viewer could not tell left from right.
    """
    header = frame_header(source.header, image.frame_number, ("ImageOrientationPatient",))
    try:
        cosines = np.array(header.ImageOrientationPatient, np.float64).reshape(2, 3)
    except LIBRARY_ERRORS:
        return None
    return ["".join(_letters(direction)) for direction in cosines.tolist()]


def _letters(direction: list[float]) -> list[str]:
    """Return the ends of the body a direction runs to, the one it is closest to first."""
    named = [(abs(part), ends[part < 0]) for part, ends in zip(direction, ("LR", "PA", "HF"), strict=True)]
    return [end for part, end in sorted(named, reverse=True) if part > LEAST_COSINE]


def declare_loss(picture: Dataset, source: Source) -> None:
    """Say whether pixels were lost on the way here (PS3.3 C.7.6.1.1.5): once lossy, always lossy."""
    if source.text("LossyImageCompression") == "01":
        source.copy(picture, ("LossyImageCompressionRatio", "LossyImageCompressionMethod"))
    is_lossy = source.text("LossyImageCompression") == "01" or source.transfer_syntax_uid in LOSSY_METHOD
    picture.LossyImageCompression = "01" if is_lossy else "00"
    if not is_lossy:
        return
    if not source.text("LossyImageCompressionRatio"):
        picture.LossyImageCompressionRatio = DS(round(_compression_ratio(source), 2), auto_format=True)
    if not source.text("LossyImageCompressionMethod"):
        picture.LossyImageCompressionMethod = METHOD_IF_LOSSY.get(source.transfer_syntax_uid)


def _compression_ratio(source: Source) -> float:
    """Return how much smaller the file is than its pixels: what is known where the source gives no ratio."""
    samples = source.number("Rows") * source.number("Columns") * max(1, source.number("SamplesPerPixel"))
    frames = int(source.text("NumberOfFrames")) if source.text("NumberOfFrames").isdecimal() else 1
    return max(1.0, frames * samples * source.number("BitsAllocated") / 8 / max(1, source.size_bytes))


def preview_png(dataset: Dataset, path: Path) -> None:
    """Write the picture of an uncompressed color Secondary Capture as PNG."""
    shape = (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
    pixels = np.frombuffer(dataset.PixelData, np.uint8, count=int(np.prod(shape))).reshape(shape)
    Picture.fromarray(pixels).save(path)
