"""FROC of volumes by hand: sizes, kinds, empty volumes; and the volumes that it is measured on."""

import numpy as np
import pytest

from models import detection
from models.detection import EMPTY, REAL, SYNTHETIC, Case, Examined, as_volume, draw_case, summarize
from node.samples.stack import CtGeometry


def examined(
    kind: str, nodules: list[tuple[float, float]], said: list[tuple[float, float]], *, seconds: float = 1.0
) -> Examined:
    """A volume with nodules (place along x, diameter) and answers (place along x, score)."""
    places = np.array([(place, 0.0, 0.0) for place, _ in nodules]).reshape(-1, 3)
    points = np.array([(place, 0.0, 0.0) for place, _ in said]).reshape(-1, 3)
    geometry = CtGeometry((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (4, 4, 4))
    case = Case(
        kind, 1, np.zeros((4, 4, 4), np.int16), geometry, places, np.array([size for _, size in nodules]), 3.0
    )
    return Examined(case, points, np.array([score for _, score in said]), seconds)


HAND = [
    # Found: 5 mm and 10 mm; the 25 mm one only by its edge, 12 mm from its center. One false at 0.6.
    examined(
        SYNTHETIC,
        [(0.0, 5.0), (50.0, 10.0), (100.0, 25.0)],
        [(2.9, 0.9), (54.0, 0.8), (112.0, 0.7), (200.0, 0.6)],
    ),
    # Missed: 7 mm, for 3.6 mm is beyond its radius of 3.5 mm.
    examined(REAL, [(0.0, 7.0)], [(3.6, 0.5)]),
    examined(EMPTY, [], [(10.0, 0.4)]),
]


def test_sizes_and_kinds_are_counted_apart() -> None:
    result = summarize(HAND, repeats=10)

    synthetic, real = result["sensitivity"][SYNTHETIC], result["sensitivity"][REAL]
    assert synthetic["4–6 mm"] == {"nodules": 1, "sensitivity": [1.0] * 7}
    assert synthetic["> 20 mm"] == {"nodules": 1, "sensitivity": [1.0] * 7}
    assert synthetic["4–20 mm"]["nodules"] == 2
    assert real["6–8 mm"] == {"nodules": 1, "sensitivity": [0.0] * 7}
    assert result["sensitivity"]["all"]["4–20 mm"]["at_2"]["value"] == pytest.approx(2 / 3)


def test_false_positives_of_empty_volumes_are_counted_at_the_same_thresholds() -> None:
    result = summarize(HAND, repeats=0)

    # Three false in three volumes: at 1/3 a volume one, at 2/3 two, from 1 on all of them.
    assert result["thresholds"][:3] == [0.6, 0.6, 0.5]
    assert result["empty"] == {"volumes": 1, "false_per_volume": [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]}
    assert "false on empty volumes" in detection.table(result)


def test_an_empty_volume_is_lung_without_a_nodule_as_the_node_reads_it() -> None:
    sample, _ = draw_case(detection.FIRST_SEED, EMPTY, [])
    case = Case(
        EMPTY, 1, sample.hounsfield, sample.geometry, np.zeros((0, 3)), np.zeros(0), float(sample.lung.sum())
    )

    volume = as_volume(case)

    assert sample.nodules == ()
    points = np.array([[0.0, 0.0, 0.0], [10.0, 20.0, 30.0]])
    assert np.allclose(volume.to_patient(points), sample.geometry.to_patient(points))
    litres = sample.lung.sum() * np.prod(detection.SPACING_ZYX_MM) * 1e-6
    assert 1.8 < litres < 4.0
