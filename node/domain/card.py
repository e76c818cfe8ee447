"""A model's card: what it is for, what goes in, what its numbers mean."""

from collections.abc import Mapping
from dataclasses import dataclass

from node.domain.code import Code


@dataclass(frozen=True, slots=True)
class ModelClass:
    """One output class: its code, and the probability (0–1) from which it counts as present."""

    code: Code
    threshold: float


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing a series must fulfil: a condition, and the words for the report where it does not."""

    name: str
    when: Mapping[str, object]
    reason: str


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The part of `card.json` that the node acts on.

    `conformal_coverage` (0–1) is that of the prediction sets, `out_of_distribution_threshold` the score above
    which an image is unlike the model's own; None where the model states none. `input_spacing_zyx_mm` is the
    spacing that a volume must be brought to, `input_micrometers_per_pixel` that of a slide's tiles; None of a
    model that takes any. `tile_threshold` is the probability (0–1) from which a tile of a slide counts as
    part of the finding.
    """

    name: str
    version: str
    intended_use: str
    input_shape: tuple[int, ...]
    classes: tuple[ModelClass, ...]
    requirements: tuple[Requirement, ...]
    parameters: tuple[str, ...]
    conformal_coverage: float | None = None
    out_of_distribution_threshold: float | None = None
    input_spacing_zyx_mm: tuple[float, float, float] | None = None
    input_micrometers_per_pixel: float | None = None
    tile_threshold: float | None = None
