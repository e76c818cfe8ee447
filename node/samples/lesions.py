"""A chest radiograph with several lesions of known boxes, and the boxes of the lungs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from node.samples.anatomy import Thorax, thorax_body
from node.samples.lesion_places import draw_spot
from node.samples.opacities import (
    SIZES_MM,
    Kind,
    Opacity,
    box_of,
    draw_opacity,
    opacity_depth_mm,
    window_mm,
)
from node.samples.projection import LUNG_PER_MM, SOFT_PER_MM, integrate, vessel_depth_mm
from node.samples.shapes import Floats
from node.samples.thorax import (
    Box,
    Exposure,
    LesionTruth,
    Radiograph,
    Truth,
    blur,
    draw_exposure,
    expose,
    projection_grid,
    scattered,
    soften,
)

Window = tuple[slice, slice]

__all__ = ["KINDS", "lesion_radiograph"]

KINDS: tuple[Kind, ...] = ("nodule", "mass", "consolidation")
SHARE_BY_KIND = {"nodule": 0.55, "mass": 0.2, "consolidation": 0.25}

LESIONS = 11
"""Random stream of a seed."""

ATTEMPTS, TRIES_PER_SIZE = 90, 15
WHOLE_SHARE = 0.75
"""How much of the length that was drawn a lesion must show."""
HALF_WIDTHS_MM = (85.0, 145.0)
"""Half the cage's width: children of school age to large adults."""
FIELD_HALF_WIDTHS = (2.4, 3.1)
"""How wide the film is, in half-widths of the cage, where the exposure's own field is not wider."""

SUBTLETIES = (0.8, 8.0)
GRAIN = 0.85
"""How strong the detector's noise is, of a photon count's own (node.samples.thorax)."""
STRUCTURE_MM = 12.0
"""What changes over more than this is no noise beside a lesion but the place it lies in."""
APART_MM = 3.0
LUNG_BOX_SHARE, SPINE_SHARE = 0.22, 0.5
"""The depth that counts as lung field; and the half-widths of the spine's column between both fields."""


