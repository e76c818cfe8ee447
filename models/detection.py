"""Whether the whole chest CT pipeline finds nodules of known place: FROC over volumes with a truth.

Half of the volumes with nodules hold synthetic ones, half hold nodules cut out of real CTs (the split `val`
of LIDC-IDRI, which no training has seen); a quarter as many hold none. All bodies are synthetic, of seeds
that no training uses. The volumes are drawn once and kept below runs/.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import froc, placing
from models.data import CACHE
from models.nodules import Voi, read_rows, read_voi
from models.placing import Placed, draw_places, place
from node.domain.image import Volume
from node.domain.location import Frame
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.pipelines.chest_ct import ChestCt
from node.samples import tomography
from node.samples.ct_body import MAP_MM
from node.samples.scanner import Scan
from node.samples.tomography import CtBody, CtGeometry, CtSample, ct_body, draw_nodules, scan_box

Json = dict[str, Any]

FIRST_SEED = 900_000
"""Bodies of the tests; no training uses seeds from here on."""
SPACING_ZYX_MM = (1.25, 1.0, 1.0)
SCALES_MM = (98.0, 110.0)
"""Half the widths of the cages: small adults with 2–3.5 l of lung, for larger ones take a minute each."""
MARGIN_MM = 14.0
"""Around the lungs: the field of view shows the ribs, not the skin."""
NODULES_EACH = 5
LEAST_RADIUS_MM = 3.0
"""A detection stands for a nodule within its radius, or within this: centers of small masks are uncertain."""
ACCEPTED_MM = (4.0, 20.0)
SIZES_MM = ((4.0, 6.0), (6.0, 8.0), (8.0, 12.0), (12.0, 20.0), (20.0, 99.0))
SYNTHETIC, REAL, EMPTY = "synthetic", "real", "empty"
POINT = 2.0
"""False positives per volume at which the acceptance is measured."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One test volume: of what kind, its voxels (z, y, x) in HU, where they lie, its nodules, its lungs."""

    kind: str
    seed: int
    hounsfield: NDArray[np.int16]
    geometry: CtGeometry
    centers_xyz_mm: NDArray[np.float64]
    diameters_mm: NDArray[np.float64]
    lung_l: float


@dataclass(frozen=True, slots=True, eq=False)
class Examined:
    """One test volume and what the pipeline said: where (n, 3) in patient mm, and how sure (n,)."""

    case: Case
    points_xyz_mm: NDArray[np.float64]
    scores: NDArray[np.float64]
    seconds: float

    @property
    def matched(self) -> froc.Matched:
        """What was found and what was false."""
        radii = np.maximum(self.case.diameters_mm / 2, LEAST_RADIUS_MM)
        closeness = froc.by_distance(self.points_xyz_mm, self.case.centers_xyz_mm, radii)
        return froc.match(self.scores.tolist(), closeness)

    def of_size(self, between_mm: tuple[float, float]) -> froc.Matched:
        """Return what was found of the nodules of a size, and all that was false."""
        sizes = self.case.diameters_mm
        return self.matched.of((sizes >= between_mm[0]) & (sizes < between_mm[1]))


