"""A model of Triton's Python backend that gives its input back, after as many seconds as its first number.

Less than none: it makes the file `held` in its folder, and waits until there is a file `go`.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Note where the files are."""
        self._folder = Path(args["model_repository"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests one after the other."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        values = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        seconds = float(values.reshape(-1)[0])
        if seconds < 0:
            (self._folder / "held").touch()
            while not (self._folder / "go").exists():
                time.sleep(0.01)
        else:
            time.sleep(seconds)
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", values.copy())])