@dataclass(frozen=True, slots=True, eq=False)
class Film:
    """What a film of the healthy body would show, all (rows, columns).

    `direct` is the share of the signal that came straight, `density` its negative logarithm without noise,
    `variance` the square of all that hides a lesion: ribs, vessels, photons.
    """

    x: Floats
    z: Floats
    spacing_mm: float
    lung_mm: Floats
    attenuation: Floats
    direct: Floats
    variance: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A lesion on the film: its truth, its depth in its window, 1 the density of soft tissue."""

    truth: LesionTruth
    window: Window
    depth_mm: Floats
    density: float


def lesion_radiograph(
    seed: int, *, kinds: Sequence[Kind] = KINDS, count: int | None = None, size: int = 512
) -> Radiograph:
    """Return the square radiograph of a body with so many lesions, 1–4 where no `count` is given.

    A lesion's box holds every pixel whose ray crosses more than a quarter (`BOX_SHARE`) of the lesion's
    greatest depth on this film, the lesion seen alone, before blur and noise. A lung's box holds every pixel
    beside the spine whose ray crosses more than `LUNG_BOX_SHARE` of the deepest ray of that lung. The boxes
    of lesions do not touch; there are fewer lesions than asked for where no more fit. The body, its exposure
    and its noise follow from the seed alone: `count=0` gives the same film without lesions.
    """
    if not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds {list(kinds)}, expected some of {list(KINDS)}")
    body, exposure = _body(seed)
    film = _healthy_film(body, exposure, size)
    random = np.random.default_rng([seed, LESIONS, 1])
    wanted = int(random.integers(1, 5)) if count is None else count
    drawn = _draw_lesions(body, film, random, _draw_kinds(random, kinds, wanted))
    pixels = expose(_with_lesions(body, film, drawn), exposure, seed=seed)
    truth = Truth(
        "lesions" if drawn else None,
        lesions=tuple(one.truth for one in drawn),
        lung_boxes_xyxy_px=_lung_boxes(body, film),
    )
    return Radiograph(pixels, (film.spacing_mm, film.spacing_mm), truth, seed)


def _body(seed: int) -> tuple[Thorax, Exposure]:
    random = np.random.default_rng([seed, LESIONS, 0])
    body = thorax_body(seed, scale_mm=float(random.uniform(*HALF_WIDTHS_MM)))
    exposure = draw_exposure(body)
    # A wider field below: lungs end above the film's edge, as on most films.
    field = max(exposure.field_mm, body.scale_mm * float(random.uniform(*FIELD_HALF_WIDTHS)))
    x, z = exposure.center_xz_mm
    center = (x, z + (exposure.field_mm - field) / 2)
    return body, replace(exposure, field_mm=field, center_xz_mm=center)


def _healthy_film(body: Thorax, exposure: Exposure, size: int) -> Film:
    spacing = exposure.field_mm / size
    x, z = projection_grid(exposure, size)
    depths = integrate(body, x, z)
    primary = blur(np.exp(-depths.attenuation), exposure.blur_mm / spacing)
    signal = primary + scattered(primary, exposure)
    density = -np.log(np.maximum(signal, np.float32(1e-5)))
    structure = density - soften(density, STRUCTURE_MM / spacing)
    photons = np.float32(exposure.photons_per_mm2 * spacing * spacing)
    variance = structure**2 + np.float32(GRAIN * GRAIN) / (photons * signal)
    return Film(x, z, spacing, depths.lung_mm, depths.attenuation, primary / signal, variance)


def _draw_kinds(random: np.random.Generator, kinds: Sequence[Kind], count: int) -> list[Kind]:
    """Return what lesions to draw, the large ones first: they find room the hardest."""
    shares = np.asarray([SHARE_BY_KIND[kind] for kind in kinds])
    chosen = [kinds[index] for index in random.choice(len(kinds), count, p=shares / shares.sum())]
    return sorted(chosen, key=lambda kind: -SIZES_MM[kind][1] - SIZES_MM[kind][0])


def _draw_lesions(
    body: Thorax, film: Film, random: np.random.Generator, kinds: Sequence[Kind]
) -> list[Drawn]:
    drawn: list[Drawn] = []
    for kind in kinds:
        for attempt in range(ATTEMPTS):
            # A size is held for a while: small ones, which are hard to see, would else be drawn away.
            if attempt % TRIES_PER_SIZE == 0:
                size_mm = float(np.exp(random.uniform(*np.log(SIZES_MM[kind]))))
            one = _draw_lesion(body, film, random, kind=kind, size_mm=size_mm)
            if one is not None and not any(_touch(one, other, film.spacing_mm) for other in drawn):
                drawn.append(one)
                break
    return drawn


def _draw_lesion(
    body: Thorax, film: Film, random: np.random.Generator, *, kind: Kind, size_mm: float
) -> Drawn | None:
    """Return a lesion, None where the draw has no place, is cut off or could not be seen."""
    low, high = SIZES_MM[kind]
    subtlety = float(np.exp(random.uniform(*np.log(SUBTLETIES))))
    spot = draw_spot(body, random, kind=kind, size_mm=size_mm)
    if spot is None:
        return None
    center, scale = spot.center_xyz_mm, body.scale_mm
    hilum = (float(np.sign(center[0])) * 0.24 * scale, 0.1 * scale, 0.7 * scale)
    opacity = draw_opacity(kind, random, center_xyz_mm=center, size_mm=size_mm, hilum_xyz_mm=hilum)
    window = _window(film, opacity)
    depth = opacity_depth_mm(opacity, film.lung_mm[window], film.x[window], film.z[window])
    box = _whole_box(film, window, depth)
    measured = film.spacing_mm * max(box[2] - box[0], box[3] - box[1]) if box else 0.0
    # What its lung or the film's edge cuts much shorter is no lesion of this kind any more.
    if not box or not max(WHOLE_SHARE * size_mm, low - film.spacing_mm) <= measured <= high + film.spacing_mm:
        return None
    contrast = _contrast(film, window, depth, box)
    density = float(np.clip(subtlety / contrast, *_densities(kind, size_mm)))
    if density * contrast < least_subtlety(measured):
        return None
    truth = LesionTruth(kind, box, measured, density * contrast, spot.place, center)
    return Drawn(truth, window, depth, density)


def _whole_box(film: Film, window: Window, depth_mm: Floats) -> Box | None:
    """Return a lesion's box on the film, None where the film does not hold all of it."""
    inner = box_of(depth_mm)
    if inner is None:
        return None
    top, left = window[0].start, window[1].start
    box = (inner[0] + left, inner[1] + top, inner[2] + left, inner[3] + top)
    rows, columns = film.x.shape
    is_whole = box[0] > 0 and box[1] > 0 and box[2] < columns and box[3] < rows
    return box if is_whole else None


