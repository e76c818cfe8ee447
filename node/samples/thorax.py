"""A chest radiograph of a synthetic thorax, with its truth."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from node.samples.anatomy import Lesion, Thorax, thorax_body
from node.samples.projection import Depths, integrate, lesion_box
from node.samples.shapes import Floats, Point, Reals

__all__ = ["Radiograph", "Thorax", "Truth", "project", "thorax_body", "thorax_radiograph"]

Box = tuple[int, int, int, int]

EXPOSURE, NOISE = 2, 3
"""Random streams of one seed, apart from those of the anatomy."""

BROAD_MM, FINE_MM = 22.0, 4.0
"""The two scales at which the film is made crisper, as a digital detector's processing does."""


@dataclass(frozen=True, slots=True)
class LesionTruth:
    """One of several lesions, its box as in `Truth`.

    `kind` and `place` are those of node.samples.opacities and node.samples.lesion_places; `size_mm` is the
    longer side of the box; `subtlety` is the lesion's contrast to the noise around it: near 1 it is hard to
    see, above 2 it is plain.
    """

    kind: str
    box_xyxy_px: Box
    size_mm: float
    subtlety: float
    place: str
    center_xyz_mm: Point


@dataclass(frozen=True, slots=True)
class Truth:
    """What is in the picture.

    `box_xyxy_px` is (column, row, column, row), the ends excluded; `center_xyz_mm` lies in the patient's
    axes; `laterality` is "R" or "L", the patient's. All but `finding` are None when there is no finding.
    `lesions` and `lung_boxes_xyxy_px` (right, left) are known of what `node.samples.lesions` draws.
    """

    finding: str | None
    box_xyxy_px: Box | None = None
    center_xyz_mm: Point | None = None
    diameter_mm: float | None = None
    laterality: str | None = None
    lesions: tuple[LesionTruth, ...] = ()
    lung_boxes_xyxy_px: tuple[Box, Box] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """A picture (rows, columns) of float32 0–1, dense tissue bright, the patient's left on the right."""

    pixels: Floats
    spacing_yx_mm: tuple[float, float]
    truth: Truth
    seed: int


@dataclass(frozen=True, slots=True)
class Exposure:
    """How the picture was taken: field, tilt, dose, scatter, blur and film curve."""

    field_mm: float
    center_xz_mm: tuple[float, float]
    tilt_rad: float
    photons_per_mm2: float
    scatter_ratio: float
    blur_mm: float
    detail: float
    gamma: float
    white: float
    black: float


def thorax_radiograph(seed: int, *, finding: str | None = None, size: int = 512) -> Radiograph:
    """Return the square radiograph of the body of a seed; see `thorax_body`."""
    return project(thorax_body(seed, finding=finding), size=size)


def project(body: Thorax, *, size: int = 512) -> Radiograph:
    """Return the radiograph of a body, `size` pixels a side.

    The same seed is taken with the same exposure and noise, whether the body has a finding or not.
    """
    exposure = draw_exposure(body)
    spacing = exposure.field_mm / size
    x, z = projection_grid(exposure, size)
    depths = integrate(body, x, z)
    pixels = expose(depths.attenuation, exposure, seed=body.seed)
    return Radiograph(pixels, (spacing, spacing), _truth(body.lesion, depths, spacing), body.seed)


def expose(attenuation: Floats, exposure: Exposure, *, seed: int) -> Floats:
    """Return the film 0–1 behind what attenuates (rows, columns; square), with the noise of a seed."""
    spacing = exposure.field_mm / attenuation.shape[1]
    signal = _detect(attenuation, exposure, spacing, np.random.default_rng([seed, NOISE]))
    return _develop(signal, exposure, spacing)


def draw_exposure(body: Thorax) -> Exposure:
    """Return how the body of a seed is placed and exposed."""
    random = np.random.default_rng([body.seed, EXPOSURE])
    scale = body.scale_mm
    field = scale * float(random.uniform(2.35, 2.9))
    top = body.lungs.cage.apex_z_mm + scale * float(random.uniform(0.05, 0.4))
    return Exposure(
        field_mm=field,
        center_xz_mm=(scale * float(random.normal(0, 0.04)), top - field / 2),
        tilt_rad=float(random.normal(0, 0.025)),
        photons_per_mm2=float(np.exp(random.uniform(np.log(6e4), np.log(4e5)))),
        scatter_ratio=float(random.uniform(0.25, 0.8)),
        blur_mm=float(random.uniform(0.25, 0.5)),
        detail=float(random.uniform(1.4, 2.4)),
        gamma=float(random.uniform(0.7, 1.25)),
        white=float(random.uniform(0.88, 0.98)),
        black=float(random.uniform(0.0, 0.12)),
    )


