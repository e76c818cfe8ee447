"""An engine that passes all on to another: what a benchmark changes of it, it overrides."""

import numpy as np
import numpy.typing as npt

from node.domain.card import ModelCard
from node.domain.findings import Priority
from node.interfaces import Arrays, Engine

Answers = dict[str, npt.NDArray[np.generic]]


class RelayedEngine:
    """The engine behind it, at one priority."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def infer(self, model: str, inputs: Arrays) -> Answers:
        """Return what the model answers."""
        return self._engine.infer(model, inputs)

    def prioritized(self, priority: Priority) -> "RelayedEngine":
        """Return this engine."""
        del priority
        return self

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """Return the engine's."""
        return self._engine.buffer(shape, dtype)

    def card(self, model: str) -> ModelCard:
        """Return the engine's."""
        return self._engine.card(model)

    def check(self, model: str) -> None:
        """Check the model."""
        self._engine.check(model)

    def close(self) -> None:
        """Let go of the engine."""
        self._engine.close()
