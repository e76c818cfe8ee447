"""What a pipeline found in a series: the one value every encoder starts from."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from node.domain.code import Code
from node.domain.image import Window
from node.domain.location import Frame, Marks, Mask, Outline, ValueMap


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


class Doubt(StrEnum):
    """Why a score abstains, in the words that every result has for it; a public contract."""

    FOREIGN_IMAGE = "the image is unlike those the model was made for"
    THRESHOLD_IN_INTERVAL = "the threshold lies inside the interval"
    BOTH_ANSWERS = "the prediction set holds both answers"
    NEITHER_ANSWER = "the prediction set holds neither answer"
    OTHER_ANSWER = "the prediction set contradicts the threshold"
    NOT_OUTLINED = "the detectors outline no lesion that would show it"
    OUTLINED = "the detectors outline a lesion that would show it"
    NOT_CLASSIFIED = "the classifier calls absent what would look like this"


@dataclass(frozen=True, slots=True)
class PredictionSet:
    """The answers that cannot be ruled out: none, absent, present, or both (split conformal prediction).

    It holds the true answer on the share `coverage` (0–1) or more of images like those it was calibrated on.
    """

    answers: tuple[Presence, ...]
    coverage: float

    def __post_init__(self) -> None:
        """Refuse what is no answer or stands in another order, and a coverage that promises nothing."""
        if self.answers != tuple(one for one in (Presence.ABSENT, Presence.PRESENT) if one in self.answers):
            raise ValueError(f"a prediction set of {self.answers}, expected none, absent, present or both")
        if not 0 < self.coverage < 1:
            raise ValueError(f"a coverage of {self.coverage}, expected it between 0 and 1")


DOUBT_BY_ANSWERS: Mapping[tuple[Presence, ...], Doubt] = {
    (Presence.ABSENT, Presence.PRESENT): Doubt.BOTH_ANSWERS,
    (): Doubt.NEITHER_ANSWER,
}


@dataclass(frozen=True, slots=True)
class OutOfDistribution:
    """How unlike the model's own images an image is, and the score above which it is too unlike to read."""

    score: float
    threshold: float

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        if not (math.isfinite(self.score) and math.isfinite(self.threshold)):
            raise ValueError(f"expected finite numbers, got {self.score} and {self.threshold}")

    @property
    def is_foreign(self) -> bool:
        """Is the image unlike those the model was made for?"""
        return self.score > self.threshold


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """How far a probability can be trusted.

    `spread` is the standard deviation of the members' probabilities, `interval` the 95 % interval (low, high)
    around the probability, both 0–1; `entropy` (predictive) and `mutual_information` (epistemic) are in bit.
    `out_of_distribution` is of the image that the score was made from; None where the model states none.
    """

    spread: float
    interval: tuple[float, float]
    entropy: float
    mutual_information: float
    prediction_set: PredictionSet | None = None
    out_of_distribution: OutOfDistribution | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measured property of a finding; `interval` is its 95 % interval (low, high), None where not known."""

    quantity: Code
    value: float
    unit: Code
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what is no number, or an interval that does not hold it."""
        low, high = self.interval or (self.value, self.value)
        if not -math.inf < low <= self.value <= high < math.inf:
            raise ValueError(f"{self.quantity.meaning}: expected {low} ≤ {self.value} ≤ {high}, all finite")


@dataclass(frozen=True, slots=True)
class Score:
    """The calibrated probability (0–1) of one finding, its decision threshold and its uncertainty.

    `activation` is (rows, columns) float32 in 0–1 over the whole source image at the network's own
    resolution: where the network looked for this finding; None where the model gives no map.
    `measurements` are of the finding as a whole, such as the area of all that is tumor. `contradiction` is
    what another network, that was asked about the same image, says against it; None where nothing does.
    """

    code: Code
    probability: float
    threshold: float
    uncertainty: Uncertainty
    activation: npt.NDArray[np.float32] | None = None
    measurements: tuple[Measurement, ...] = ()
    contradiction: Doubt | None = None

    def __post_init__(self) -> None:
        """Refuse a value that is no probability, or an interval that does not hold it."""
        low, high = self.uncertainty.interval
        if not 0 <= low <= self.probability <= high <= 1:
            raise ValueError(f"{self.code.meaning}: expected 0 ≤ {low} ≤ {self.probability} ≤ {high} ≤ 1")

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """Every reason why the score decides nothing; none where it decides.

        It decides only if its threshold lies outside its interval, its prediction set holds exactly the
        answer that the threshold gives, its image is like those the model was made for, and no other network
        contradicts it. What the model does not state is not asked for.
        """
        return tuple(self._doubts())

    def _doubts(self) -> Iterator[Doubt]:
        uncertainty = self.uncertainty
        low, high = uncertainty.interval
        if uncertainty.out_of_distribution and uncertainty.out_of_distribution.is_foreign:
            yield Doubt.FOREIGN_IMAGE
        if low < self.threshold <= high:
            yield Doubt.THRESHOLD_IN_INTERVAL
        if uncertainty.prediction_set and uncertainty.prediction_set.answers != (self._answer,):
            yield DOUBT_BY_ANSWERS.get(uncertainty.prediction_set.answers, Doubt.OTHER_ANSWER)
        if self.contradiction:
            yield self.contradiction

    @property
    def is_uncertain(self) -> bool:
        """Does the score abstain? Then it never escalates, and is never shown as a negative."""
        return bool(self.doubts)

    @property
    def presence(self) -> Presence:
        """Present, absent, or undetermined where the score abstains."""
        return Presence.UNDETERMINED if self.is_uncertain else self._answer

    @property
    def _answer(self) -> Presence:
        """What the threshold says, whether or not it may be trusted."""
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
class Region:
    """A finding with a place, named by an `identifier` of its own ("Nodule 1").

    `score` says how sure it is that the region is what `code` says, None where nothing estimates that. The
    outline is on the picture that shows it best; a mask's segment of the same identifier is its full extent.
    `remark` is what a reader should know of it beside that, in plain words.
    """

    identifier: str
    code: Code
    outline: Outline
    score: Score | None = None
    site: Code | None = None
    laterality: Code | None = None
    measurements: tuple[Measurement, ...] = ()
    remark: str = ""

    def __post_init__(self) -> None:
        """Refuse a region without a name, and a score that is of something else."""
        if not self.identifier or (self.score and self.score.code != self.code):
            raise ValueError(f"region {self.identifier!r}: needs a name, and no score of another finding")


