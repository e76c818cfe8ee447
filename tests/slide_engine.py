"""An engine for slides whose answers can be worked out by hand: it calls a tile tumor for its dark pixels."""

import dataclasses

import numpy as np
from numpy.typing import DTypeLike, NDArray

from node.domain.card import ModelCard, ModelClass
from node.domain.code import Code
from node.domain.findings import Priority
from node.interfaces import Arrays

TUMOR = Code("108369006", "SCT", "Tumor")
TILE_PX, MICROMETERS_PER_PIXEL = 32, 1.0
DARK = 150
"""Of blue: the disc of tests.synthetic.slide is darker, its tissue lighter."""


@dataclasses.dataclass
class SlideEngine:
    """Its embedding of a tile is the share of its dark pixels; the slide's numbers are those it was given."""

    probability: float = 0.97
    interval: tuple[float, float] = (0.9, 0.99)
    strangeness: float = 1.0
    micrometers_per_pixel: float | None = MICROMETERS_PER_PIXEL
    tile_threshold: float | None = 0.5
    dark: int = DARK
    changed: dict[str, NDArray[np.generic]] = dataclasses.field(default_factory=dict)
    batches: list[int] = dataclasses.field(default_factory=list)

    def infer(self, model: str, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        answer = (
            self._tiles(inputs["image"]) if model.endswith("_tiles") else self._slide(inputs["embeddings"])
        )
        return {name: self.changed.get(name, values) for name, values in answer.items()}

    def _tiles(self, image: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
        assert image.dtype == np.uint8
        assert image.shape[1:] == (TILE_PX, TILE_PX, 3)
        self.batches.append(len(image))
        return {"embeddings": (image[..., 2] < self.dark).mean(axis=(1, 2), dtype=np.float32)[:, None]}

    def _slide(self, embeddings: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
        dark = np.asarray(embeddings[0, :, 0], np.float32)
        numbers = {
            "probability": self.probability,
            "spread": 0.02,
            "entropy": 0.2,
            "mutual_information": 0.01,
        }
        return {
            **{name: np.array([[value]], np.float32) for name, value in numbers.items()},
            "interval": np.array([[self.interval]], np.float32),
            "out_of_distribution": np.array([[self.strangeness]], np.float32),
            "attention": (dark + 1e-3)[None] / (dark + 1e-3).sum(),
            "tile_probability": dark[None],
        }

    def card(self, model: str) -> ModelCard:
        is_tiles = model.endswith("_tiles")
        return ModelCard(
            name=model,
            version="1.0",
            intended_use="tests",
            input_shape=(TILE_PX, TILE_PX, 3) if is_tiles else (-1, 1),
            classes=() if is_tiles else (ModelClass(TUMOR, 0.5),),
            requirements=(),
            parameters=("pooling=dark",),
            out_of_distribution_threshold=None if is_tiles else 2.0,
            input_micrometers_per_pixel=self.micrometers_per_pixel if is_tiles else None,
            tile_threshold=None if is_tiles else self.tile_threshold,
        )

    def check(self, model: str) -> None:
        """Nothing can be wrong with it."""

    def prioritized(self, priority: Priority) -> "SlideEngine":
        return self

    def buffer(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
        return np.empty(shape, dtype)

    def close(self) -> None:
        """It holds nothing."""
