"""The peer of the encoder: highdicom's plain call, as its guide shows it.

It needs nothing of the node: it is what somebody would write in an afternoon; `encode_loop.py` measures it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

IDENTITY: dict[str, Any] = {
    "series_instance_uid": "2.25.1",
    "series_number": 1,
    "sop_instance_uid": "2.25.2",
    "instance_number": 1,
    "manufacturer": "Peer",
    "manufacturer_model_name": "Plain call",
    "software_versions": "1",
    "device_serial_number": "1",
}

Values = npt.NDArray[np.generic]


def plain_segmentation(
    form: str, images: Sequence[Dataset], values: Values, segments: int, **options: Any
) -> Dataset:
    """Return the segmentation of this type (BINARY, FRACTIONAL, LABELMAP).

    `values` are (planes, rows, columns) labels, or (planes, rows, columns, segments) one above the other.
    """
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=values,
        segmentation_type=form,
        segment_descriptions=[_describe(number) for number in range(1, segments + 1)],
        **IDENTITY,
        **options,
    )


def plain_map(images: Sequence[Dataset], values: Values, **options: Any) -> Dataset:
    """Return the parametric map of (planes, rows, columns) values."""
    mapping = hd.pm.RealWorldValueMapping(
        "VALUE", "Value", codes.UCUM.NoUnits, (float(values.min()), float(values.max())), 1.0, 0.0
    )
    return hd.pm.ParametricMap(
        source_images=images,
        pixel_array=values,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(0.5, 1.0)],
        **IDENTITY,
        **options,
    )


def _describe(number: int) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"Segment {number}",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Nodule,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            "Peer", codes.DCM.ArtificialIntelligence, "1"
        ),
    )


class Measured(Protocol):
    """What a report says of one segment."""

    @property
    def label(self) -> int:
        """Which segment it is."""

    @property
    def volume_mm3(self) -> float:
        """Its volume."""

    @property
    def diameter_mm(self) -> float:
        """Its longest diameter."""


def plain_report(images: Sequence[Dataset], segmentation: Dataset, found: Sequence[Measured]) -> Dataset:
    """Return a report (TID 1500) of measurements of the segments."""
    observer = hd.sr.ObserverContext(
        codes.DCM.Device, hd.sr.DeviceObserverIdentifyingAttributes(uid=hd.UID(), name="Peer")
    )
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=[_measured(images[0], segmentation, one) for one in found],
    )
    identity = {**IDENTITY, "series_instance_uid": "2.25.3", "sop_instance_uid": "2.25.4"}
    identity = {key: value for key, value in identity.items() if key not in DEVICE}
    return hd.sr.Comprehensive3DSR(
        evidence=[*images, segmentation], content=report[0], is_complete=True, manufacturer="Peer", **identity
    )


DEVICE = frozenset({"manufacturer", "manufacturer_model_name", "software_versions", "device_serial_number"})


def _measured(image: Dataset, segmentation: Dataset, one: Measured) -> Any:
    measurements = [
        hd.sr.Measurement(name=codes.SCT.Volume, value=one.volume_mm3, unit=codes.UCUM.CubicMillimeter),
        hd.sr.Measurement(name=codes.SCT.Diameter, value=one.diameter_mm, unit=codes.UCUM.Millimeter),
    ]
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(hd.UID(), f"Segment {one.label}"),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=one.label,
            source_series=hd.sr.SourceSeriesForSegmentation(image.SeriesInstanceUID),
        ),
        finding_type=codes.SCT.Nodule,
        measurements=measurements,
    )
