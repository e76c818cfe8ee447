"""Measure the models for chest CT: `python -m models.evaluate chest_ct|chest_ct_nodules --data DIR`.

Runs the graphs of triton_repo/ on the nodules of LIDC-IDRI. Of malignancy the size-and-density baseline is
fitted and measured in the same run, with and without the nodules that radiologists called indeterminate.
Intervals are 95 % bootstrap intervals over patients.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from models import card, metrics, nodules
from models.baseline import baseline_probability
from models.candidates import candidates_of
from models.configuration import member_tensor
from models.data import DataFolderError
from models.measure import as_json, cell
from models.patches import LUNG_HU
from models.serving import EnsembleGraphs, open_graph, run_graph

CANDIDATES, MASKS = "chest_ct", "chest_ct_nodules"
SMALL_MM = 6.0

Json = dict[str, Any]
Floats = NDArray[np.floating]
Truth = NDArray[np.bool_]


def measure_candidates(options: argparse.Namespace) -> Json:
    """Return the figures of the ensemble and its members on the nodules of a split, beside the baseline's."""
    described = card.read_card(options.repository / CANDIDATES)
    side = described["input"]["shape"][-1]
    cases = nodules.load_nodules(options.data, split=options.split)
    asked = candidates_of(cases, side)
    graphs = EnsembleGraphs(options.repository, CANDIDATES)
    tensors = {name: member_tensor("logits", name) for name in graphs.members}
    outputs = graphs.infer(list(asked.hounsfield), also=list(tensors.values()))
    is_malign, groups = asked.labels[:, 1] == 1, asked.groups
    is_nodule = asked.labels[:, 0] == 1
    scores = {"ensemble": outputs["probability"]} | {
        name: expit(outputs[tensor]).mean(axis=1) for name, tensor in tensors.items()
    }
    malign = {name: probability[is_nodule, 1] for name, probability in scores.items()}
    malign["baseline"] = baseline_probability(options.data, train="train", test=options.split)
    truth, patients = is_malign[is_nodule], groups[is_nodule]
    is_sure = ~cases.is_indeterminate
    thresholds = {entry["name"]: entry["threshold"] for entry in described["classes"]}
    return {
        "nodules": int(is_nodule.sum()),
        "malign": int(truth.sum()),
        "indeterminate": int((~is_sure).sum()),
        "patients": len(np.unique(patients)),
        "malignancy": {
            "all": compare(truth, malign, patients, options.repeats),
            "without_indeterminate": compare(
                truth[is_sure],
                {name: values[is_sure] for name, values in malign.items()},
                patients[is_sure],
                options.repeats,
            ),
        },
        "calibration_error": metrics.expected_calibration_error(truth, malign["ensemble"]),
        "decisions": {
            "Nodule": decisions(is_nodule, scores["ensemble"][:, 0], thresholds["Nodule"], groups, options),
            "Malignant": decisions(truth, malign["ensemble"], thresholds["Malignant"], patients, options),
        },
        "source": {"version": described["version"], "weights": described["weights"]},
    }


def compare(truth: Truth, scores: Mapping[str, Floats], groups: NDArray[np.str_], repeats: int) -> Json:
    """Return the AUC of each score, and how far the ensemble's is above the baseline's on the same draws."""
    measured: Json = {"nodules": len(truth), "malign": int(truth.sum())}
    measured["auc"] = {
        name: as_json(metrics.bootstrap(_area(truth, values), groups, repeats=repeats))
        for name, values in scores.items()
    }
    own, other = _area(truth, scores["ensemble"]), _area(truth, scores["baseline"])
    gain = metrics.bootstrap(lambda drawn: own(drawn) - other(drawn), groups, repeats=repeats)
    return measured | {"ensemble_over_baseline": as_json(gain)}


def _area(truth: Truth, values: Floats) -> Callable[[NDArray[np.intp]], float]:
    return lambda drawn: metrics.area_under_curve(truth[drawn], values[drawn])


