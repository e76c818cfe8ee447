"""Numbers in a report: each with its unit, and below it how far it can be trusted (TID 300, 310)."""

from collections.abc import Mapping

from highdicom.sr import ContentSequence, Measurement, NumContentItem, RelationshipTypeValues
from pydicom.sr.coding import Code

from node.domain import findings as domain
from node.domain.findings import OutOfDistribution, Score, Uncertainty
from node.encode import codes
from node.encode.identity import coded

INTERVAL_PERCENT = 95
PERCENT_DIGITS, BIT_DIGITS = 4, 6
"""Decimals kept of what has a known scale."""
NUMBER_DIGITS = 7
"""Digits kept of what has none, counted from the first that is not 0: float32 holds no more."""


def probability(name: Code, score: Score) -> Measurement:
    """Return the probability in percent, the mean of the members, with their spread."""
    value = _percent(score.probability)
    low, high = map(_percent, score.uncertainty.interval)
    measurement = Measurement(name, value, codes.PERCENT, derivation=codes.MEAN)
    spread = {codes.STANDARD_DEVIATION: (_percent(score.uncertainty.spread), codes.PERCENT)}
    _qualify(measurement, _distances(value, (low, high), codes.PERCENT) | spread)
    return measurement


def quantity(measured: domain.Measurement) -> Measurement:
    """Return a measured property; how it was derived and its spread are not known, so not stated."""
    value, unit = significant(measured.value), coded(measured.unit)
    measurement = Measurement(coded(measured.quantity), value, unit)
    if measured.interval:
        low, high = map(significant, measured.interval)
        _qualify(measurement, _distances(value, (low, high), unit))
    return measurement


def doubts(uncertainty: Uncertainty) -> list[Measurement]:
    """Return what measures the doubt itself; a coverage without members beside it means an empty set."""
    prediction_set = uncertainty.prediction_set
    coverage = [(codes.CONFORMAL_COVERAGE, prediction_set.coverage)] if prediction_set else []
    return [
        Measurement(codes.ENTROPY, round(float(uncertainty.entropy), BIT_DIGITS), codes.BIT),
        Measurement(
            codes.MUTUAL_INFORMATION, round(float(uncertainty.mutual_information), BIT_DIGITS), codes.BIT
        ),
        *(Measurement(name, _percent(value), codes.PERCENT) for name, value in coverage),
    ]


def strangeness(image: OutOfDistribution) -> Measurement:
    """Return how unlike the model's own images an image is; the scale is the model's own."""
    return Measurement(codes.OUT_OF_DISTRIBUTION_SCORE, significant(image.score), codes.NO_UNITS)


def significant(value: float) -> float:
    """Return a number with the digits that it can have."""
    return float(f"{float(value):.{NUMBER_DIGITS}g}")


Qualifiers = Mapping[Code, tuple[float, Code]]


def _distances(value: float, interval: tuple[float, float], unit: Code) -> dict[Code, tuple[float, Code]]:
    """Return the interval as the standard has it (CID 225): distances from the value, not bounds."""
    low, high = interval
    return {
        codes.UPPER_UNCERTAINTY: (significant(high - value), unit),
        codes.LOWER_UNCERTAINTY: (significant(value - low), unit),
        codes.INTERVAL_LEVEL: (INTERVAL_PERCENT, codes.PERCENT),
    }


def _qualify(measurement: Measurement, qualifiers: Qualifiers) -> None:
    """Hang numbers below a number; highdicom's own way gives them no unit (MeasurementProperties)."""
    item = measurement[0]
    if "ContentSequence" not in item:
        item.ContentSequence = ContentSequence()
    for name, (value, unit) in qualifiers.items():
        below = NumContentItem(name, value, unit, relationship_type=RelationshipTypeValues.HAS_PROPERTIES)
        item.ContentSequence.append(below)


def _percent(share: float) -> float:
    return round(100 * float(share), PERCENT_DIGITS)
