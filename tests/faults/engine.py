"""A Triton server that can be killed, and comes back with the models it had."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults.warm import members
from tests.models import serve_by_python
from tests.peers.quick import MODEL
from tests.peers.triton import EXPLICIT, Triton
from tests.small_models import SLOW_MODEL, notes_of

ANSWER_S = 0.15
"""So long the model takes, or hardly a blow would fall while it is asked."""

MODEL_PROCESS = "triton_python_b"
"""What Linux keeps of the name of a process that runs a model."""


class MortalTriton(Triton):
    """One server on its ports, however often it is started, of the quick model in its repository.

    It is in its explicit mode: a node may load anew what lost its process.
    """

    def __init__(self, folder: Path, repository: Path) -> None:
        serve_by_python(repository, program=SLOW_MODEL)
        notes_of(repository, MODEL).mkdir(parents=True)
        super().__init__(folder, repository=repository, options=(*EXPLICIT, "--load-model", "*"))

    def configure(self, settings: dict[str, Any]) -> None:
        """Have a node of these settings ask it."""
        settings["engine"] |= {"kind": "triton", "url": self.url}
        settings["pipelines"][MODEL]["options"]["seconds"] = ANSWER_S

    def launch(self) -> None:
        """Start it, and do not wait."""
        self.start(waits=False)

    def kill(self) -> None:
        """SIGKILL it with the processes that run its models."""
        self.end()

    def kill_all(self) -> None:
        """The same: nothing else is left of it."""
        self.end()

    def models(self) -> list[int]:
        """Return the processes that run its models."""
        return [pid for pid in members([self.pid]) if _name(pid) == MODEL_PROCESS]


def _name(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
