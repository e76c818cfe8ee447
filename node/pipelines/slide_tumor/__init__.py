"""Signs of tumor on one whole slide stained with hematoxylin and eosin."""

from dataclasses import dataclass
from typing import Any

from node.domain.findings import Algorithm, Findings, Presence, Refusal
from node.domain.study import Series
from node.interfaces import Engine
from node.pipelines.slide_tumor import results
from node.pipelines.slide_tumor.looking import View, look_at
from node.pipelines.slide_tumor.weighing import Weighed, embed_tiles, weigh
from node.read.slide import Slide, open_slide


@dataclass(frozen=True, slots=True)
class SlideTumor:
    """An encoder of tiles, and an ensemble of heads that weigh all tiles of a slide.

    `threads` read tiles while the encoder works; `tiles_at_once` go into one request. `top_tiles` are
    outlined, those that weighed most, and so are the `most_regions` largest parts that look like tumor.
    A slide that states neither its scale nor its objective is taken to have a finest level of
    `assumed_micrometers_per_pixel`; where that is 0, it is not read.
    """

    model: str = "slide_tumor"
    tile_model: str = "slide_tumor_tiles"
    threads: int = 2
    tiles_at_once: int = 64
    top_tiles: int = 5
    most_regions: int = 10
    assumed_micrometers_per_pixel: float = 0.0

    def analyze(self, series: Series, engine: Engine) -> Findings:
        """Return what is said of a slide: its score, the tiles that decided, what looks like tumor.

        A slide whose scale is unknown or too coarse, or that has nothing to read, is not eligible. Raises
        PixelError and DatasetError where `open_slide` and reading a tile do, ModelError where a model does
        not answer as its card promises.
        """
        with open_slide(series) as slide:
            view = look_at(slide, engine.card(self.tile_model), self.assumed_micrometers_per_pixel)
            if isinstance(view, Refusal):
                return self._findings(series, slide, engine, refusal=view)
            tiles = embed_tiles(slide, view, engine, self)
        if isinstance(tiles, Refusal):
            return self._findings(series, slide, engine, refusal=tiles)
        weighed = weigh(tiles, engine, self.model)
        return self._findings(series, slide, engine, **self._found(view, weighed))

    def _found(self, view: View, weighed: Weighed) -> dict[str, Any]:
        """Return what the findings hold beside whose they are."""
        found: dict[str, Any] = {
            "scores": (weighed.score,),
            "maps": (results.attention_map(view, weighed),),
            "key_frames": (view.frame,),
            "remarks": (*view.remarks, *weighed.tiles.remarks),
        }
        if weighed.score.presence is Presence.ABSENT:
            return found
        islands = results.find_tumor(view, weighed)
        parts = results.tumor_regions(view, weighed, islands[: self.most_regions])
        found["scores"] = (results.measured(view, weighed, islands),)
        found["regions"] = (*parts, *results.top_tiles(view, weighed, self.top_tiles))
        found["remarks"] += results.left_out(islands, self.most_regions)
        if weighed.score.presence is Presence.PRESENT:
            # A mark cannot say that it is uncertain.
            found["marks"] = results.make_marks(view, weighed, islands)
        return found

    def _findings(self, series: Series, slide: Slide, engine: Engine, **found: Any) -> Findings:
        card, helper = engine.card(self.model), engine.card(self.tile_model)
        return Findings(
            pipeline=self.model,
            algorithm=Algorithm(
                card.name, card.version, (*card.parameters, f"tiles={helper.name} {helper.version}")
            ),
            study_instance_uid=series.study_instance_uid,
            series_instance_uid=series.series_instance_uid,
            sop_instance_uids=tuple(level.sop_instance_uid for level in slide.levels),
            **found,
        )
