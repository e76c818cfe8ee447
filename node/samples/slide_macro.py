"""What a scanner shows of a slide besides its levels: the label, and the whole glass from afar."""

import numpy as np
from PIL import Image, ImageDraw

from node.samples.slide import SlideSample
from node.samples.stain import Colors

GLASS_MM = 75.0, 25.0
LABEL_MM = 22.0
MACRO_SPACING_UM = 50.0
OVERVIEW_SIZE = 1500, 500
LABEL_SIZE = 440, 440
CORNER_XY_MM = 20.0, 40.0
"""Where on the glass the first pixel of every level has its outer corner; x runs up, y to the left."""


def draw_label(sample: SlideSample) -> Colors:
    """Return the label (rows, columns, 3): a pattern of squares and the stain, nothing of a patient."""
    image = Image.new("RGB", LABEL_SIZE, (236, 234, 226))
    pen = ImageDraw.Draw(image)
    pen.text((30, 30), "H&E", fill=(30, 30, 30), font_size=70)
    pen.text((30, 120), "SYNTHETIC", fill=(30, 30, 30), font_size=56)
    squares = np.random.default_rng([sample.seed, 51]).random((12, 12)) < 0.5
    for row, column in np.argwhere(squares).tolist():
        pen.rectangle((30 + 16 * column, 210 + 16 * row, 45 + 16 * column, 225 + 16 * row), fill=(20, 20, 20))
    return np.asarray(image)


def draw_overview(sample: SlideSample) -> Colors:
    """Return the whole glass (rows, columns, 3): the label at its left end, the tissue where it lies."""
    columns, rows = OVERVIEW_SIZE
    glass = tuple(round(value) for value in sample.stain.glass)
    image = Image.new("RGB", (columns, rows), (glass[0], glass[1], glass[2]))
    level = len(sample.levels) - 1
    size = sample.size(level)
    share = sample.micrometers_per_pixel * sample.levels[level] / MACRO_SPACING_UM
    small = Image.fromarray(sample.region(level, 0, 0, *size)).resize(
        (max(1, round(size[0] * share)), max(1, round(size[1] * share))), Image.Resampling.BOX
    )
    x, y = CORNER_XY_MM
    millimeters = 1000 / MACRO_SPACING_UM
    image.paste(small, (round((GLASS_MM[0] - y) * millimeters), round((GLASS_MM[1] - x) * millimeters)))
    image.paste(Image.fromarray(draw_label(sample)), (20, (rows - LABEL_SIZE[1]) // 2))
    return np.asarray(image)