def least_subtlety(size_mm: float) -> float:
    """Return the contrast to noise below which nobody could tell a lesion of a size from its surroundings."""
    return 0.9 + 2.5 / size_mm


def _densities(kind: Kind, size_mm: float) -> tuple[float, float]:
    """Return the range of densities, 1 that of soft tissue: ground glass to solid, small nodules to chalk."""
    if kind == "nodule" and size_mm < 12:
        return 0.5, 2.2
    return (0.5, 1.4) if kind == "mass" else (0.3, 1.4)


def _contrast(film: Film, window: Window, depth_mm: Floats, box: Box) -> float:
    """Return the subtlety of a lesion of full density: its mean contrast over the noise around it.

    The contrast is what the lesion's thicker half adds to the density of the film; the noise is the root mean
    square of structure and photons in a box twice as large, without the lesion's own.
    """
    is_core = depth_mm > 0.5 * depth_mm.max()
    added = np.float32(SOFT_PER_MM - LUNG_PER_MM) * depth_mm * film.direct[window]
    margins = (max(4, (box[3] - box[1]) // 2), max(4, (box[2] - box[0]) // 2))
    around = (
        slice(max(box[1] - margins[0], 0), box[3] + margins[0]),
        slice(max(box[0] - margins[1], 0), box[2] + margins[1]),
    )
    return float(added[is_core].mean() / np.sqrt(film.variance[around].mean()))


def _window(film: Film, opacity: Opacity) -> Window:
    """Return the part of the film that a lesion can darken."""
    reach = window_mm(opacity)
    center_x, _, center_z = opacity.center_xyz_mm
    # The grid is turned by a few degrees at most: its nearest point is found where both differences vanish.
    row, column = np.unravel_index(
        int(np.argmin((film.x - center_x) ** 2 + (film.z - center_z) ** 2)), film.x.shape
    )
    pixels = int(np.ceil(reach / film.spacing_mm))
    rows, columns = film.x.shape
    return (
        slice(max(int(row) - pixels, 0), min(int(row) + pixels + 1, rows)),
        slice(max(int(column) - pixels, 0), min(int(column) + pixels + 1, columns)),
    )


def _touch(first: Drawn, second: Drawn, spacing_mm: float) -> bool:
    gap = APART_MM / spacing_mm
    a, b = first.truth.box_xyxy_px, second.truth.box_xyxy_px
    return bool(a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap)


def _with_lesions(body: Thorax, film: Film, drawn: Sequence[Drawn]) -> Floats:
    """Return the attenuation of the body with its lesions; vessels fade in a consolidation."""
    filled = np.zeros_like(film.lung_mm)
    for one in drawn:
        filled[one.window] += np.float32(one.density) * one.depth_mm
    attenuation = film.attenuation + np.float32(SOFT_PER_MM - LUNG_PER_MM) * filled
    if any(one.truth.kind == "consolidation" for one in drawn):
        before = vessel_depth_mm(body, film.lung_mm, film.x, film.z)
        after = vessel_depth_mm(body, film.lung_mm - filled, film.x, film.z)
        attenuation += np.float32(SOFT_PER_MM - LUNG_PER_MM) * (after - before)
    return np.asarray(attenuation, dtype=np.float32)


def _lung_boxes(body: Thorax, film: Film) -> tuple[Box, Box]:
    """Return the boxes of the right and the left lung."""
    column = body.lungs.column
    # Readers draw the fields up to the spine, not behind its middle, where lung is, too.
    across = (film.x - np.float32(column.center_xy_mm[0])) / np.float32(column.half_width_mm)
    boxes = []
    for side in (across < -SPINE_SHARE, across > SPINE_SHARE):
        lung = np.where(side, film.lung_mm, np.float32(0))
        rows, columns = np.nonzero(lung > np.float32(LUNG_BOX_SHARE) * lung.max())
        boxes.append((int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1))
    return boxes[0], boxes[1]
