"""Nodules in the lungs on one chest CT series."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from node.domain.findings import Algorithm, Findings, Outcome, Refusal
from node.domain.image import Volume, Window
from node.domain.study import Series
from node.imaging.lungs import find_lungs
from node.interfaces import Engine
from node.pipelines.chest_ct import results
from node.pipelines.chest_ct.judging import judge
from node.pipelines.chest_ct.nodules import Nodule, measure
from node.pipelines.chest_ct.search import Search, search
from node.read.volume import read_volume

NO_LUNG = "no lung was found in the series"
LUNG_WINDOW = Window(-600, 1500)
"""In HU: one for soft tissue shows lungs as black, and no nodule's edge."""


@dataclass(frozen=True, slots=True)
class ChestCt:
    """A network that finds nodules everywhere in the lungs, and an ensemble that judges each place it found.

    `most_places` are judged, the surest first; `windows_at_once` go into one request.
    """

    model: str = "chest_ct"
    segmentation_model: str = "chest_ct_nodules"
    most_places: int = 24
    windows_at_once: int = 2
    maps_every_slice: bool = False

    def analyze(self, series: Series, engine: Engine) -> Findings:
        """Return the nodules of a series, with masks, and scores of the series as a whole.

        A series without lungs is not eligible. Raises GeometryError, PixelError and DatasetError where
        `read_volume` does, ModelError where a model does not answer as its card promises.
        """
        volume = read_volume(series)
        found, nodules = self.find(volume, engine)
        if found is None:
            return self._findings(series, volume, engine, refusal=Refusal(Outcome.NOT_ELIGIBLE, NO_LUNG))
        reported = results.in_order(nodules)
        return self._findings(
            series,
            volume,
            engine,
            scores=results.study_scores(nodules),
            regions=results.make_regions(volume, reported),
            masks=results.make_masks(volume, reported),
            maps=results.make_maps(volume, found, reported, every_slice=self.maps_every_slice),
            key_frames=results.key_frames(volume, reported),
            remarks=(*volume.notes, *found.remarks, *results.left_out(nodules)),
            window=LUNG_WINDOW,
        )

    def find(self, volume: Volume, engine: Engine) -> tuple[Search | None, list[Nodule]]:
        """Return what was searched and every place that was judged, whatever it is; None without lungs."""
        found = self.search(volume, engine)
        if found is None:
            return None, []
        everything = found.spots()
        spots = everything[: self.most_places]
        if len(spots) < len(everything):
            left_out = f"Of {len(everything)} places only the {len(spots)} surest were judged."
            found = replace(found, remarks=(*found.remarks, left_out))
        centers = found.grid.to_patient(np.array([spot.center_zyx for spot in spots]))
        return found, [
            measure(volume, found.grid, spot, threshold=found.threshold, judgment=judgment)
            for spot, judgment in zip(spots, judge(volume, centers, engine, self.model), strict=True)
        ]

    def search(self, volume: Volume, engine: Engine) -> Search | None:
        """Return what the segmentation model says of the lungs; None without any."""
        step_mm = float(np.median(np.diff(volume.positions_mm)))
        lungs = find_lungs(volume.hounsfield, (step_mm, *volume.spacing_yx_mm))
        if lungs is None:
            return None
        return search(volume, lungs, engine, self.segmentation_model, self.windows_at_once)

    def _findings(self, series: Series, volume: Volume, engine: Engine, **found: Any) -> Findings:
        card, helper = engine.card(self.model), engine.card(self.segmentation_model)
        parameters = (*card.parameters, f"segmentation={helper.name} {helper.version}")
        return Findings(
            pipeline=self.model,
            algorithm=Algorithm(card.name, card.version, parameters),
            study_instance_uid=series.study_instance_uid,
            series_instance_uid=series.series_instance_uid,
            sop_instance_uids=tuple(dict.fromkeys(frame.sop_instance_uid for frame in volume.frames)),
            **found,
        )
