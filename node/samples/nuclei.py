"""Cell nuclei of a synthetic slide: what they look like by their kind, and how they darken a picture."""

import numpy as np
from numpy.typing import NDArray

from node.samples.shapes import Floats, Reals

NUCLEUS = np.dtype(
    [
        ("x_um", "f8"),
        ("y_um", "f8"),
        ("long_um", "f4"),  # half of the longer axis
        ("short_um", "f4"),  # half of the shorter one
        ("turn_rad", "f4"),  # of the longer axis, from +x towards +y
        ("density", "f4"),  # of hematoxylin
        ("lobes", "f4"),  # how far the outline is from an ellipse
        ("depth_um", "f4"),  # below the outline of the gland that it belongs to, 0 of all others
        ("nucleolus", "f4"),  # how much darker it is than the rest, 0 where there is none
    ]
)
Nuclei = NDArray[np.void]

LARGEST_UM = 12.0
"""No nucleus reaches further from its center."""
FINE_UM = 2.5
"""Up to pixels of this size nuclei are drawn as shapes, in larger ones as what they add to a pixel."""
CHUNK = 256
"""How many nuclei are drawn at once, which bounds the memory."""


def nuclei_at(y_um: Reals, x_um: Reals, turn_rad: Reals) -> Nuclei:
    """Return nuclei of given places and directions, all else still zero."""
    nuclei = np.zeros(len(x_um), dtype=NUCLEUS)
    nuclei["x_um"], nuclei["y_um"], nuclei["turn_rad"] = x_um, y_um, turn_rad
    return nuclei


def shape_like(
    random: np.random.Generator,
    nuclei: Nuclei,
    *,
    long_um: float,
    spread: float,
    roundness: tuple[float, float],
    density: tuple[float, float],
) -> Nuclei:
    """Give nuclei their size (median, spread of its logarithm), roundness and staining (from, to)."""
    count = len(nuclei)
    nuclei["long_um"] = np.clip(
        long_um * np.exp(spread * random.standard_normal(count)), 1.0, 0.75 * LARGEST_UM
    )
    nuclei["short_um"] = nuclei["long_um"] * random.uniform(*roundness, count)
    nuclei["density"] = random.uniform(*density, count)
    return nuclei


def draw_nuclei(nuclei: Nuclei, first_px: tuple[int, int], shape: tuple[int, int], pixel_um: float) -> Floats:
    """Return the hematoxylin (rows, columns) of nuclei in a window whose first row and column are given."""
    plane = np.zeros(shape, dtype=np.float32)
    if not len(nuclei):
        return plane
    if pixel_um > FINE_UM:
        _add_points(plane, nuclei, first_px, pixel_um)
        return plane
    sides = (2 * np.ceil(1.2 * nuclei["long_um"] / pixel_um + 1).astype(np.int64) + 7) // 8 * 8
    for side in np.unique(sides):
        alike = nuclei[sides == side]
        for start in range(0, len(alike), CHUNK):
            _put_shapes(plane, alike[start : start + CHUNK], first_px, pixel_um, int(side))
    return plane


def _put_shapes(plane: Floats, nuclei: Nuclei, first_px: tuple[int, int], pixel_um: float, side: int) -> None:
    """Draw nuclei that fit into a square of `side` pixels, the darker one over the other."""
    offsets = np.arange(side) - side // 2
    y, row = _split(nuclei["y_um"], pixel_um, offsets)
    x, column = _split(nuclei["x_um"], pixel_um, offsets)
    patch = _shapes(nuclei, y, x, pixel_um)
    rows, columns = row - first_px[0], column - first_px[1]
    tall, wide = plane.shape
    for number, (top, left) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        first, start = max(0, -top), max(0, -left)
        last, end = min(side, tall - top), min(side, wide - left)
        if first < last and start < end:
            part = plane[top + first : top + last, left + start : left + end]
            np.maximum(part, patch[number, first:last, start:end], out=part)


def _split(um: Reals, pixel_um: float, offsets: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """Return the distances in µm of the pixels around each center (n, side), and the first pixel of each."""
    at = um / pixel_um - 0.5
    whole = np.floor(at).astype(np.int64)
    away = (offsets - (at - whole)[:, np.newaxis]) * pixel_um
    return away.astype(np.float32), whole + offsets[0]


def _shapes(nuclei: Nuclei, y: Floats, x: Floats, pixel_um: float) -> Floats:
    """Return the hematoxylin (n, side, side) of each nucleus in its own square."""
    cosine, sine = np.cos(nuclei["turn_rad"])[:, np.newaxis], np.sin(nuclei["turn_rad"])[:, np.newaxis]
    long, short = nuclei["long_um"][:, np.newaxis], nuclei["short_um"][:, np.newaxis]
    along = (x * cosine / long)[:, np.newaxis, :] + (y * sine / long)[:, :, np.newaxis]
    aside = (y * cosine / short)[:, :, np.newaxis] - (x * sine / short)[:, np.newaxis, :]
    square = along * along
    other = aside * aside
    lobes = nuclei["lobes"][:, np.newaxis, np.newaxis]
    whole = square + other
    distance = np.sqrt(whole)
    distance += lobes * along * (square - 3 * other) / (whole + np.float32(1e-3))
    size = np.sqrt(long * short)[:, :, np.newaxis] / np.float32(pixel_um)
    cover = np.clip((1 - distance) * size + np.float32(0.5), 0, 1)
    # Chromatin lies along the membrane; a nucleolus lies off the middle.
    inner = whole * np.float32(0.3) + np.float32(0.78)
    spot = np.square(along - np.float32(0.2)) + np.square(aside + np.float32(0.15))
    inner += nuclei["nucleolus"][:, np.newaxis, np.newaxis] * np.clip(1 - spot * 9, 0, 1)
    return np.asarray(cover * inner * nuclei["density"][:, np.newaxis, np.newaxis], dtype=np.float32)


def _add_points(plane: Floats, nuclei: Nuclei, first_px: tuple[int, int], pixel_um: float) -> None:
    """Add what nuclei smaller than a pixel take of its light, as stain that would take the same."""
    share = np.pi * nuclei["long_um"] * nuclei["short_um"] / pixel_um**2
    lost = share * (1 - 10.0 ** (-0.65 * nuclei["density"]))
    y, x = nuclei["y_um"] / pixel_um - 0.5 - first_px[0], nuclei["x_um"] / pixel_um - 0.5 - first_px[1]
    row, column = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    light = np.zeros(plane.shape, dtype=np.float64)
    for step_y, weight_y in ((0, 1 - (y - row)), (1, y - row)):
        for step_x, weight_x in ((0, 1 - (x - column)), (1, x - column)):
            at_row, at_column = row + step_y, column + step_x
            inside = (
                (at_row >= 0) & (at_row < plane.shape[0]) & (at_column >= 0) & (at_column < plane.shape[1])
            )
            np.add.at(light, (at_row[inside], at_column[inside]), (lost * weight_y * weight_x)[inside])
    plane[...] = -np.log10(1 - np.minimum(light, 0.8)) / 0.65
