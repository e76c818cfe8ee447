"""What models.evaluate measured, as text for people and in the card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from models import card, data, foreign, robustness
from models.measure import cell

Json = dict[str, Any]


def table(result: Json, *, is_with_members: bool) -> str:
    """Return the figures as text for people."""
    if "robustness" in result:
        return f"{result['model']} on {result['data']}\n{robustness.table(result['robustness'])}"
    if "out_of_distribution" in result:
        return f"{result['model']} on {result['data']}\n{foreign.table(result['out_of_distribution'])}"
    version = result["source"].get("version", "checkpoint")
    lines = [
        f"{result['model']} {version} on {result['data']}: {result['images']} images of "
        f"{result['patients']} patients; 95 % bootstrap intervals over patients",
        f"{'':<24}" + "".join(f"{entry['name']:>24}" for entry in result["classes"]),
    ]
    for title, text in ROWS.items():
        lines.append(f"{title:<24}" + "".join(f"{text(entry):>24}" for entry in result["classes"]))
    kind = result["bacterial_vs_viral"]
    counts = f"({kind['bacterial']}/{kind['viral']})"
    lines.append(f"{'bacterial vs viral':<24}{cell(kind.get('auc')):>24} {counts}")
    for title, key in (("sets that hold the truth", "set_coverage"), ("called foreign", "called_foreign")):
        lines.append(f"{title:<24}{cell(result.get(key)):>24}")
    lines.append("* of wrong and of right calls, medians in bit; p of so large a difference by chance")
    return "\n".join([*lines, *(_member_lines(result) if is_with_members else [])])


def _member_lines(result: Json) -> list[str]:
    titles = [*data.CLASSES, "bacterial vs viral", "ensemble is better by"]
    lines = ["", f"{'AUC':<28}" + "".join(f"{title:>24}" for title in titles)]
    for name, member in result["members"].items():
        values = [*member["auc"].values(), member["bacterial_vs_viral"], member["ensemble_is_better_by"]]
        lines.append(f"{name:<28}" + "".join(f"{cell(value):>24}" for value in values))
    return lines


def _estimate(key: str) -> Callable[[Json], str]:
    return lambda entry: cell(entry.get(key))


def _mutual_information(entry: Json) -> str:
    compared = entry.get("mutual_information", {})
    if "p" not in compared:
        return "-"
    return f"{compared['wrong']['median']:.4f}/{compared['right']['median']:.4f} p {compared['p']:.1g}"


ROWS: dict[str, Callable[[Json], str]] = {
    "positive/negative": lambda entry: f"{entry['positives']}/{entry['negatives']}",
    "threshold": lambda entry: f"{entry['threshold']:.3f}",
    "AUC": _estimate("auc"),
    "average precision": _estimate("average_precision"),
    "sensitivity": _estimate("sensitivity"),
    "specificity": _estimate("specificity"),
    "precision": _estimate("precision"),
    "F1": _estimate("f1"),
    "accuracy": _estimate("accuracy"),
    "[TN FP] [FN TP]": lambda entry: " ".join(
        str(row).replace(",", "") for row in entry.get("confusion_matrix", [])
    ),
    "calibration error": _estimate("calibration_error"),
    "Brier": _estimate("brier_score"),
    "set coverage": _estimate("set_coverage"),
    "undecided": _estimate("undecided"),
    "accuracy when decided": _estimate("accuracy_when_decided"),
    "mutual information *": _mutual_information,
}


def add_to_card(directory: Path, result: Json) -> None:
    """Put the figures into the card of a model's folder, in place of earlier ones on the same data."""
    described = card.read_card(directory)
    entry = {key: value for key, value in result.items() if key not in ("source", "seconds", "model")}
    if "out_of_distribution" in entry:
        described["out_of_distribution"]["measured"] = entry | entry.pop("out_of_distribution")
    elif "robustness" in entry:
        described["robustness"] = entry
    else:
        others = [known for known in described["metrics"] if known["data"] != entry["data"]]
        described["metrics"] = [*others, entry]
    card.write_card(directory, described)
