"""The program of a repository's models behind a gate: no batch is run while their folder holds a file `shut`.

The file `held` then tells how many requests are in the batch that waits.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shipped import TritonPythonModel as Shipped


class TritonPythonModel(Shipped):
    """One instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model, and note where the files are."""
        super().initialize(args)
        self._folder = Path(args["model_repository"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests once the gate is open."""
        gate = self._folder / "shut"
        if gate.exists():
            (self._folder / "held").write_text(str(len(requests)))
            while gate.exists():
                time.sleep(0.01)
        return super().execute(requests)