def decisions(
    truth: Truth,
    probability: Floats,
    threshold: float,
    groups: NDArray[np.str_],
    options: argparse.Namespace,
) -> Json:
    """Return AUC, and sensitivity and specificity at the threshold of the card."""
    figures: dict[str, Callable[[Truth, Floats], float]] = {
        "auc": metrics.area_under_curve,
        "sensitivity": lambda t, p: metrics.sensitivity(t, p, threshold),
        "specificity": lambda t, p: metrics.specificity(t, p, threshold),
    }
    return {"threshold": threshold, "positives": int(truth.sum()), "negatives": int((~truth).sum())} | {
        name: as_json(metrics.bootstrap(_over(figure, truth, probability), groups, repeats=options.repeats))
        for name, figure in figures.items()
    }


def _over(
    figure: Callable[[Truth, Floats], float], truth: Truth, values: Floats
) -> Callable[[NDArray[np.intp]], float]:
    return lambda drawn: figure(truth[drawn], values[drawn])


def measure_masks(options: argparse.Namespace) -> Json:
    """Return the Dice coefficients of the masks, in the voxels that the radiologists drew on."""
    described = card.read_card(options.repository / MASKS)
    session = open_graph(options.repository / MASKS / "1" / "model.onnx")
    _, *sides = described["input"]["shape"]
    window = (sides[0], sides[1], sides[2])
    threshold = described["classes"][0]["threshold"]
    rows = nodules.read_rows(options.data, split=options.split)
    found = [dice_of(nodules.read_voi(row), session, window, threshold) for row in rows]
    dices, groups = np.array(found), np.array([row.patient for row in rows])
    is_small = np.array([row.diameter_mm < SMALL_MM for row in rows])
    measured: Json = {"nodules": len(rows), "patients": len(np.unique(groups)), "threshold": threshold}
    for name, chosen in (("all", slice(None)), ("below_6_mm", is_small), ("from_6_mm", ~is_small)):
        values = dices[chosen]
        measured[name] = {
            "nodules": len(values),
            "median": as_json(_bootstrapped(np.median, values, groups[chosen], options.repeats)),
            "mean": as_json(_bootstrapped(np.mean, values, groups[chosen], options.repeats)),
            "missed": int((values == 0).sum()),
        }
    return measured | {"source": {"version": described["version"], "weights": described["weights"]}}


def _bootstrapped(
    figure: Callable[[Floats], Any], values: Floats, groups: NDArray[np.str_], repeats: int
) -> metrics.Estimate:
    return metrics.bootstrap(lambda drawn: float(figure(values[drawn])), groups, repeats=repeats)


def dice_of(voi: nodules.Voi, session: Any, window: tuple[int, int, int], threshold: float) -> float:
    """Return the Dice coefficient of one nodule: window on the working grid, and back to the stored voxels.

    What the network finds beside the radiologists' mask inside of the volume of interest counts against it.
    """
    center = (np.array(voi.hounsfield.shape) - 1) / 2.0
    sampled, bounds = nodules.to_grid(voi.hounsfield, voi, center, window)
    known = np.zeros(window, dtype=np.bool_)
    known[tuple(slice(*ends) for ends in bounds)] = True
    image = np.where(known, np.round(sampled), LUNG_HU).astype(np.int16)
    probability = run_graph(session, {"image": image[None, None]})["probability"][0, 0]
    mask = nodules.from_grid(probability, voi, center) > threshold
    return float(2.0 * (mask & voi.mask).sum() / max(mask.sum() + voi.mask.sum(), 1))


def table(result: Json) -> str:
    """Return the figures as text for people."""
    title = f"{result['model']} {result['source']['version']} on {result['data']}"
    if "false_per_volume" in result:
        from models import detection  # here, for the figures of the networks need no pipeline

        return f"{title}\n{detection.table(result)}"
    head = f"{title}: {result['nodules']} nodules of {result['patients']} patients; 95 % bootstrap intervals"
    lines = _mask_lines(result) if result["model"] == MASKS else _candidate_lines(result)
    return "\n".join([head, *lines])