def test_cases(count: int, directory: Path) -> Iterator[Case]:
    """Yield `count` volumes with nodules, half of them real, and a quarter as many without any."""
    half = count // 2
    rows = read_rows(directory, split="val")
    order = np.random.default_rng(FIRST_SEED).permutation(len(rows))
    kinds = [SYNTHETIC] * (count - half) + [REAL] * half + [EMPTY] * (half // 2)
    for index, kind in enumerate(kinds):
        first = NODULES_EACH * (index - (count - half))
        chosen = [rows[k] for k in order[first : first + NODULES_EACH]] if kind == REAL else []
        yield _kept(FIRST_SEED + index, kind, [read_voi(row) for row in chosen])


def _kept(seed: int, kind: str, vois: Sequence[Voi]) -> Case:
    """Return a case, from its files where they are there already."""
    names = ",".join(voi.row.image.name for voi in vois)
    folder = CACHE / f"detection-{_sources_digest(kind)}"
    path = folder / f"{seed}-{kind}-{hashlib.sha256(names.encode()).hexdigest()[:8]}.npz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        sample, _ = draw_case(seed, kind, vois)
        np.savez(
            path,
            hounsfield=sample.hounsfield,
            origin=sample.geometry.origin_xyz_mm,
            lung_l=sample.lung.sum() * np.prod(SPACING_ZYX_MM) * 1e-6,
            centers=np.reshape([truth.center_xyz_mm for truth in sample.nodules], (-1, 3)),
            diameters=np.asarray([truth.diameter_mm for truth in sample.nodules]),
        )
    with np.load(path) as stored:
        hounsfield, origin = stored["hounsfield"], stored["origin"].tolist()
        geometry = CtGeometry((origin[0], origin[1], origin[2]), SPACING_ZYX_MM, hounsfield.shape)
        truth = (stored["centers"], stored["diameters"])
        return Case(kind, seed, hounsfield, geometry, *truth, float(stored["lung_l"]))


def _sources_digest(kind: str) -> str:
    """Return what changes when the way the volumes of a kind are drawn does."""
    sources = sorted(Path(tomography.__file__).parent.glob("*.py"))
    if kind == REAL:
        sources.append(Path(placing.__file__))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def draw_case(seed: int, kind: str, vois: Sequence[Voi]) -> tuple[CtSample, list[Placed]]:
    """Return the volume of a seed (its body, how it was taken, its nodules), and where real ones were put."""
    random = np.random.default_rng([seed, 1])
    body = ct_body(seed, scale_mm=float(random.uniform(*SCALES_MM)))
    scan = Scan(
        kernel="sharp" if random.random() < 0.3 else "soft",
        dose=float(np.exp(random.uniform(np.log(0.2), np.log(1.5)))),
    )
    own = draw_nodules(body, NODULES_EACH) if kind == SYNTHETIC else ()
    sample = scan_box(body, lung_field(body), nodules=own, scan=scan)
    placed = draw_places(body, vois, random)
    return place(sample, placed), placed


def truth_of(drawn: CtSample) -> NDArray[np.bool_]:
    """Return where the nodules of a volume are, (z, y, x)."""
    truth = np.zeros(drawn.hounsfield.shape, np.bool_)
    for one in drawn.nodules:
        truth[one.box_zyx] |= one.mask
    return truth


def lung_field(body: CtBody) -> CtGeometry:
    """Return an axial stack over the lungs of a body with a margin."""
    voxels = np.argwhere(body.lung_map)[:, ::-1]
    origin = np.asarray(body.map_origin_xyz_mm)
    low, high = (origin + MAP_MM * end for end in (voxels.min(axis=0), voxels.max(axis=0)))
    x, y, z = low - MARGIN_MM
    size = np.ceil((high - low + 2 * MARGIN_MM)[::-1] / SPACING_ZYX_MM).astype(int)
    return CtGeometry(
        (float(x), float(y), float(z)), SPACING_ZYX_MM, (int(size[0]), int(size[1]), int(size[2]))
    )


def as_volume(case: Case | CtSample) -> Volume:
    """Return a case as the node reads one."""
    planes = len(case.hounsfield)
    origins = case.geometry.to_patient(np.stack([np.arange(planes), *np.zeros((2, planes))], axis=1))
    _, column, row = case.geometry.directions
    frames = tuple(Frame(f"2.25.{case.seed}{index:04d}") for index in range(planes))
    spacing = case.geometry.spacing_zyx_mm
    return Volume(frames, case.hounsfield, origins, row, column, (spacing[1], spacing[2]))


def examine(case: Case, pipeline: ChestCt, engine: OnnxEngine) -> Examined:
    """Return what the pipeline says of a case: every place that it judged, however unlikely."""
    started = time.monotonic()
    _, nodules = pipeline.find(as_volume(case), engine)
    points = np.reshape([one.centroid_xyz_mm for one in nodules], (-1, 3))
    scores = np.asarray([one.judgment[0].probability for one in nodules], float)
    return Examined(case, points, scores, time.monotonic() - started)


def measure_detection(count: int, directory: Path, repository: Path, *, repeats: int) -> Json:
    """Return the FROC of the pipeline with the graphs of a repository over `count` volumes with nodules."""
    engine = OnnxEngine(ModelRepository(repository), threads=2)
    pipeline = ChestCt()
    examined = []
    for case in test_cases(count, directory):
        examined.append(examine(case, pipeline, engine))
        print(_progress(examined[-1], len(examined)), file=sys.stderr, flush=True)
    version = engine.card(pipeline.model).version
    return {**summarize(examined, repeats=repeats), "source": {"version": version}}


def _progress(one: Examined, number: int) -> str:
    """Return a line on one volume: a search takes a while."""
    matched = one.matched
    found = " ".join(
        f"{size:.0f} mm {score:.2f}" for size, score in zip(one.case.diameters_mm, matched.found, strict=True)
    )
    false = " ".join(f"{score:.2f}" for score in matched.false[:4])
    return f"{number} {one.case.kind} {one.seconds:.0f} s: found {found or '-'}; false {false or '-'}"


def summarize(examined: Sequence[Examined], *, repeats: int) -> Json:
    """Return the figures of volumes that were examined."""
    images = [one.matched for one in examined]
    thresholds = [froc.threshold_at(images, point) for point in froc.OPERATING_POINTS]
    sizes: dict[str, tuple[float, float]] = {f"{_name(ACCEPTED_MM)}": ACCEPTED_MM}
    sizes |= {_name(size): size for size in SIZES_MM}
    chosen = {"all": examined} | {
        kind: [one for one in examined if one.case.kind == kind] for kind in (SYNTHETIC, REAL)
    }
    empty = [one.matched for one in examined if one.case.kind == EMPTY]
    return {
        "volumes": len(examined),
        "false_per_volume": list(froc.OPERATING_POINTS),
        "thresholds": [_finite(threshold) for threshold in thresholds],
        "sensitivity": {
            name: {
                title: _line(part, size, thresholds, repeats if title == _name(ACCEPTED_MM) else 0)
                for title, size in sizes.items()
            }
            for name, part in chosen.items()
        },
        "empty": {
            "volumes": len(empty),
            "false_per_volume": [round(froc.false_rate(empty, threshold), 3) for threshold in thresholds],
        },
        "lung_l": round(float(np.median([one.case.lung_l for one in examined])), 2),
        "seconds_per_volume": round(float(np.median([one.seconds for one in examined])), 2),
    }


def _name(size: tuple[float, float]) -> str:
    return f"> {size[0]:g} mm" if size == SIZES_MM[-1] else f"{size[0]:g}–{size[1]:g} mm"


def _finite(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


def _line(
    examined: Sequence[Examined], size: tuple[float, float], thresholds: Sequence[float], repeats: int
) -> Json:
    """Return the sensitivity for one size at the thresholds of all volumes, with an interval if asked."""
    parts = [one.of_size(size) for one in examined]
    line: Json = {
        "nodules": int(sum(len(part.found) for part in parts)),
        "sensitivity": [_rounded(froc.sensitivity(parts, threshold)) for threshold in thresholds],
    }
    if repeats and line["nodules"]:
        estimate = froc.sensitivity_estimate(parts, POINT, repeats=repeats)
        line["at_2"] = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return line


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 3)


def table(result: Json) -> str:
    """Return the figures as text for people."""
    lines = [
        f"{result['volumes']} volumes, {result['empty']['volumes']} of them without a nodule; "
        f"median {result['lung_l']} l of lung, {result['seconds_per_volume']} s",
        f"{'false positives per volume':<28}{'nodules':>8}"
        + "".join(f"{point:>8g}" for point in result["false_per_volume"]),
    ]
    for kind, sizes in result["sensitivity"].items():
        for title, line in sizes.items():
            if not line["nodules"]:
                continue
            cells = "".join(f"{'-' if value is None else f'{value:.3f}':>8}" for value in line["sensitivity"])
            lines.append(f"{f'{kind}, {title}':<28}{line['nodules']:>8}{cells}")
            if "at_2" in line:
                own = line["at_2"]
                lines.append(f"{'':<28}at 2: {own['value']:.3f} [{own['low']:.3f}, {own['high']:.3f}]")
    cells = "".join(f"{value:>8.2f}" for value in result["empty"]["false_per_volume"])
    lines.append(f"{'false on empty volumes':<36}{cells}")
    return "\n".join(lines)
