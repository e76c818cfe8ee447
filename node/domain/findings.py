"""What a pipeline found in a series: the one value every encoder starts from."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt


class Outcome(StrEnum):
    """How a run ended; each routed series ends in exactly one."""

    FINDINGS = "findings"
    NO_FINDINGS = "no_findings"
    NOT_ELIGIBLE = "not_eligible"
    FAILED = "failed"


class Priority(StrEnum):
    """The class in the reading list."""

    STAT = "stat"
    URGENT = "urgent"
    ROUTINE = "routine"


class Presence(StrEnum):
    """What a score says of its finding (CID 240)."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept: value, coding scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """How far a probability can be trusted.

    `spread` is the standard deviation of the members' probabilities, `interval` the 95 % interval (low, high)
    around the probability, both 0–1; `entropy` (predictive) and `mutual_information` (epistemic) are in bit.
    """

    spread: float
    interval: tuple[float, float]
    entropy: float
    mutual_information: float


@dataclass(frozen=True, slots=True)
class Score:
    """The calibrated probability (0–1) of one finding, its decision threshold and its uncertainty.

    `activation` is (rows, columns) float32 in 0–1 over the whole source image at the network's own
    resolution: where the network looked for this finding; None where the model gives no map.
    """

    code: Code
    probability: float
    threshold: float
    uncertainty: Uncertainty
    activation: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Refuse a value that is no probability, or an interval that does not hold it."""
        low, high = self.uncertainty.interval
        if not 0 <= low <= self.probability <= high <= 1:
            raise ValueError(f"{self.code.meaning}: expected 0 ≤ {low} ≤ {self.probability} ≤ {high} ≤ 1")

    @property
    def is_uncertain(self) -> bool:
        """Is the threshold inside the interval, so that the score decides nothing?"""
        low, high = self.uncertainty.interval
        return low < self.threshold <= high

    @property
    def presence(self) -> Presence:
        """Present, absent, or undetermined where the score abstains."""
        if self.is_uncertain:
            return Presence.UNDETERMINED
        return Presence.PRESENT if self.probability >= self.threshold else Presence.ABSENT


@dataclass(frozen=True, slots=True)
class Algorithm:
    """Which model made a result; `parameters` are the settings a reader must know, as `name=value`."""

    name: str
    version: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there are no scores: the series is not eligible, or the analysis failed."""

    outcome: Outcome
    reason: str

    def __post_init__(self) -> None:
        """Refuse an outcome that has results, or an unexplained one."""
        if self.outcome not in (Outcome.NOT_ELIGIBLE, Outcome.FAILED) or not self.reason:
            raise ValueError(f"a refusal needs a reason and an outcome without results, not {self.outcome}")


@dataclass(frozen=True, slots=True)
class Findings:
    """What one pipeline says of one series; `sop_instance_uids` are the images it is about."""

    pipeline: str
    algorithm: Algorithm
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]
    scores: tuple[Score, ...] = ()
    refusal: Refusal | None = None

    @property
    def outcome(self) -> Outcome:
        """The one explicit outcome; a score that abstains is a finding to review, never a negative."""
        if self.refusal:
            return self.refusal.outcome
        is_silent = all(score.presence is Presence.ABSENT for score in self.scores)
        return Outcome.NO_FINDINGS if is_silent else Outcome.FINDINGS

    @property
    def reason(self) -> str:
        """Why there are no scores; empty where there are."""
        return self.refusal.reason if self.refusal else ""