def _candidate_lines(result: Json) -> list[str]:
    both = result["malignancy"]
    lines = [f"{'AUC of malignancy':<28}{'all':>24}{'without indeterminate':>24}"]
    counts = (f"{part['malign']}/{part['nodules'] - part['malign']}" for part in both.values())
    lines.append(f"{'malign/benign':<28}" + "".join(f"{count:>24}" for count in counts))
    for name in both["all"]["auc"]:
        lines.append(f"{name:<28}" + "".join(f"{cell(part['auc'][name]):>24}" for part in both.values()))
    gains = (cell(part["ensemble_over_baseline"]) for part in both.values())
    lines.append(f"{'ensemble over baseline':<28}" + "".join(f"{gain:>24}" for gain in gains))
    for name, entry in result["decisions"].items():
        figures = ", ".join(f"{key} {cell(entry[key])}" for key in ("auc", "sensitivity", "specificity"))
        lines.append(f"{name} from {entry['threshold']:.3f} on: {figures}")
    return lines


def _mask_lines(result: Json) -> list[str]:
    lines = [f"{'Dice':<12}{'nodules':>8}{'median':>24}{'mean':>24}{'missed':>8}"]
    for name in ("all", "below_6_mm", "from_6_mm"):
        part = result[name]
        figures = f"{cell(part['median']):>24}{cell(part['mean']):>24}{part['missed']:>8}"
        lines.append(f"{name:<12}{part['nodules']:>8}{figures}")
    return lines


def measure_froc(options: argparse.Namespace) -> Json:
    """Return how many nodules the whole pipeline finds in volumes with a truth."""
    from models import detection  # here, for the figures of the networks need no pipeline

    found = detection.measure_detection(
        options.froc, options.data, options.repository, repeats=options.repeats
    )
    return {"data": "synthetic lungs, synthetic and LIDC-IDRI val nodules", **found}


MEASURES: dict[str, Callable[[argparse.Namespace], Json]] = {
    CANDIDATES: measure_candidates,
    MASKS: measure_masks,
}


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description=__doc__)
    parser.add_argument("model", choices=list(MEASURES))
    parser.add_argument("--data", type=Path, required=True, help="a folder of nodules with labels.csv")
    parser.add_argument("--split", default="val", help="rows of labels.csv with this split (default val)")
    parser.add_argument("--repository", type=Path, default=Path("triton_repo"))
    parser.add_argument("--repeats", type=int, default=1000, help="bootstrap draws (default 1000)")
    parser.add_argument(
        "--froc", type=int, default=0, metavar="N", help="find nodules in N volumes with the whole pipeline"
    )
    parser.add_argument("--write-card", action="store_true", help="put the figures into the model's card")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and measure; 0 done, 1 failed, 2 wrong use."""
    options = build_parser().parse_args(arguments)
    started = time.monotonic()
    try:
        measured = measure_froc(options) if options.froc else MEASURES[options.model](options)
    except DataFolderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    command = f"python -m models.evaluate {options.model} --data {options.data} --split {options.split}"
    if options.froc:
        command += f" --froc {options.froc}"
    result = {"model": options.model, "data": f"LIDC-IDRI {options.split}", "command": command} | measured
    result["seconds"] = round(time.monotonic() - started, 1)
    if options.write_card:
        add_to_card(options.repository / options.model, result)
    print(json.dumps(result, ensure_ascii=False) if options.json else table(result))
    return 0


def add_to_card(directory: Path, result: Json) -> None:
    """Put the figures into the card of a model's folder, in place of earlier ones on the same data."""
    described = card.read_card(directory)
    entry = {key: value for key, value in result.items() if key not in ("source", "seconds", "model")}
    others = [known for known in described["metrics"] if known["data"] != entry["data"]]
    card.write_card(directory, described | {"metrics": [*others, entry]})
