"""A weighed slide as findings: its score with the tumor's area, regions, the map of attention, marks."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from node.domain.code import AREA, ATTENTION_WEIGHT, NO_UNITS, SQUARE_MILLIMETER
from node.domain.findings import Measurement, Region, Score
from node.domain.location import Marks, Outline, Shape, ValueMap
from node.imaging.outlines import LEAST_TILES, Island, find_islands
from node.pipelines.slide_tumor.looking import View
from node.pipelines.slide_tumor.weighing import Weighed

ATTENDED = 0.95
"""The tiles that are marked carry this share of all attention."""

SHARE_DIGITS, AREA_DIGITS = 4, 3

Floats = npt.NDArray[np.float32]


def measured(view: View, weighed: Weighed, islands: Sequence[Island]) -> Score:
    """Return the score of the slide, with the area of all that looks like tumor."""
    mask = (
        np.any([island.mask for island in islands], axis=0)
        if islands
        else np.zeros(view.tiles.tissue_shares.shape, np.bool_)
    )
    return replace(weighed.score, measurements=(_area(view, mask),))


def find_tumor(view: View, weighed: Weighed) -> list[Island]:
    """Return the parts of the slide that look like tumor, the largest first; none of a single tile."""
    is_tumor = _painted(view, weighed, weighed.tile_probability) >= weighed.tile_threshold
    return find_islands(is_tumor, LEAST_TILES)


def tumor_regions(view: View, weighed: Weighed, islands: Sequence[Island]) -> Iterator[Region]:
    """Yield each of these parts with its outline and area."""
    for number, island in enumerate(islands, 1):
        yield Region(
            identifier=f"Tumor region {number}",
            code=weighed.score.code,
            outline=Outline(view.frame, _to_level(view, island)),
            measurements=(_area(view, island.mask),),
        )


def top_tiles(view: View, weighed: Weighed, count: int) -> Iterator[Region]:
    """Yield the tiles that weighed most, each with its weight relative to the first."""
    for number, tile in enumerate(np.argsort(-weighed.attention, kind="stable")[:count].tolist(), 1):
        weight = round(float(weighed.relative_attention[tile]), SHARE_DIGITS)
        yield Region(
            identifier=f"Tile {number}",
            code=weighed.score.code,
            outline=_box(view, weighed, tile),
            measurements=(Measurement(ATTENTION_WEIGHT, weight, NO_UNITS),),
        )


def attention_map(view: View, weighed: Weighed) -> ValueMap:
    """Return what each tile weighed relative to the one that weighed most, over the whole level."""
    values = _painted(view, weighed, weighed.relative_attention)
    return ValueMap(
        "Attention", ATTENTION_WEIGHT, NO_UNITS, (view.frame,), values[np.newaxis], view.tiles.side
    )


def make_marks(view: View, weighed: Weighed, islands: Sequence[Island]) -> tuple[Marks, ...]:
    """Return the outlines of all that looks like tumor, and the tiles that carry nearly all attention."""
    code, chosen = weighed.score.code, _attended(weighed.attention)
    attended = Marks(
        "Attended tiles",
        code,
        view.frame,
        Shape.RECTANGLE,
        [_box(view, weighed, tile).points_xy for tile in chosen.tolist()],
        ATTENTION_WEIGHT,
        NO_UNITS,
        weighed.relative_attention[chosen],
    )
    if not islands:
        return (attended,)
    areas = np.array([_area_mm2(view, island.mask) for island in islands], np.float32)
    lines = [_to_level(view, island) for island in islands]
    outlines = Marks("Tumor outlines", code, view.frame, Shape.POLYGON, lines, AREA, SQUARE_MILLIMETER, areas)
    return (outlines, attended)


def left_out(islands: Sequence[Island], most: int) -> tuple[str, ...]:
    """Return in words how many parts have no region of their own."""
    if len(islands) <= most:
        return ()
    return (
        f"Of {len(islands)} parts that look like tumor the {most} largest are listed; the area is of all.",
    )


def _painted(view: View, weighed: Weighed, values: Floats) -> Floats:
    """Return values (n,) of the tiles in the shape of the level; 0 where nothing was read."""
    painted = np.zeros(view.tiles.tissue_shares.shape, np.float32)
    columns, rows = (weighed.tiles.corners // view.tiles.side).T
    painted[rows, columns] = values
    return painted


def _attended(attention: Floats) -> npt.NDArray[np.intp]:
    """Return the fewest tiles that carry together ATTENDED of all attention, the most attended first."""
    order = np.argsort(-attention, kind="stable")
    carried = np.cumsum(attention[order].astype(np.float64)) / max(
        float(attention.sum(dtype=np.float64)), 1e-12
    )
    return order[: int(np.searchsorted(carried, ATTENDED)) + 1]


def _area(view: View, mask: npt.NDArray[np.bool_]) -> Measurement:
    area_mm2 = float(f"{_area_mm2(view, mask):.{AREA_DIGITS}g}")
    return Measurement(AREA, area_mm2, SQUARE_MILLIMETER)


def _area_mm2(view: View, mask: npt.NDArray[np.bool_]) -> float:
    """Return how much tissue lies in these tiles."""
    return float(view.tiles.tissue_shares[mask].sum()) * view.tile_mm2


def _to_level(view: View, island: Island) -> Floats:
    """Return the outline of a part in pixels of the level, which may end within its last tiles."""
    points = island.outline * view.tiles.side
    return np.minimum(points, (view.level.columns, view.level.rows)).astype(np.float32)


def _box(view: View, weighed: Weighed, tile: int) -> Outline:
    """Return the square of a tile, as far as it lies on the level."""
    left, top = weighed.tiles.corners[tile].tolist()
    right, bottom = left + view.tiles.side, top + view.tiles.side
    return Outline.box(
        view.frame, (left, top), (min(right, view.level.columns), min(bottom, view.level.rows))
    )
