"""A model's card: what it is for, what goes in, what its numbers mean."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from node.domain.code import Code


@dataclass(frozen=True, slots=True)
class Fusion:
    """What makes a probability of several detectors' scores: of the mean of their logits, slope and offset.

    `interval_constant` is what widens the interval beyond the members' own disagreement, in logits; `weights`
    is what each member counts in the mean, empty where all count alike.
    """

    slope: float = 1.0
    offset: float = 0.0
    interval_constant: float = 0.0
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what would turn the order of scores round, and a width or a weight below none."""
        if not (math.isfinite(self.offset) and 0 < self.slope < math.inf):
            raise ValueError(f"a slope of {self.slope} and an offset of {self.offset}")
        if not 0 <= self.interval_constant < math.inf:
            raise ValueError(f"an interval constant of {self.interval_constant}, expected 0 or more")
        if not all(0 < weight < math.inf for weight in self.weights):
            raise ValueError(f"weights of {self.weights}, expected numbers above 0")


@dataclass(frozen=True, slots=True)
class ModelClass:
    """One output class: its code, and the probability (0–1) from which it counts as present.

    `fusion` is what several detectors' scores of it come to; others state none.
    """

    code: Code
    threshold: float
    fusion: Fusion = Fusion()


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
    part of the finding. `outlined_share` is of detectors: by the code value of a disease, the share (0–1) of
    images with it on which they outline any lesion, as far as that was measured.
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
    outlined_share: Mapping[str, float] = field(default_factory=dict)
