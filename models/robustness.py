"""How far the figures move when pictures are changed as scanners, archives and people change them."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from models import data, metrics
from models.measure import DECIMALS, Cases, Floats, Json, Predictions, cell, share
from node.imaging.intensity import prepare_radiograph

NOISE_SEED = 11

Change = Callable[[Floats], Floats]


def brighten(pixels: Floats, part: float) -> Floats:
    """Return pixels in 0–1 that are brighter by a part of the whole range."""
    return np.clip(pixels + np.float32(part), 0.0, 1.0)


def spread_contrast(pixels: Floats, factor: float) -> Floats:
    """Return pixels in 0–1 that are as many times farther from middle gray."""
    return np.clip((pixels - np.float32(0.5)) * np.float32(factor) + np.float32(0.5), 0.0, 1.0)


def compress(pixels: Floats, quality: int) -> Floats:
    """Return pixels in 0–1 as a JPEG of this quality keeps them."""
    file = io.BytesIO()
    Image.fromarray(data.to_bytes(pixels)).save(file, format="JPEG", quality=quality)
    with Image.open(file) as image:
        return data.to_unit(np.asarray(image))


def add_noise(pixels: Floats, sigma: float) -> Floats:
    """Return pixels in 0–1 with normal noise, the same for equal shapes."""
    noise = np.random.default_rng(NOISE_SEED).normal(0.0, sigma, pixels.shape).astype(np.float32)
    return np.clip(pixels + noise, 0.0, 1.0)


def rotate(pixels: Floats, degrees: float) -> Floats:
    """Return the picture turned counterclockwise, black where nothing was."""
    turned = Image.fromarray(pixels).rotate(degrees, resample=Image.Resampling.BILINEAR)
    return np.clip(np.asarray(turned, dtype=np.float32), 0.0, 1.0)


def crop(pixels: Floats, part: float) -> Floats:
    """Return the middle of the picture without a part of its height and width."""
    rows, columns = (round(length * part / 2) for length in pixels.shape)
    return pixels[rows : pixels.shape[0] - rows, columns : pixels.shape[1] - columns]


# On the picture as the file holds it, before it is prepared: what a node would receive.
CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        "unchanged": lambda pixels: pixels,
        "brightness + 20 %": lambda pixels: brighten(pixels, 0.2),
        "brightness - 20 %": lambda pixels: brighten(pixels, -0.2),
        "contrast + 20 %": lambda pixels: spread_contrast(pixels, 1.2),
        "contrast - 20 %": lambda pixels: spread_contrast(pixels, 0.8),
        "JPEG quality 50": lambda pixels: compress(pixels, 50),
        "Gaussian noise, sigma 0.05": lambda pixels: add_noise(pixels, 0.05),
        "rotation 5 degrees": lambda pixels: rotate(pixels, 5.0),
        "crop 10 %": lambda pixels: crop(pixels, 0.1),
    }
)


def measure_robustness(
    files: Sequence[Path], cases: Cases, predict: Callable[[Cases], Predictions], repeats: int
) -> list[Json]:
    """Return a row for each change: accuracy and AUC of each class, what is undecided or called foreign.

    `files` are the pictures of the cases. `is_within` says that no accuracy is below the interval of that of
    the unchanged pictures. Says on standard error how far it is, for it takes minutes.
    """
    rows: list[Json] = []
    for name, change in CHANGES.items():
        started = time.monotonic()
        size = cases.images[0].shape[0]
        images = [prepare_radiograph(change(read_pixels(file)), size) for file in files]
        predictions = predict(Cases(images, cases.labels, cases.groups))
        row = {"change": name, **_figures(cases, predictions, repeats)}
        usual = (rows or [row])[0]["classes"]
        pairs = zip(row["classes"], usual, strict=True)
        row["is_within"] = all(one["accuracy"][0] >= other["accuracy"][1] for one, other in pairs)
        rows.append(row)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


def read_pixels(file: Path) -> Floats:
    """Return a picture (rows, columns) in 0–1 as it is in the file."""
    with Image.open(file) as image:
        return data.to_unit(np.asarray(image.convert("L")))


def _figures(cases: Cases, predictions: Predictions, repeats: int) -> Json:
    classes = []
    for index, name in enumerate(data.CLASSES):
        is_known = ~np.isnan(cases.labels[:, index])
        truth, groups = cases.labels[is_known, index] == 1, cases.groups[is_known]
        probability = predictions.probability[is_known, index]
        is_right = (probability >= predictions.thresholds[index]) == truth
        classes.append(
            {
                "name": name,
                "accuracy": share(is_right, groups, repeats),
                "auc": round(metrics.area_under_curve(truth, probability), DECIMALS),
                "undecided": round(float(predictions.is_undecided(index)[is_known].mean()), DECIMALS),
            }
        )
    figures: Json = {"classes": classes}
    if predictions.doubts:
        figures["called_foreign"] = round(float(predictions.doubts.is_foreign.mean()), DECIMALS)
    return figures


def table(rows: Sequence[Json]) -> str:
    """Return the rows as text for people: accuracy with its interval, AUC."""
    names = [one["name"] for one in rows[0]["classes"]]
    lines = [f"{'accuracy, AUC':<28}" + "".join(f"{name:>30}" for name in names) + f"{'foreign':>9}"]
    for row in rows:
        cells = [f"{cell(one['accuracy'])}, {one['auc']:.3f}" for one in row["classes"]]
        verdict = "" if row["is_within"] else "  below the interval"
        foreign = f"{row['called_foreign']:>9.3f}" if "called_foreign" in row else ""
        lines.append(f"{row['change']:<28}" + "".join(f"{text:>30}" for text in cells) + foreign + verdict)
    return "\n".join(lines)
