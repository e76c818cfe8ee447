"""A modality that sends its studies in turn, and again what was not answered, until all was taken."""

from collections.abc import Sequence
from pathlib import Path

from tests.faults.studies import Study
from tests.peers import dcmtk
from tests.peers.node import Node

AGAIN_S = 0.2
# A node that lets it wait is called again, as modalities do; +- compressed or not, as the files are.
OPTIONS = ("-to", "5", "-ta", "20", "-td", "20")
COMPRESSED = ("-xv",)


class Sender:
    """One of the senders: a process at a time, `storescu` on one association with the rest of one batch."""

    def __init__(self, studies: Sequence[Study], node: Node, *, is_compressed: bool) -> None:
        self._batches = [(study.plan.begins_at_s, batch) for study in studies for batch in study.batches]
        self._batches.sort(key=lambda one: one[0])
        self._node = node
        self._is_compressed = is_compressed
        self._modality: dcmtk.Modality | None = None
        self._not_before_s = 0.0
        self.acknowledged: set[Path] = set()

    @property
    def is_done(self) -> bool:
        """Was everything answered 0x0000?"""
        return self._modality is None and not self._batches

    def step(self, now_s: float) -> None:
        """Note what was answered, and go on with what is due; returns at once."""
        if self._modality is not None:
            if not self._modality.has_ended():
                return
            self._finish(now_s)
        if self._batches and now_s >= max(self._not_before_s, self._batches[0][0]):
            self._begin()

    def kill(self, now_s: float, pause_s: float) -> bool:
        """SIGKILL the process, where there is one; what it had read of answers counts."""
        if self._modality is None:
            return False
        self._modality.kill()
        self._finish(now_s)
        self._not_before_s = now_s + pause_s
        return True

    def close(self) -> None:
        """End it for good."""
        if self._modality is not None:
            self._modality.__exit__()

    def _begin(self) -> None:
        files = self._rest()
        options = (*OPTIONS, *(COMPRESSED if self._is_compressed and _is_radiograph(files) else ()))
        self._modality = dcmtk.Modality(files, self._node.port, called=self._node.ae_title, options=options)

    def _rest(self) -> list[Path]:
        return [path for path in self._batches[0][1] if path not in self.acknowledged]

    def _finish(self, now_s: float) -> None:
        assert self._modality is not None
        with self._modality as modality:
            self.acknowledged |= set(modality.wait().stored)
        self._modality = None
        if self._rest():
            self._not_before_s = now_s + AGAIN_S
        else:
            del self._batches[0]


def _is_radiograph(files: Sequence[Path]) -> bool:
    return len(files) <= 2