@dataclass(frozen=True, slots=True)
class Findings:
    """What one pipeline says of one series; `sop_instance_uids` are the images it is about.

    `key_frames` are the pictures a reader should look at, the most telling first; without any, those that the
    regions are outlined on, or else the image in the middle. `window` is what they are to be shown in, where
    what the images state would hide the findings. `remarks` say in plain words what a reader must know of how
    the images were read.
    """

    pipeline: str
    algorithm: Algorithm
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]
    scores: tuple[Score, ...] = ()
    regions: tuple[Region, ...] = ()
    masks: tuple[Mask, ...] = ()
    maps: tuple[ValueMap, ...] = ()
    marks: tuple[Marks, ...] = ()
    key_frames: tuple[Frame, ...] = ()
    refusal: Refusal | None = None
    remarks: tuple[str, ...] = ()
    window: Window | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself: were an image foreign, some of its scores might hide it.

        Regions beside scores may be strange each for itself: they may have been judged on cut-outs.
        """
        if len({score.uncertainty.out_of_distribution for score in self.scores or self.all_scores}) > 1:
            raise ValueError("the scores of one image state different out-of-distribution scores")
        located = (self.regions, self.masks, self.maps, self.marks, self.key_frames)
        if self.refusal and (self.scores or any(located)):
            raise ValueError("a refusal has no results")
        for names in self._identifiers():
            if len(set(names)) < len(names):
                raise ValueError(f"the same identifier twice among {sorted(names)}")
        if strangers := self._referenced_uids() - set(self.sop_instance_uids):
            raise ValueError(f"refers to {min(strangers)}, which is not among the images it is about")

    def _identifiers(self) -> Iterator[list[str]]:
        """Yield the names that must differ among themselves; a region may share its segment's."""
        yield [segment.identifier for mask in self.masks for segment in mask.segments]
        yield [region.identifier for region in self.regions]
        yield [value_map.identifier for value_map in self.maps]
        yield [marks.identifier for marks in self.marks]

    def _referenced_uids(self) -> set[str]:
        frames = {
            *self.key_frames,
            *(region.outline.frame for region in self.regions),
            *(marks.frame for marks in self.marks),
            *(frame for mask in self.masks for frame in mask.frames),
            *(frame for value_map in self.maps for frame in value_map.frames),
        }
        return {frame.sop_instance_uid for frame in frames}

    @property
    def all_scores(self) -> tuple[Score, ...]:
        """The scores of the series and those of its regions."""
        return (*self.scores, *(region.score for region in self.regions if region.score))

    def judgment_of(self, region: Region) -> Score | None:
        """Return the score that decides a region: its own, or that of the whole image for the same finding.

        Regions without a score are what the image's score was drawn from: where that is absent, so are they.
        None where nothing was estimated.
        """
        same = (score for score in self.scores if score.code == region.code)
        return region.score or next(same, None)

    def presence_of(self, region: Region) -> Presence:
        """Return whether a region is there; of a foreign image nobody knows, without a score it is."""
        judgment = self.judgment_of(region)
        if self.is_foreign:
            return Presence.UNDETERMINED
        return judgment.presence if judgment else Presence.PRESENT

    @property
    def shown_frames(self) -> tuple[Frame, ...]:
        """The pictures a reader should look at; none where there is a refusal."""
        if self.refusal:
            return ()
        outlined = dict.fromkeys(region.outline.frame for region in self.regions)
        middle = Frame(self.sop_instance_uids[len(self.sop_instance_uids) // 2])
        return self.key_frames or tuple(outlined) or (middle,)

    @property
    def out_of_distribution(self) -> OutOfDistribution | None:
        """How unlike the model's own images the image is; None where nothing states it."""
        return self.all_scores[0].uncertainty.out_of_distribution if self.all_scores else None

    @property
    def is_foreign(self) -> bool:
        """Is the image unlike those the model was made for, so that none of its scores may be used?"""
        return bool(self.out_of_distribution and self.out_of_distribution.is_foreign)

    @property
    def outcome(self) -> Outcome:
        """The one explicit outcome; a score that abstains is a finding to review, never a negative."""
        if self.refusal:
            return self.refusal.outcome
        said = [*(score.presence for score in self.scores), *map(self.presence_of, self.regions)]
        is_silent = all(presence is Presence.ABSENT for presence in said)
        return Outcome.NO_FINDINGS if is_silent else Outcome.FINDINGS

    @property
    def reason(self) -> str:
        """Why there are no scores; empty where there are."""
        return self.refusal.reason if self.refusal else ""
