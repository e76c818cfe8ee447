"""What of a slide is looked at: at which scale, where its tissue is, and in which tiles."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from node.domain.card import ModelCard
from node.domain.findings import Outcome, Refusal
from node.domain.location import Frame
from node.domain.slide import SlideLevel
from node.errors import ModelError
from node.imaging.slide_grid import SLACK, TilePlan, fitting_level, plan_tiles
from node.imaging.tissue import TissueField, find_tissue
from node.read.slide import Slide
from node.shrink import shrink

OVERVIEW_UM = 8.0
"""Pixels of the picture on which tissue is looked for."""

MOST_OVERVIEW_PIXELS = 8_000_000
"""Of the largest slides they are larger: to look for tissue takes some 50 bytes for each."""

POWER_TIMES_UM = 10.0
"""An objective that magnifies 20 times has pixels of 0.5 µm, one of 40 times of 0.25 µm, on usual cameras."""

NO_SCALE = (
    "neither the size of a pixel nor the power of the objective is known: the slide needs Pixel Spacing "
    "in its Pixel Measures Sequence"
)
NO_TISSUE = "no tissue was found on the slide"

Colors = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What is looked at: tiles of one level, its pixel size in µm, and their side as the model takes it."""

    level: SlideLevel
    micrometers_per_pixel: float
    tiles: TilePlan
    tile_px: int
    remarks: tuple[str, ...]

    @property
    def frame(self) -> Frame:
        """The level as a picture that results refer to."""
        return Frame(self.level.sop_instance_uid)

    @property
    def tile_mm2(self) -> float:
        """The area of a tile."""
        return (self.tiles.side * self.micrometers_per_pixel / 1000) ** 2


def look_at(slide: Slide, card: ModelCard, assumed_um: float = 0.0) -> View | Refusal:
    """Return what a model of this card shall be shown of a slide, or why nothing.

    `assumed_um` are micrometers per pixel of a slide that tells nothing of its scale; 0 where nobody knows.
    Raises ModelError where the card does not say how large its tiles are, PixelError for a damaged tile.
    """
    if card.input_micrometers_per_pixel is None:
        raise ModelError(card.name, "card.json: input micrometers_per_pixel is missing")
    finest_um, scale_remarks = _scale(slide, assumed_um)
    if finest_um is None:
        return Refusal(Outcome.NOT_ELIGIBLE, NO_SCALE)
    if finest_um > card.input_micrometers_per_pixel * SLACK:
        return Refusal(
            Outcome.NOT_ELIGIBLE,
            f"the finest level has {finest_um:.3g} µm per pixel; the model reads "
            f"{card.input_micrometers_per_pixel:g} µm",
        )
    picture, pixel_um = read_overview(slide, finest_um)
    tissue = find_tissue(picture, pixel_um)
    plan = plan_tiles(
        slide.levels,
        tissue.mask,
        micrometers_per_pixel=finest_um,
        side_um=card.input_shape[0] * card.input_micrometers_per_pixel,
        wanted_micrometers_per_pixel=card.input_micrometers_per_pixel,
    )
    if not len(plan):
        return Refusal(Outcome.NOT_ELIGIBLE, NO_TISSUE)
    level = slide.levels[plan.level]
    remarks = (*slide.notes, *scale_remarks, *_tissue_remarks(tissue, picture.shape, pixel_um))
    return View(level, finest_um * level.downsample, plan, card.input_shape[0], remarks)


def _scale(slide: Slide, assumed_um: float) -> tuple[float | None, tuple[str, ...]]:
    """Return the pixel size of the finest level in µm, and what to say where it is not the slide's own."""
    if slide.micrometers_per_pixel is not None:
        return slide.micrometers_per_pixel, ()
    if slide.objective_power is not None:
        estimate, why = POWER_TIMES_UM / slide.objective_power, "as is usual for that power"
    elif assumed_um > 0:
        estimate, why = assumed_um, "as the configuration of this node says"
    else:
        return None, ()
    return estimate, (f"It was taken to be {estimate:.3g} µm, {why}: no length and no area is exact.",)


def read_overview(slide: Slide, micrometers_per_pixel: float) -> tuple[Colors, float]:
    """Return the whole slide (rows, columns, 3), and the size of its pixels, which is OVERVIEW_UM or near it.

    Read strip by strip from the coarsest level that is fine enough, and shrunk by the mean of the pixels: a
    slide without coarse levels takes no more memory. `micrometers_per_pixel` is that of the finest level.
    Raises PixelError with the place for a tile that does not decode.
    """
    finest = slide.levels[0]
    least = math.sqrt(finest.rows * finest.columns / MOST_OVERVIEW_PIXELS)
    downsample = max(OVERVIEW_UM / micrometers_per_pixel, least)
    number = fitting_level(slide.levels, downsample)
    level = slide.levels[number]
    pixel_um = micrometers_per_pixel * level.downsample
    factor = max(1, min(round(downsample / level.downsample), level.rows, level.columns))
    height = factor * -(-max(level.tile_rows, 1) // factor)
    rows, columns = (side // factor * factor for side in (level.rows, level.columns))
    strips = [
        shrink(slide.region(number, 0, top, columns, min(height, rows - top)), factor)
        for top in range(0, rows, height)
    ]
    return np.concatenate(strips), pixel_um * factor


def _tissue_remarks(tissue: TissueField, shape: tuple[int, ...], pixel_um: float) -> tuple[str, ...]:
    """Return in words how much tissue was read, and what else lies on it."""
    pixel_mm2 = (pixel_um / 1000) ** 2
    area_mm2 = float(tissue.mask.sum()) * pixel_mm2
    apart = {"under ink": tissue.pen, "folded": tissue.folds}
    parts = [f"{part.sum() * pixel_mm2:.2g} mm² {why}" for why, part in apart.items() if part.sum() > 0]
    left_out = f" Not read: {', '.join(parts)}." if parts else ""
    return (f"{area_mm2:.3g} mm² of tissue were found.{left_out}",)
