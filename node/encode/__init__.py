"""Findings become DICOM objects: one file per object, one entry for all."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from node.domain.findings import Findings
from node.domain.profile import Kind
from node.encode.annotations import encode_annotations
from node.encode.document import warm_up
from node.encode.identity import EncodingContext, Predecessor, Result
from node.encode.key_objects import encode_key_objects
from node.encode.lesions import encode_lesions
from node.encode.parametric_map import encode_parametric_map
from node.encode.presentation_state import encode_presentation_state
from node.encode.report import encode_report
from node.encode.secondary_capture import encode_secondary_capture, preview_png
from node.encode.segmentation import encode_segmentation
from node.encode.source import read_sources
from node.encode.summary import encode_summary
from node.read.dataset import dataset_faults

__all__ = ["EncodedObject", "EncodingContext", "Predecessor", "encode", "preview_png", "warm_up"]

ENCODERS: Mapping[Kind, Callable[[Result], Iterator[Dataset]]] = {
    Kind.FINDINGS_SR: encode_report,
    Kind.LESIONS_SR: encode_lesions,
    Kind.KEY_OBJECTS: encode_key_objects,
    Kind.SUMMARY_SR: encode_summary,
    Kind.SEGMENTATION: encode_segmentation,
    Kind.PARAMETRIC_MAP: encode_parametric_map,
    Kind.PRESENTATION_STATE: encode_presentation_state,
    Kind.ANNOTATIONS: encode_annotations,
    Kind.SECONDARY_CAPTURE: encode_secondary_capture,
}


@dataclass(frozen=True, slots=True)
class EncodedObject:
    """One DICOM object of a result, not yet on disk."""

    kind: Kind
    form: str
    dataset: Dataset


def encode(
    findings: Findings,
    sources: Sequence[Path],
    context: EncodingContext,
    *,
    kinds: Sequence[Kind] | None = None,
) -> Iterator[EncodedObject]:
    """Yield the objects of one result, those of each kind in a series of their own: all the profile wants.

    `kinds` are those of the profile that are wanted now, where the others are there already.

    `sources` are the files of the analyzed series. A kind that has nothing to say of these findings gives no
    object. Raises DatasetError where a source cannot be read or lacks its identifiers.
    """
    result = Result(findings, read_sources(sources, findings), context)
    for kind in context.profile.kinds if kinds is None else kinds:
        if kind not in ENCODERS:
            continue
        # A source's malformed UIDs are referred to as they are: pydicom would warn of each.
        with dataset_faults(result.source.sop_instance_uid):
            datasets = list(ENCODERS[kind](result))
        yield from (EncodedObject(kind, context.profile.form_of(kind), dataset) for dataset in datasets)
