"""Pictures that are no chest radiographs, and whether a model notices."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import as_pixel_options, pixel_array
from pydicom.uid import UID, ExplicitVRLittleEndian

from models import metrics
from models.measure import Cases, Doubts, Floats, Json, Predictions, as_json, cell, share
from node.domain.image import Image
from node.domain.study import Instance
from node.errors import PixelError, SightlineError
from node.imaging.intensity import prepare_radiograph
from node.read.dataset import pixel_faults, read_with_pixels
from node.read.isolation import DecoderProcess
from node.read.projection import DISPLAY_KEYWORDS, KEYWORDS, MAX_PIXELS, read_projection

PALETTES = tuple(
    f"{kind}{color}PaletteColorLookupTable{part}"
    for color in ("Red", "Green", "Blue")
    for kind, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
)
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class ForeignPictures:
    """Prepared pictures (size, size) in 0–1 by file name, each picture once, and the files without any."""

    image_by_name: dict[str, Floats]
    repeated: tuple[str, ...]
    unreadable: tuple[str, ...]


def read_foreign(folder: Path, *, size: int, chest: Sequence[str]) -> ForeignPictures:
    """Return every picture of a folder of DICOM files but chest radiographs, whose names match `chest`.

    The picture of a file in color is its luminance, that of several frames the middle one. Files that hold
    the same picture in other encodings count once. Raises FileNotFoundError where the folder has no file.
    """
    paths = [path for path in sorted(folder.glob("*")) if path.is_file() and not _matches(path.name, chest)]
    if not paths:
        raise FileNotFoundError(f"no files in {folder}")
    image_by_name: dict[str, Floats] = {}
    repeated, unreadable, seen = [], [], set()
    decoder = DecoderProcess()
    for path in paths:
        try:
            image = prepare_radiograph(read_picture(path, decoder).pixels, size)
        except SightlineError:
            unreadable.append(path.name)
            continue
        # What the network can tell apart: lossless encodings of one picture are one.
        content = np.round(image * 255.0).astype(np.uint8).tobytes()
        if content in seen:
            repeated.append(path.name)
        else:
            seen.add(content)
            image_by_name[path.name] = image
    decoder.close()
    return ForeignPictures(image_by_name, tuple(repeated), tuple(unreadable))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def read_picture(path: Path, decoder: DecoderProcess) -> Image:
    """Return one file as the node would read it, were it a plain radiograph; raises SightlineError."""
    try:
        return read_projection(_instance(path))
    except PixelError:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.name
            plain = as_radiograph(
                read_with_pixels(_instance(path), (*KEYWORDS, *PALETTES)), path.name, decoder
            )
            plain.save_as(copy, enforce_file_format=True)
            return read_projection(_instance(copy))


def _instance(path: Path) -> Instance:
    return Instance("", "", path.name, "", "", "", path, "")


def as_radiograph(dataset: Dataset, name: str, decoder: DecoderProcess) -> Dataset:
    """Return the middle frame of any image as an uncompressed grayscale object; raises PixelError."""
    with pixel_faults(name):
        if int(dataset.Rows) * int(dataset.Columns) > MAX_PIXELS:
            raise PixelError(name, "has too many pixels")
        pixels = _decode_middle_frame(dataset, decoder)
        is_gray = pixels.ndim == 2 and "PALETTE" not in dataset.PhotometricInterpretation
        if not is_gray:
            pixels = luminance(dataset, pixels)
        plain = Dataset()
        plain.file_meta = FileMetaDataset()
        plain.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        plain.SOPClassUID, plain.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "2.25.1"
        for keyword in DISPLAY_KEYWORDS if is_gray else ():
            if keyword in dataset:
                plain[keyword] = dataset[keyword]
        plain.PhotometricInterpretation = dataset.PhotometricInterpretation if is_gray else "MONOCHROME2"
        plain.SamplesPerPixel, plain.PixelRepresentation = 1, int(pixels.dtype.kind == "i")
        plain.Rows, plain.Columns = pixels.shape
        plain.BitsAllocated = 8 * pixels.dtype.itemsize
        plain.BitsStored = plain.BitsAllocated
        plain.HighBit = plain.BitsStored - 1
        plain.add_new(
            "PixelData", "OB" if plain.BitsAllocated == 8 else "OW", np.ascontiguousarray(pixels).tobytes()
        )
    return plain


def _decode_middle_frame(dataset: Dataset, decoder: DecoderProcess) -> NDArray[Any]:
    """Return stored values (rows, columns), with a last axis of samples where there are several."""
    middle = int(dataset.get("NumberOfFrames") or 1) // 2
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if not syntax.is_encapsulated:
        frame: NDArray[Any] = pixel_array(dataset, raw=True, index=middle)
        return frame
    return decoder.decode(syntax, dataset.PixelData, as_pixel_options(dataset, index=middle))


def luminance(dataset: Dataset, pixels: NDArray[Any]) -> NDArray[np.uint16]:
    """Return how bright a color frame is: of YBR the first sample, of RGB and palettes the weighted sum."""
    if "PALETTE" in dataset.PhotometricInterpretation:
        pixels = apply_color_lut(pixels, dataset)
    elif dataset.PhotometricInterpretation.startswith("YBR"):
        return pixels[..., 0].astype(np.uint16)
    return np.round(pixels[..., :3] @ np.array(LUMA)).astype(np.uint16)


def measure_foreign(
    cases: Cases, pictures: ForeignPictures | None, predict: Callable[[Cases], Predictions], repeats: int
) -> Json:
    """Return how well the out-of-distribution score tells the cases from pictures that are none.

    From themselves upside down, from themselves inverted, and from foreign pictures where there are some.
    Says on standard error how far it is, for it takes minutes.
    """
    usual = _doubts(predict(cases))
    kinds = {
        "upside down": Cases([image[::-1] for image in cases.images], cases.labels, cases.groups),
        "inverted": Cases([1.0 - image for image in cases.images], cases.labels, cases.groups),
    }
    if pictures:
        names = np.array(list(pictures.image_by_name))
        images = list(pictures.image_by_name.values())
        kinds["foreign pictures"] = Cases(images, np.full((len(names), 3), np.nan, dtype=np.float32), names)
    measured: Json = {
        "threshold": usual.foreign_threshold,
        "images": len(cases),
        "false_alarms": share(usual.is_foreign, cases.groups, repeats),
        "against": {},
    }
    for kind, others in kinds.items():
        started, predictions = time.monotonic(), predict(others)
        measured["against"][kind] = _tell_apart((cases, usual), (others, predictions), repeats)
        print(f"{kind}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        if kind == "foreign pictures" and pictures:
            found = _doubts(predictions).is_foreign
            measured["against"][kind] |= {
                "not_detected": [str(name) for name in others.groups[~found]],
                "repeated": len(pictures.repeated),
                "unreadable": len(pictures.unreadable),
            }
    return measured


def table(measured: Json) -> str:
    """Return the figures as text for people."""
    lines = [
        f"threshold {measured['threshold']}; {measured['images']} images, "
        f"called foreign {cell(measured['false_alarms'])}",
        f"{'against':<18}{'images':>8}{'AUC':>22}{'detected':>22}{'with a decided score':>22}",
    ]
    for kind, row in measured["against"].items():
        figures = f"{cell(row['auc']):>22}{cell(row['detected']):>22}{row['decided']:>22}"
        lines.append(f"{kind:<18}{row['images']:>8}{figures}")
        if "not_detected" in row:
            names = ", ".join(row["not_detected"]) or "none"
            lines.append(
                f"not detected: {names}; {row['repeated']} files repeat a picture, "
                f"{row['unreadable']} hold none that can be read"
            )
    return "\n".join(lines)


def _doubts(predictions: Predictions) -> Doubts:
    if predictions.doubts is None:
        raise ValueError("only exported graphs give an out-of-distribution score")
    return predictions.doubts


def _tell_apart(usual: tuple[Cases, Doubts], others: tuple[Cases, Predictions], repeats: int) -> Json:
    (cases, doubts), (foreign, predictions) = usual, others
    found = _doubts(predictions)
    scores = np.concatenate([doubts.out_of_distribution, found.out_of_distribution])[:, 0]
    truth = np.arange(len(scores)) >= len(cases)
    # A picture and what was made of it are drawn together.
    groups = np.concatenate([cases.groups, foreign.groups])
    auc = metrics.bootstrap(
        lambda chosen: metrics.area_under_curve(truth[chosen], scores[chosen]), groups, repeats=repeats
    )
    decided = ~np.stack(
        [predictions.is_undecided(index) for index in range(len(predictions.thresholds))], axis=1
    )
    return {
        "images": len(foreign),
        "auc": as_json(auc),
        "detected": share(found.is_foreign, foreign.groups, repeats),
        "decided": int(decided.any(axis=1).sum()),
    }
