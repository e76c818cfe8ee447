"""Results to test with: findings of every outcome, and the objects made of them."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.domain.code import AREA, SQUARE_MILLIMETER, Code
from node.domain.findings import (
    Algorithm,
    Findings,
    Measurement,
    Outcome,
    OutOfDistribution,
    PredictionSet,
    Presence,
    Priority,
    Refusal,
    Score,
    Uncertainty,
)
from node.domain.image import Image
from node.domain.profile import DEFAULT_PROFILE, Profile
from node.encode import EncodingContext, encode

MADE_AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ALGORITHM = Algorithm("chest_xray_densenet121", "1.0.0", ("tta=horizontal flip", "calibration=temperature"))

PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
BACTERIAL = Code("53084003", "SCT", "Bacterial pneumonia")
VIRAL = Code("75570004", "SCT", "Viral pneumonia")

REAL_RADIOGRAPHS = [
    "cr_chest_fuji_440px_no-meta",
    "cr_chest_philips-thoravision_j2k-lossy",
    "cr_chest_philips-thoravision_jpegls-near",
]


FAMILIAR, FOREIGN = OutOfDistribution(0.75, 1.25), OutOfDistribution(3.141593, 1.25)


def score(code: Code, probability: float, interval: tuple[float, float], *answers: Presence) -> Score:
    """A score over a threshold of 0.5, whose map has its peak in the lower left of the picture."""
    rows, columns = np.mgrid[:16, :16]
    activation = np.exp(-((rows - 12) ** 2 + (columns - 4) ** 2) / 8).astype(np.float32)
    uncertainty = Uncertainty(0.04, interval, 0.557438, 0.0123, PredictionSet(answers, 0.95), FAMILIAR)
    return Score(code, probability, 0.5, uncertainty, activation)


def of(image: OutOfDistribution | None, *scores: Score) -> tuple[Score, ...]:
    """The scores, were they of that image."""
    return tuple(
        replace(one, uncertainty=replace(one.uncertainty, out_of_distribution=image)) for one in scores
    )


def bare(one: Score) -> Score:
    """The score of a model that states neither prediction sets nor an out-of-distribution score."""
    return replace(one, uncertainty=replace(one.uncertainty, prediction_set=None, out_of_distribution=None))


PRESENT = replace(
    score(PNEUMONIA, 0.87, (0.78, 0.93), Presence.PRESENT),
    measurements=(Measurement(AREA, 12.5, SQUARE_MILLIMETER, (11.0, 14.0)),),
)
UNDETERMINED = score(BACTERIAL, 0.64, (0.45, 0.8), Presence.ABSENT, Presence.PRESENT)
ABSENT = score(VIRAL, 0.12, (0.05, 0.2), Presence.ABSENT)
UNPREDICTED = score(BACTERIAL, 0.1, (0.05, 0.2))
SCORES = {
    "findings": (PRESENT, UNDETERMINED, ABSENT),
    "uncertain": (UNDETERMINED, ABSENT),
    "unpredicted": (UNPREDICTED,),
    "foreign": of(FOREIGN, PRESENT, UNPREDICTED, ABSENT),
    "bare": tuple(map(bare, (PRESENT, UNDETERMINED, ABSENT))),
    "no_findings": (ABSENT,),
    "not_eligible": (),
    "failed": (),
}
REASONS = {"not_eligible": "view LL, expected PA or AP", "failed": "the pixel data cannot be decoded"}


def make_findings(case: str, source: Path) -> Findings:
    """What a pipeline says of a source, by the name of the case."""
    header = dcmread(source, stop_before_pixels=True, force=True)
    reason = REASONS.get(case)
    return Findings(
        pipeline="chest_xray",
        algorithm=ALGORITHM,
        study_instance_uid=header.StudyInstanceUID,
        series_instance_uid=header.SeriesInstanceUID,
        sop_instance_uids=(header.SOPInstanceUID,),
        scores=SCORES[case],
        refusal=Refusal(Outcome(case), reason) if reason else None,
    )


def make_context(case: str, *images: Image, profile: Profile = DEFAULT_PROFILE) -> EncodingContext:
    return EncodingContext(
        run_key=f"run of {case}",
        made_at=MADE_AT,
        priority=Priority.URGENT,
        images=images,
        profile=profile,
    )


def picture_of(source: Path) -> Image:
    """A displayed picture that belongs to the source; its content does not matter here."""
    header = dcmread(source, stop_before_pixels=True, force=True)
    ramp = np.linspace(0.2, 0.6, 640 * 512, dtype=np.float32).reshape(640, 512)
    return Image(header.SOPInstanceUID, ramp, (0.2, 0.2), "PixelSpacing")


def encode_case(case: str, source: Path, **changes: object) -> dict[str, Dataset]:
    """The objects of one case, by kind; `changes` go to the context."""
    context = replace(make_context(case, picture_of(source)), **changes)  # type: ignore[arg-type]
    return {item.kind: item.dataset for item in encode(make_findings(case, source), [source], context)}


def save(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path
