"""Measure the detectors of lesions, members and fusion alike: `python -m models.evaluate chest_xray_lesions`.

On synthetic films that nothing was fitted to: free-response ROC by size and subtlety, mean average precision.
On real ones, where their folders are given: boxes of lungs, and false boxes on radiographs found normal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import card, froc, repository
from models.data import DataFolderError
from models.detector import LESIONS, LUNGS
from models.detector_calibration import calibration_error, judge
from models.detector_card import NAME
from models.detector_data import (
    LABEL_BY_CLASS,
    TEST_SEED,
    Film,
    load_films,
    read_lung_films,
    read_normal_films,
    read_pneumonia_films,
)
from models.detector_fusion import fuse
from models.detector_graphs import NAMED_OUTPUTS
from models.detector_metrics import (
    Boxes,
    best_overlaps,
    matched,
    mean_average_precision,
    sensitivity_of,
)
from models.serving import EnsembleGraphs
from models.train_detector import to_boxes, truths_of
from node.domain.card import Fusion
from node.domain.code import PNEUMONIA

Json = dict[str, Any]
Chosen = Mapping[str, Sequence[NDArray[np.bool_]]]

FUSED = "fused"
POINT = 0.5
"""False positives per image at which the tables are made."""
SIZES_MM = ((4, 8), (8, 15), (15, 30), (30, 60.5))
SUBTLETIES = ((0.0, 1.2), (1.2, 2.0), (2.0, np.inf))
AT_ONCE = 8


def find(films: Sequence[Film], target: Path) -> dict[str, list[Boxes]]:
    """Return the boxes of each member, and of their fusion, on films as the node prepares them."""
    graphs = EnsembleGraphs(target, NAME)
    stated = [one["fusion"] for one in card.read_card(target / NAME)["classes"]]
    fusions = [Fusion(**one | {"weights": tuple(one["weights"])}) for one in stated]
    found: dict[str, list[Boxes]] = {name: [] for name in (*graphs.members, FUSED)}
    for start in range(0, len(films), AT_ONCE):
        pixels = [film.pixels.astype(np.float32) / 255.0 for film in films[start : start + AT_ONCE]]
        answer = graphs.infer(pixels)
        for index, name in enumerate(graphs.members):
            found[name] += to_boxes(*(answer[output][:, index] for output in NAMED_OUTPUTS))
        for number in range(len(pixels)):
            places = fuse([found[name][start + number] for name in graphs.members])
            found[FUSED].append(places.calibrated(fusions))
    return found


def measure_lesions(found: Sequence[Boxes], films: Sequence[Film], *, repeats: int) -> Json:
    """Return the figures of lesions, on films of which all lesions are known."""
    truths = truths_of(films)
    images = matched(found, truths, LESIONS)
    threshold = froc.threshold_at(images, POINT)
    estimate = froc.sensitivity_estimate(images, POINT, repeats=repeats)
    named = [one.of_each_kind() for one in found]
    judged = judge(found, truths, [(True, False)] * len(films))
    return {
        "sensitivity_at": dict(
            zip(map(str, froc.OPERATING_POINTS), map(rounded, froc.sensitivities(images)), strict=True)
        ),
        f"sensitivity_at_{POINT:g}": [rounded(one) for one in (estimate.value, estimate.low, estimate.high)],
        "threshold": rounded(threshold),
        "groups": {
            name: [count, rounded(value)]
            for name, chosen in groups_of(films).items()
            for count, value in [sensitivity_of(images, chosen, threshold)]
        },
        "map_50": rounded(mean_average_precision(named, truths, LESIONS, overlaps=(0.5,))),
        "map_50_95": rounded(mean_average_precision(named, truths, LESIONS)),
        "map_50_one_kind_each": rounded(mean_average_precision(found, truths, LESIONS, overlaps=(0.5,))),
        "calibration_error": rounded(calibration_error(judged)),
    }


def groups_of(films: Sequence[Film]) -> Chosen:
    """Return which lesions of each film belong to which row of the table."""
    own = [film.is_lesion for film in films]
    rows: dict[str, Sequence[NDArray[np.bool_]]] = {}
    for title, name, bounds in (("mm", "size_mm", SIZES_MM), ("subtlety", "subtlety", SUBTLETIES)):
        for low, high in bounds:
            values = [getattr(film, name)[lesions] for film, lesions in zip(films, own, strict=True)]
            rows[f"{low:g}-{high:g} {title}"] = [(one >= low) & (one < high) for one in values]
    places = sorted(
        {place for film, lesions in zip(films, own, strict=True) for place in film.places[lesions]}
    )
    for place in places:
        rows[str(place)] = [film.places[lesions] == place for film, lesions in zip(films, own, strict=True)]
    return rows


def measure_served(found: Sequence[Boxes], films: Sequence[Film], threshold: float) -> Json:
    """Return what the threshold of the card means on films of which all lesions are known."""
    images = matched(found, truths_of(films), LESIONS)
    # The node takes what reaches it, models.froc what lies above.
    below = float(np.nextafter(threshold, 0))
    return {
        "threshold": threshold,
        "sensitivity": rounded(froc.sensitivity(images, below)),
        "false_per_film": rounded(froc.false_rate(images, below)),
    }


def measure_lungs(found: Sequence[Boxes], films: Sequence[Film]) -> Json:
    """Return how well the boxes of lungs fit, on films of which all lungs are known."""
    truths = truths_of(films)
    each = np.concatenate([best_overlaps(found, truths, label) for label in LUNGS])
    return {"films": len(films), "lungs": len(each), "mean_overlap": rounded(float(each.mean()))}


def measure_normals(found: Sequence[Boxes], threshold: float) -> Json:
    """Return how many lesions are seen per film where there is none."""
    counts = [int((one.of(LESIONS).scores > threshold).sum()) for one in found]
    return {"films": len(found), "false_per_film": rounded(float(np.mean(counts)))}


def measure_pneumonias(found: Sequence[Boxes], threshold: float) -> Json:
    """Return on which part of films with pneumonia a consolidation is seen, and any lesion."""
    sure = [one.labels[one.scores > threshold] for one in found]
    shown = {
        "consolidation": [(one == LABEL_BY_CLASS["Consolidation"]).any() for one in sure],
        "any_lesion": [np.isin(one, LESIONS).any() for one in sure],
    }
    return {"films": len(found)} | {name: rounded(float(np.mean(each))) for name, each in shown.items()}


def measure_real(kind: str, found: Sequence[Boxes], films: Sequence[Film], threshold: float) -> Json:
    """Return the figures of one kind of real films."""
    if kind == "lungs":
        return measure_lungs(found, films)
    return (measure_normals if kind == "normals" else measure_pneumonias)(found, threshold)


def measure(options: argparse.Namespace) -> Json:
    """Return all figures of each member and of the fusion."""
    films = load_films(options.films, TEST_SEED, workers=options.threads)
    real = {
        "lungs": read_lung_films(options.lungs, split="val", licences=None) if options.lungs else [],
        "normals": read_normal_films(options.kermany, split="val") if options.kermany else [],
        "pneumonias": read_pneumonia_films(options.kermany, split="val") if options.kermany else [],
    }
    found = find(films, options.repository)
    figures: Json = {
        name: {"lesions": measure_lesions(own, films, repeats=options.repeats)} for name, own in found.items()
    }
    # A member alone has no threshold of its own: that which allows as many false places on these films.
    thresholds = {name: one["lesions"]["threshold"] for name, one in figures.items()}
    thresholds[FUSED] = card.read_card(options.repository / NAME)["classes"][0]["threshold"]
    figures[FUSED]["served"] = measure_served(found[FUSED], films, thresholds[FUSED])
    for kind, part in real.items():
        for name, own in find(part, options.repository).items() if part else ():
            figures[name][kind] = measure_real(kind, own, part, thresholds[name])
    lesions = sum(int(film.is_lesion.sum()) for film in films)
    return {"command": command_of(options), "films": len(films), "lesions": lesions, **figures}


def command_of(options: argparse.Namespace) -> str:
    """Return the command that gives these figures again."""
    folders = {"--lungs": options.lungs, "--kermany": options.kermany}
    asked = "".join(f" {flag} {folder}" for flag, folder in folders.items() if folder)
    return f"python -m models.evaluate {NAME} --films {options.films}{asked}"


def add_to_card(folder: Path, figures: Json) -> None:
    """Put the figures into the card, and what the node is to know of them."""
    stated: Json = {"metrics": [figures]}
    if pneumonias := figures[FUSED].get("pneumonias"):
        measured_on = f"{pneumonias['films']} radiographs of kermany val"
        share = {"share": pneumonias["any_lesion"], "measured_on": measured_on}
        code = [PNEUMONIA.value, PNEUMONIA.scheme, PNEUMONIA.meaning]
        stated["outlined"] = [{"name": "Pneumonia", "code": code, **share}]
    card.write_card(folder, card.read_card(folder) | stated)


def rounded(value: float) -> float | None:
    """Return a figure as a card states it; none where it is not defined."""
    return round(float(value), 4) if np.isfinite(value) else None


def table(figures: Json) -> str:
    """Return the figures as text for people."""
    columns = {name: value for name, value in figures.items() if isinstance(value, dict)}
    lines = [
        f"{NAME} on {figures['films']} synthetic films of unseen seeds, {figures['lesions']} lesions; "
        f"sensitivities at {POINT:g} false per film, 95 % bootstrap intervals over films",
        f"{'':<28}{'lesions':>8}" + "".join(f"{name.removeprefix('chest_xray_'):>24}" for name in columns),
    ]
    lines += [
        f"{title:<28}{count:>8}" + "".join(f"{cell:>24}" for cell in cells)
        for title, count, cells in rows_of(columns)
    ]
    served = figures[FUSED]["served"]
    lines.append("as served: " + ", ".join(f"{name} {value:.3f}" for name, value in served.items()))
    return "\n".join(lines)


def rows_of(columns: Mapping[str, Json]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the title, the number of lesions and the cells of each row."""
    whole = [one["lesions"] for one in columns.values()]
    yield "sensitivity", "", [interval(one[f"sensitivity_at_{POINT:g}"]) for one in whole]
    for name, (count, _) in whole[0]["groups"].items():
        yield f"  {name}", str(count), [cell_of(one["groups"][name][1]) for one in whole]
    for point in whole[0]["sensitivity_at"]:
        yield f"  at {point} false per film", "", [cell_of(one["sensitivity_at"][point]) for one in whole]
    for name in ("map_50", "map_50_95", "map_50_one_kind_each", "calibration_error"):
        yield name, "", [cell_of(one[name]) for one in whole]
    for kind, name in (
        ("lungs", "mean_overlap"),
        ("normals", "false_per_film"),
        ("pneumonias", "consolidation"),
        ("pneumonias", "any_lesion"),
    ):
        if all(kind in one for one in columns.values()):
            count = str(next(iter(columns.values()))[kind]["films"])
            yield f"{name}, {kind}", count, [cell_of(one[kind][name]) for one in columns.values()]


def interval(values: Sequence[float | None]) -> str:
    """Return a figure with its interval as a cell."""
    value, low, high = map(cell_of, values)
    return f"{value} ({low}-{high})"


def cell_of(value: float | None) -> str:
    """Return a figure as a cell."""
    return "none" if value is None else f"{value:.3f}"


MEASURES = {NAME: measure}


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and measure; 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description=__doc__)
    parser.add_argument("model", choices=list(MEASURES))
    parser.add_argument("--films", type=int, default=300, help="synthetic ones; every other has lesions")
    parser.add_argument("--lungs", type=Path, help="the folder of real films with boxes of lungs")
    parser.add_argument("--kermany", type=Path, help="the folder of real films, normal and with pneumonia")
    parser.add_argument("--repository", type=Path, default=repository.SHIPPED)
    parser.add_argument("--repeats", type=int, default=1000, help="bootstrap draws (default 1000)")
    parser.add_argument("--threads", type=int, default=2, help="processes that draw films (default 2)")
    parser.add_argument("--write-card", action="store_true", help="put the figures into the model's card")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    try:
        figures = measure(options)
    except (DataFolderError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.write_card:
        add_to_card(options.repository / NAME, figures)
    print(json.dumps(figures) if options.json else table(figures))
    return 0
