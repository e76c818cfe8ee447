"""One encoding, by the node or by the plain call, in a process of its own; `encode.py` starts it."""

import gc
import hashlib
import json
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.bench.encode_inputs import findings_of, make_map, make_mask, write_series
from node.bench.memory import forget_peak, peak
from node.bench.plain_encode import plain_map, plain_segmentation
from node.domain.findings import Priority
from node.domain.location import Mask, ValueMap
from node.domain.profile import Profile, SegmentationType
from node.encode.identity import EncodingContext, Result
from node.encode.parametric_map import encode_parametric_map
from node.encode.segmentation import encode_segmentation
from node.encode.source import read_sources

PLAIN, PARAMETRIC_MAP = "plain", "parametric_map"
SMALL = {"planes": 2, "size": 16}
Encode = Callable[[], Dataset]
"""Encodes what it was made for; headers and values are in memory already."""


def prepare(plan: dict[str, Any], folder: Path) -> Encode:
    """Return the encoding that the plan asks for: of which way, form, and size."""
    paths = write_series(folder, plan["planes"], plan["size"])
    is_fractional = plan["form"] == SegmentationType.FRACTIONAL
    if plan["form"] == PARAMETRIC_MAP:
        content: Mask | ValueMap = make_map(plan["planes"], plan["size"])
    else:
        content = make_mask(plan["planes"], plan["size"], plan["segments"], has_probability=is_fractional)
    if plan["way"] == PLAIN:
        return _prepare_plain(plan["form"], content, paths)
    return _prepare_node(plan["form"], content, paths)


def _prepare_plain(form: str, content: Mask | ValueMap, paths: list[Path]) -> Encode:
    """Return the plain call, on arrays as its guide has them: the segments in the last axis."""
    images = [dcmread(path) for path in paths]
    if isinstance(content, ValueMap):
        values = content.values
        return lambda: plain_map(images, values)
    segments = len(content.segments)
    stack: Any = content.labels
    if content.probability is not None:
        stack = np.ascontiguousarray(np.moveaxis(content.probability, 0, -1))
    elif form == SegmentationType.BINARY and segments > 1:
        stack = np.stack([content.labels == label for label in range(1, segments + 1)], axis=-1)
        stack = stack.view(np.uint8)
    return lambda: plain_segmentation(form.upper(), images, stack, segments)


def _prepare_node(form: str, content: Mask | ValueMap, paths: list[Path]) -> Encode:
    is_map = isinstance(content, ValueMap)
    masks, maps = ((), (content,)) if isinstance(content, ValueMap) else ((content,), ())
    findings = findings_of(masks, maps, len(paths))
    profile = Profile() if is_map else Profile(segmentation_type=SegmentationType(form))
    context = EncodingContext("bench", datetime(2026, 1, 1, tzinfo=UTC), Priority.ROUTINE, profile=profile)
    result = Result(findings, read_sources(paths, findings), context)
    encoder = encode_parametric_map if is_map else encode_segmentation
    return lambda: next(encoder(result))


def measure(encode: Encode, path: Path) -> dict[str, Any]:
    """Return the seconds to build and to save the object, the memory that took, and what is in the file."""
    gc.collect()
    before = forget_peak()
    started, started_cpu = time.perf_counter(), time.process_time()
    dataset = encode()
    built = time.perf_counter()
    dataset.save_as(path, enforce_file_format=True)
    saved, saved_cpu = time.perf_counter(), time.process_time()
    return {
        "build_s": built - started,
        "save_s": saved - built,
        "cpu_s": saved_cpu - started_cpu,
        "extra_memory_bytes": peak() - before,
        "file_bytes": path.stat().st_size,
        "pixels_sha256": _digest(dataset).hex(),
    }


def _digest(dataset: Dataset) -> bytes:
    """Return what tells its pixels from others; a map of the same frames in another order is the same."""
    if "FloatPixelData" not in dataset:
        return hashlib.sha256(dataset.PixelData).digest()
    frames = np.frombuffer(dataset.FloatPixelData, np.float32).reshape(dataset.NumberOfFrames, -1)
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(frame.data).digest() for frame in frames))).digest()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    order, place = json.loads(sys.argv[1]), Path(sys.argv[2])
    # highdicom reads its tables once in a process; the node does that when it starts.
    prepare({**order, **SMALL}, place / "small")()
    sys.stdout.write(json.dumps(measure(prepare(order, place / "series"), place / "object.dcm")))
