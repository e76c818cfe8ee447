"""What detectors see on a radiograph as regions: each lesion once, with its size, its side and its doubts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from node.domain.code import LEFT_LUNG, LONG_AXIS, LUNG, MILLIMETER, RIGHT_LUNG, SHORT_AXIS, Code
from node.domain.findings import Doubt, Measurement, OutOfDistribution, Presence, Region
from node.domain.image import Image
from node.domain.location import Outline
from node.imaging.boxes import areas, shared_areas
from node.interfaces import Engine
from node.pipelines.chest_xray.detectors import SIDE_BY_LUNG, Place, find_places

INSIDE = 0.5
"""So much of a lesion lies in the box of a lung that it is said to be in it."""

WORDS_BY_SPACING = {
    "PixelSpacing": "size at the patient (Pixel Spacing)",
    "ImagerPixelSpacing": "size at the detector, larger than in the patient (Imager Pixel Spacing)",
    "ImagerPixelSpacing/EstimatedRadiographicMagnificationFactor": (
        "size in the patient by the estimated magnification (Imager Pixel Spacing)"
    ),
    "NominalScannedPixelSpacing": "size on the scanned film (Nominal Scanned Pixel Spacing)",
}
UNKNOWN_SIZE = "size unknown: the image does not state how large its pixels are"
TOLD = 0.05
"""From this probability on a place that is not outlined is told of: one member alone says anything."""

BESIDE_LUNGS = "not within the boxes of the lungs"
NO_LUNGS = "No lung was found: in which one a lesion lies is not said."


@dataclass(frozen=True, slots=True)
class Detected:
    """The lesions that are outlined, those that are certain first, and what to know beside them."""

    regions: tuple[Region, ...]
    remarks: tuple[str, ...]


def detect_lesions(
    image: Image, engine: Engine, model: str, strangeness: OutOfDistribution | None = None
) -> Detected:
    """Return the lesions that an ensemble of detectors sees on a radiograph.

    `strangeness` is that of the image: were it foreign, no lesion may be called certain. Raises ModelError as
    `find_places` does.
    """
    places = [_of_image(one, strangeness) for one in find_places(image, engine, model)]
    lungs = {code.value: place for code in (LEFT_LUNG, RIGHT_LUNG) if (place := _surest(places, code))}
    suspects = [one for one in places if not one.is_lung]
    lesions = _in_order([one for one in suspects if one.is_likely])
    regions = tuple(_region(image, number, one, lungs) for number, one in enumerate(lesions, 1))
    unsided = (NO_LUNGS,) if regions and not lungs else ()
    return Detected(regions, (*unsided, *_left_out(suspects)))


def _of_image(place: Place, strangeness: OutOfDistribution | None) -> Place:
    uncertainty = replace(place.score.uncertainty, out_of_distribution=strangeness)
    return replace(place, score=replace(place.score, uncertainty=uncertainty))


def _surest(places: Sequence[Place], code: Code) -> Place | None:
    return next((one for one in places if one.is_likely and one.score.code.value == code.value), None)


def _in_order(lesions: Sequence[Place]) -> list[Place]:
    return sorted(lesions, key=lambda one: one.score.presence is not Presence.PRESENT)


def _region(image: Image, number: int, place: Place, lungs: Mapping[str, Place]) -> Region:
    left, top, right, bottom = place.box.tolist()
    side, where = _side(place, lungs)
    return Region(
        identifier=f"Lesion {number}",
        code=place.score.code,
        outline=Outline.box(image.frame, (left, top), (right, bottom)),
        score=place.score,
        site=LUNG if side else None,
        laterality=side,
        measurements=tuple(_sizes(image, place)),
        remark="; ".join(filter(None, [*_other_kinds(place), where, _words_of_size(image)])),
    )


def _side(place: Place, lungs: Mapping[str, Place]) -> tuple[Code | None, str]:
    """Return on which side of the patient the lesion is, and what to say where it lies in no lung."""
    shares = {
        code: float((shared_areas(place.box[None], lung.box[None])[0] / areas(place.box[None]))[0])
        for code, lung in lungs.items()
    }
    if not shares:
        return None, ""
    lung = max(shares, key=lambda code: shares[code])
    return (SIDE_BY_LUNG[lung], "") if shares[lung] >= INSIDE else (None, BESIDE_LUNGS)


def _sizes(image: Image, place: Place) -> Iterator[Measurement]:
    """Yield the longer and the shorter side of the box; a diameter of what lies askew may be longer."""
    if image.spacing_yx_mm is None:
        return
    left, top, right, bottom = place.box.tolist()
    down_mm, across_mm = image.spacing_yx_mm
    short_mm, long_mm = sorted([(right - left) * across_mm, (bottom - top) * down_mm])
    for quantity, size_mm in ((LONG_AXIS, long_mm), (SHORT_AXIS, short_mm)):
        yield Measurement(quantity, round(size_mm, 1), MILLIMETER)


def _words_of_size(image: Image) -> str:
    if image.spacing_yx_mm is None:
        return UNKNOWN_SIZE
    return WORDS_BY_SPACING.get(image.spacing_attribute, f"size by {image.spacing_attribute}")


def _other_kinds(place: Place) -> Iterator[str]:
    for other in place.others:
        yield f"some detectors call it {other.meaning.lower()}"


def _left_out(suspects: Sequence[Place]) -> tuple[str, ...]:
    """Return in words how many places are not outlined, though it is not certain that they are no lesions."""
    unlikely = [one.score for one in suspects if not one.is_likely]
    worth = [one for one in unlikely if one.probability >= TOLD]
    doubtful = [one for one in worth if one.doubts == (Doubt.THRESHOLD_IN_INTERVAL,)]
    if not doubtful:
        return ()
    places = "1 more place is" if len(doubtful) == 1 else f"{len(doubtful)} more places are"
    highest = max(one.probability for one in doubtful)
    return (
        f"{places} below the threshold, but not certainly no lesion ({highest:.0%} at most): no outline.",
    )
