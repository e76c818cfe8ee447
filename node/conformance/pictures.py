"""Secondary captures: marked as what they are, and not empty."""

import math
from collections.abc import Iterator

import numpy as np
from pydicom.sr.codedict import codes

from node.conformance.content import code_of, number, sequence, text
from node.conformance.kinds import PICTURES, of
from node.conformance.rule import Rule
from node.conformance.subject import Subject


def _marked_picture(subject: Subject) -> Iterator[str]:
    if text(subject.dataset, "BurnedInAnnotation") != "YES":
        yield "Burned In Annotation is not YES"
    if list(subject.dataset.get("ImageType") or ())[:2] != ["DERIVED", "SECONDARY"]:
        yield "Image Type is not DERIVED, SECONDARY"


def _source_image_named(subject: Subject) -> Iterator[str]:
    items = sequence(subject.dataset, "SourceImageSequence")
    purposes = {code_of(item, "PurposeOfReferenceCodeSequence") for item in items}
    if purposes != {codes.DCM.SourceImageForImageProcessingOperation}:
        yield "does not name its source image"


def _visible_picture(subject: Subject) -> Iterator[str]:
    shape = tuple(number(subject.dataset, keyword) for keyword in ("Rows", "Columns", "SamplesPerPixel"))
    pixels = np.frombuffer(subject.dataset.get("PixelData") or b"", np.uint8)
    if pixels.size - math.prod(shape) not in (0, math.prod(shape) % 2) or not pixels.size:
        yield f"has {pixels.size} bytes of pixels, expected {math.prod(shape)}"
        return
    # The caption is below: were the anatomy blank, the text alone would still look like a picture.
    upper = pixels[: math.prod(shape)].reshape(shape)[: max(1, shape[0] // 2)]
    if upper.min() == upper.max():
        yield "the picture above the caption is blank"


RULES = (
    Rule("marked_picture", of(PICTURES), _marked_picture),
    Rule("source_image_named", of(PICTURES), _source_image_named),
    Rule("visible_picture", of(PICTURES), _visible_picture),
)
