"""The overlay as an RGB Secondary Capture: for viewers that show pictures and nothing else."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from highdicom.sc import SCImage
from PIL import Image as Picture
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless
from pydicom.valuerep import DS

from node.domain.image import Image
from node.domain.profile import Kind
from node.encode.codes import SOURCE_IMAGE
from node.encode.identity import Result, concept, contributing_equipment, stamp
from node.encode.overlay import draw_overlay
from node.encode.source import Source
from node.errors import DatasetError

LOSSY_METHOD: Mapping[str, str] = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
}
"""Transfer syntaxes that never keep every pixel, for sources that do not say so themselves."""


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
    overlay = draw_overlay(image, result.findings, f"{device.name} {device.version}")
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
        pixel_spacing=_spacing_mm(image, overlay.scale),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        contributing_equipment=[contributing_equipment(device)],
    )
    stamp(picture, result, Kind.SECONDARY_CAPTURE)
    _describe(picture, source)
    _declare_loss(picture, source)
    return picture


def _spacing_mm(image: Image, scale: float) -> tuple[float, float] | None:
    """Return the spacing where it is the patient's: a detector's would be read as if it were."""
    if image.spacing_yx_mm is None or image.spacing_attribute != "PixelSpacing":
        return None
    row_mm, column_mm = image.spacing_yx_mm
    return row_mm / scale, column_mm / scale


def _describe(picture: Dataset, source: Source) -> None:
    """Say what the picture is made of, and that words are burned into it."""
    picture["PixelData"].VR = "OB"
    picture.ImageType = ["DERIVED", "SECONDARY"]
    picture.ConversionType = "WSD"
    picture.BurnedInAnnotation = "YES"
    picture.DateOfSecondaryCapture = picture.ContentDate
    picture.TimeOfSecondaryCapture = picture.ContentTime
    picture.DerivationDescription = (
        "AI result, and the map of a present finding, burned into the displayed image"
    )
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.sop_class_uid
    reference.ReferencedSOPInstanceUID = source.sop_instance_uid
    reference.PurposeOfReferenceCodeSequence = [concept(SOURCE_IMAGE)]
    picture.SourceImageSequence = [reference]
    # highdicom asks for an orientation; what the source does not say is left open.
    source.copy(picture, ("BodyPartExamined", "PatientOrientation", "Laterality"))
    if not source.text("PatientOrientation"):
        picture.PatientOrientation = None
    if not source.text("BodyPartExamined") and not source.text("Laterality"):
        picture.Laterality = source.text("ImageLaterality")


def _declare_loss(picture: Dataset, source: Source) -> None:
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
        picture.LossyImageCompressionMethod = LOSSY_METHOD.get(source.transfer_syntax_uid)


def _compression_ratio(source: Source) -> float:
    """Return how much smaller the file is than its pixels: what is known where the source gives no ratio."""
    samples = source.number("Rows") * source.number("Columns") * max(1, source.number("SamplesPerPixel"))
    return max(1.0, samples * source.number("BitsAllocated") / 8 / max(1, source.size_bytes))


def preview_png(dataset: Dataset, path: Path) -> None:
    """Write the picture of an uncompressed color Secondary Capture as PNG."""
    shape = (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
    pixels = np.frombuffer(dataset.PixelData, np.uint8, count=int(np.prod(shape))).reshape(shape)
    Picture.fromarray(pixels).save(path)
