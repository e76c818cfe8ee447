"""A model of Triton's Python backend that gives its input back, after as many seconds as its first number.

A number below zero, say -1, is a gate: the model makes the file `held-1` among its notes, and waits until
there is a file `go-1`. The file `order` there has a line for each request as it was begun, with its number.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Note where the notes are: not in the model's folder, where a new file makes it another model."""
        folder = Path(args["model_repository"])
        self._notes = folder.parent.with_name("notes") / folder.name

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests one after the other."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        values = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        seconds = float(values.reshape(-1)[0])
        with (self._notes / "order").open("a") as order:
            order.write(f"{seconds:g}\n")
        if seconds < 0:
            (self._notes / f"held{seconds:g}").touch()
            while not (self._notes / f"go{seconds:g}").exists():
                time.sleep(0.01)
        else:
            time.sleep(seconds)
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", values.copy())])