def projection_grid(exposure: Exposure, size: int) -> tuple[Floats, Floats]:
    """Return x and z in patient mm at the middle of each pixel of a square picture."""
    steps = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) - np.float32(0.5)
    across, along = exposure.field_mm * steps[np.newaxis, :], -exposure.field_mm * steps[:, np.newaxis]
    cosine, sine = np.cos(exposure.tilt_rad), np.sin(exposure.tilt_rad)
    x = exposure.center_xz_mm[0] + across * cosine - along * sine
    z = exposure.center_xz_mm[1] + across * sine + along * cosine
    return x.astype(np.float32), z.astype(np.float32)


def _detect(
    attenuation: Floats, exposure: Exposure, spacing_mm: float, random: np.random.Generator
) -> Floats:
    """Return the noisy share of photons that arrive, scatter included, 1 where nothing was in the way."""
    primary = blur(np.exp(-attenuation), exposure.blur_mm / spacing_mm)
    signal = primary + scattered(primary, exposure)
    photons = np.float32(exposure.photons_per_mm2 * spacing_mm * spacing_mm)
    # A detector's neighbors share light: its noise is smoother than the photons', not weaker.
    noise = blur(np.asarray(random.standard_normal(signal.shape, dtype=np.float32)), 0.6) * np.float32(1.8)
    return np.asarray(
        np.maximum(signal + np.sqrt(signal / photons) * noise, np.float32(1e-5)), dtype=np.float32
    )


def scattered(primary: Floats, exposure: Exposure) -> Floats:
    """Return what arrives beside the direct way, a wide veil (rows, columns)."""
    # Direct exposure scatters little: only what passed the body spreads.
    veil = soften(primary * (primary < np.float32(0.7)), 0.1 * primary.shape[1])
    return np.float32(exposure.scatter_ratio) * veil


def _develop(signal: Floats, exposure: Exposure, spacing_mm: float) -> Floats:
    """Return film-like values 0–1: logarithm, detail raised over the broad range, characteristic curve."""
    density = -np.log(signal)
    # The dark surround would pull a halo along the skin: hold it near the thinnest tissue.
    held = np.maximum(density, np.float32(0.7))
    broad, fine = soften(held, BROAD_MM / spacing_mm), soften(held, FINE_MM / spacing_mm)
    detail = np.float32(0.6 * exposure.detail)
    density = np.float32(0.6) * broad + detail * (density - broad) + detail * np.float32(0.5) * (held - fine)
    inside = density[signal < 0.6]
    low_value, high_value = np.percentile(inside, [1, 99.8]) if inside.size else (0.0, 1.0)
    span = max(float(high_value - low_value), 1e-3)
    relative = (density - np.float32(low_value - 0.12 * span)) / np.float32(1.12 * span)
    film = np.clip(relative, 0, 1) ** np.float32(exposure.gamma)
    pixels = exposure.black + (exposure.white - exposure.black) * film
    direct = np.clip((np.float32(0.95) - signal) / np.float32(0.35), 0, 1)
    return np.asarray(np.clip(pixels * direct, 0, 1), dtype=np.float32)


def blur(image: Reals, sigma_px: float) -> Floats:
    """Return the image (rows, columns) after a Gaussian blur, its edges normalized."""
    rows, columns = (_blur_matrix(length, sigma_px) for length in image.shape)
    return np.asarray(rows @ image @ columns.T, dtype=np.float32)


def _blur_matrix(length: int, sigma_px: float) -> Floats:
    distance = np.arange(length)[:, np.newaxis] - np.arange(length)[np.newaxis, :]
    weights = np.exp(-0.5 * (distance / max(sigma_px, 1e-3)) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def soften(image: Reals, sigma_px: float) -> Floats:
    """Return a wide Gaussian blur, computed on a grid just fine enough for it."""
    rows, columns = image.shape
    step = max(1.0, sigma_px / 4)
    small = (max(8, round(columns / step)), max(8, round(rows / step)))
    coarse = np.asarray(Image.fromarray(image).resize(small, Image.Resampling.BOX))
    smooth = Image.fromarray(blur(coarse, sigma_px * small[0] / columns))
    return np.asarray(smooth.resize((columns, rows), Image.Resampling.BICUBIC))


def _truth(lesion: Lesion | None, depths: Depths, spacing_mm: float) -> Truth:
    if lesion is None:
        return Truth(None)
    box = lesion_box(depths)
    centers = np.asarray([blob.center_xyz_mm for blob in lesion.blobs])
    weights = np.asarray([np.prod(blob.radii_xyz_mm) for blob in lesion.blobs])
    center = np.average(centers, axis=0, weights=weights)
    if lesion.finding == "nodule":
        diameter = 2 * float(np.mean(lesion.blobs[0].radii_xyz_mm))
    else:
        diameter = spacing_mm * max(box[2] - box[0], box[3] - box[1]) if box else 0.0
    xyz = (float(center[0]), float(center[1]), float(center[2]))
    return Truth(lesion.finding, box, xyz, diameter, "R" if xyz[0] < 0 else "L")
