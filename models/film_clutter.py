"""What makes synthetic films less alike: the field that is taken of them, letters, electrodes, cables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from node.samples.thorax import Radiograph

WHOLE, LETTER, CABLES = 0.4, 0.6, 0.15
"""How often the whole film is taken, a letter lies on it, the patient wears electrodes."""
MARGINS = (0.01, 0.25)
"""From the lungs to the edge of a field, in parts of the film."""

Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Field:
    """A rectangle of a film in whole pixels, the ends excluded."""

    left: int
    top: int
    right: int
    bottom: int

    def slices(self) -> tuple[slice, slice]:
        """Return the rows and the columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def scale_boxes(self, boxes: Pixels, size: int) -> Pixels:
        """Return boxes (n, 4) of the film, cut by the field, in pixels of the square it is squeezed to."""
        start = np.asarray([self.left, self.top] * 2, np.float32)
        lengths = np.asarray([self.right - self.left, self.bottom - self.top] * 2, np.float32)
        return np.asarray(np.clip((boxes - start) * (size / lengths), 0, size), np.float32)


def draw_field(random: np.random.Generator, radiograph: Radiograph) -> Field:
    """Return what is taken of a film: all of it, or a rectangle that holds the lungs and all lesions."""
    rows, columns = radiograph.pixels.shape
    truth = radiograph.truth
    boxes = np.asarray([one.box_xyxy_px for one in truth.lesions] + list(truth.lung_boxes_xyxy_px or ()))
    if random.random() < WHOLE or not len(boxes):
        return Field(0, 0, columns, rows)
    left, top, right, bottom = (random.uniform(*MARGINS, 4) * np.tile([columns, rows], 2)).round().astype(int)
    return Field(
        max(int(boxes[:, 0].min() - left), 0),
        max(int(boxes[:, 1].min() - top), 0),
        min(int(boxes[:, 2].max() + right), columns),
        min(int(boxes[:, 3].max() + bottom), rows),
    )


def add_clutter(random: np.random.Generator, radiograph: Radiograph, field: Field) -> Pixels:
    """Return the pixels of the film with a letter at the side or with electrodes and cables, or as they are.

    None of it is a lesion: a detector has to learn that.
    """
    layer = Image.new("L", radiograph.pixels.shape[::-1])
    draw = ImageDraw.Draw(layer)
    if random.random() < LETTER:
        _letter(draw, random, field)
    if random.random() < CABLES:
        for _ in range(int(random.integers(1, 4))):
            _cable(draw, random, field)
    cover = np.asarray(layer, np.float32) / np.float32(255)
    white = np.float32(max(float(radiograph.pixels.max()), 0.5))
    return np.asarray(radiograph.pixels + cover * (white - radiograph.pixels), np.float32)


def _letter(draw: ImageDraw.ImageDraw, random: np.random.Generator, field: Field) -> None:
    """Draw an R or an L beside the body."""
    width, height = field.right - field.left, field.bottom - field.top
    is_right = bool(random.random() < 0.6)
    across = float(random.uniform(0.01, 0.1))
    x = field.left + width * (across if is_right else 0.95 - across)
    y = field.top + height * float(random.uniform(0.02, 0.75))
    font = ImageFont.load_default(float(height * random.uniform(0.04, 0.09)))
    draw.text((x, y), "R" if is_right else "L", fill=int(random.integers(150, 256)), font=font)


def _cable(draw: ImageDraw.ImageDraw, random: np.random.Generator, field: Field) -> None:
    """Draw an electrode, a disk with a denser knob, and its cable to an edge of the field."""
    width, height = field.right - field.left, field.bottom - field.top
    x = field.left + width * float(random.uniform(0.1, 0.9))
    y = field.top + height * float(random.uniform(0.1, 0.9))
    disk, knob = (
        float(height * share) for share in (random.uniform(0.015, 0.03), random.uniform(0.005, 0.01))
    )
    bright = int(random.integers(60, 160))
    draw.ellipse((x - disk, y - disk, x + disk, y + disk), fill=bright // 4)
    end = (
        field.left + width * float(random.choice([0.0, 1.0])),
        y + height * float(random.uniform(-0.5, 0.5)),
    )
    middle = ((x + end[0]) / 2, max(y, end[1]) + height * float(random.uniform(0.0, 0.15)))
    shares = np.linspace(0, 1, 24)[:, np.newaxis]
    start, bend, stop = (np.asarray(point) for point in ((x, y), middle, end))
    curve = (1 - shares) ** 2 * start + 2 * shares * (1 - shares) * bend + shares**2 * stop
    draw.line([(float(px), float(py)) for px, py in curve], fill=bright, width=int(random.integers(1, 4)))
    draw.ellipse((x - knob, y - knob, x + knob, y + knob), fill=min(bright * 2, 255))
