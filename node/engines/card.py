"""card.json as a value: everything the node acts on, checked once."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from node.domain.card import Fusion, ModelCard, ModelClass, Requirement
from node.domain.code import Code
from node.errors import ModelError

Json = Mapping[str, Any]


def parse_card(model: str, document: Json) -> ModelCard:
    """Return the card; raises ModelError for a key that is absent or of another kind, in words."""
    try:
        return ModelCard(
            name=_text(document, "name"),
            version=_text(document, "version"),
            intended_use=_text(document, "intended_use"),
            input_shape=tuple(int(length) for length in document["input"]["shape"]),
            classes=tuple(_model_class(item) for item in document["classes"]),
            requirements=tuple(_requirement(item) for item in document["eligibility"]["requirements"]),
            parameters=tuple(_parameters(document)),
            conformal_coverage=_conformal_coverage(document),
            out_of_distribution_threshold=_out_of_distribution_threshold(document),
            input_spacing_zyx_mm=_input_spacing(document),
            input_micrometers_per_pixel=_input_micrometers_per_pixel(document),
            tile_threshold=_tile_threshold(document),
            outlined_share=_outlined_share(document),
        )
    except KeyError as error:
        raise ModelError(model, f"card.json: {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(model, f"card.json: {error}") from error


def _text(document: Json, key: str) -> str:
    value = document[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be text, not {value!r}")
    return value


def _model_class(item: Json) -> ModelClass:
    value, scheme, meaning = item["code"]
    threshold = float(item["threshold"])
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold of {item['name']} is {threshold}, expected 0 to 1")
    return ModelClass(Code(str(value), str(scheme), str(meaning)), threshold, _fusion(item))


def _fusion(item: Json) -> Fusion:
    stated = item.get("fusion", {})
    if unknown := stated.keys() - {one.name for one in fields(Fusion)}:
        raise ValueError(f"fusion of {item['name']}: unknown {', '.join(sorted(unknown))}")
    numbers = {name: float(value) for name, value in stated.items() if name != "weights"}
    return Fusion(**numbers, weights=tuple(float(one) for one in stated.get("weights", ())))


def _outlined_share(document: Json) -> Mapping[str, float]:
    shares = {str(item["code"][0]): float(item["share"]) for item in document.get("outlined", ())}
    for value, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"the share of {value} that is outlined is {share}, expected 0 to 1")
    return shares


def _requirement(item: Json) -> Requirement:
    when = item["when"]
    if not isinstance(when, Mapping):
        raise ValueError(f"requirement {item['name']}: `when` must be a table")
    return Requirement(_text(item, "name"), dict(when), _text(item, "reason"))


def _parameters(document: Json) -> list[str]:
    stated = document.get("parameters", [])
    if not isinstance(stated, list) or not all(isinstance(line, str) for line in stated):
        raise ValueError("parameters must be a list of `name=value`")
    return stated


def _conformal_coverage(document: Json) -> float | None:
    if "conformal" not in document:
        return None
    coverage = float(document["conformal"]["coverage"])
    if not 0 < coverage < 1:
        raise ValueError(f"conformal coverage is {coverage}, expected between 0 and 1")
    return coverage


def _out_of_distribution_threshold(document: Json) -> float | None:
    if "out_of_distribution" not in document:
        return None
    threshold = float(document["out_of_distribution"]["threshold"])
    if not math.isfinite(threshold):
        raise ValueError(f"out_of_distribution threshold is {threshold}, expected a finite number")
    return threshold


def _input_spacing(document: Json) -> tuple[float, float, float] | None:
    if "spacing_mm" not in document["input"]:
        return None
    z, y, x = (float(spacing) for spacing in document["input"]["spacing_mm"])
    if not all(0 < spacing < math.inf for spacing in (z, y, x)):
        raise ValueError(f"input spacing is {[z, y, x]} mm, expected three lengths above 0")
    return z, y, x


def _input_micrometers_per_pixel(document: Json) -> float | None:
    if "micrometers_per_pixel" not in document["input"]:
        return None
    size = float(document["input"]["micrometers_per_pixel"])
    if not 0 < size < math.inf:
        raise ValueError(f"input micrometers_per_pixel is {size}, expected a length above 0")
    return size


def _tile_threshold(document: Json) -> float | None:
    if "tile_threshold" not in document:
        return None
    threshold = float(document["tile_threshold"]["probability"])
    if not 0 <= threshold <= 1:
        raise ValueError(f"tile_threshold is {threshold}, expected 0 to 1")
    return threshold
