"""When a study is complete, and on what evidence.

Evidence, best first: the association was released and the study holds projections only, each whole by itself;
nothing came for the quiet period. What was decided too early mends itself: a late instance re-opens
its study.
"""

import threading
import time
from collections.abc import Callable

import structlog

from node.domain.study import PROJECTION_MODALITIES
from node.index import Index, OpenStudy

RELEASED, QUIET, ASKED_FOR = "association_released", "quiet_period", "retry_requested"
LONGEST_WAIT_S = 0.5

log = structlog.get_logger()


def completeness(study: OpenStudy, *, is_released: bool, quiet_s: float, quiet_period_s: float) -> str | None:
    """Return the evidence that a study is complete, or None while there is none."""
    if study.is_retry:
        return ASKED_FOR
    if is_released and study.modalities <= PROJECTION_MODALITIES:
        return RELEASED
    return QUIET if quiet_s >= quiet_period_s else None


class Assembler:
    """Watches the open studies and tells of each one that is complete."""

    def __init__(
        self, index: Index, quiet_period_s: float, on_complete: Callable[[OpenStudy, str], None]
    ) -> None:
        """Tell `on_complete` of each study and its evidence; it may be told twice of the same state."""
        self._index = index
        self._quiet_period_s = quiet_period_s
        self._on_complete = on_complete
        self._released: set[str] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="assembler", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; open studies stay open in the index."""
        self._is_stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def note_release(self, study_instance_uids: frozenset[str]) -> None:
        """Note that an association which brought these studies was released in good order."""
        with self._lock:
            self._released |= study_instance_uids
        self._wake.set()

    def _watch(self) -> None:
        while not self._is_stopping.is_set():
            self._wake.clear()
            try:
                self.assemble()
            except Exception:  # the watch must outlive one bad round: every open study hangs on it
                log.exception("assembly_round_failed")
            self._wake.wait(LONGEST_WAIT_S)

    def assemble(self) -> None:
        """Look once at each open study, and pass on those that are complete."""
        now = time.time()
        with self._lock:
            released = set(self._released)
        for study in self._index.open_studies():
            uid = study.study_instance_uid
            evidence = completeness(
                study,
                is_released=uid in released,
                quiet_s=now - study.last_received_at,
                quiet_period_s=self._quiet_period_s,
            )
            if evidence:
                with self._lock:
                    self._released.discard(uid)
                self._on_complete(study, evidence)
