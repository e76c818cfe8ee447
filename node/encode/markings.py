"""What is marked on a picture: the regions a reader should see, their numbers, words and colors."""

from dataclasses import dataclass

from node.domain.findings import Findings, Presence, Region
from node.encode.summary import describe_measurement, describe_probability

Color = tuple[int, int, int]

PRESENT, REVIEW = (64, 224, 255), (255, 191, 64)
"""Cyan, which neither tissue nor a heat map has, and the amber of all warnings."""

NEEDS_REVIEW = "needs review"


@dataclass(frozen=True, slots=True)
class Marking:
    """A region with the number it has in every picture of the result, and whether it is for review only."""

    number: int
    region: Region
    is_doubtful: bool

    @property
    def color(self) -> Color:
        """The color of its lines and words."""
        return REVIEW if self.is_doubtful else PRESENT

    @property
    def title(self) -> str:
        """Its number, and what it is."""
        words = f"{self.number} {self.region.code.meaning}"
        return f"{words} - {NEEDS_REVIEW}" if self.is_doubtful else words

    @property
    def figures(self) -> list[str]:
        """Its probability with the interval, then what was measured."""
        score = self.region.score
        probability = [describe_probability(score)] if score else []
        return [*probability, *map(describe_measurement, self.region.measurements)]

    @property
    def sentence(self) -> str:
        """All that is known of it."""
        region = self.region
        place = " ".join(code.meaning for code in (region.laterality, region.site) if code)
        doubts = region.score.doubts if region.score else ()
        named = f"{self.title} [{region.identifier}]" + (f", {place}" if place else "")
        return "; ".join([named, *doubts, *self.figures])


def markings(findings: Findings) -> tuple[Marking, ...]:
    """Return the regions to mark: none that is absent, none at all on a foreign image."""
    if findings.is_foreign:
        return ()
    said = [(region, findings.presence_of(region)) for region in findings.regions]
    shown = [(region, presence) for region, presence in said if presence is not Presence.ABSENT]
    return tuple(
        Marking(number, region, presence is Presence.UNDETERMINED)
        for number, (region, presence) in enumerate(shown, 1)
    )
