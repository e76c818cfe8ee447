"""Watches the open studies. What was decided too early mends itself: a late instance re-opens its study."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import structlog

from node.assembly.asking import Archive, Asker
from node.assembly.evidence import Evidence, Look, Patience, find_evidence
from node.assembly.fullness import fullness
from node.domain.study import PROJECTION_MODALITIES, Instance
from node.index import Index, OpenStudy
from node.read.extent import Extent, read_extent

LONGEST_WAIT_S = 0.5
LULL_S = 0.5
"""No archive is asked about a study of which an instance came within so long, unless it was released."""
MAX_TOLD = 3
"""Of so many series it is told what each has, of more how many they are."""

log = structlog.get_logger()

OnComplete = Callable[[OpenStudy, Evidence], None]


class QuietPeriods(Protocol):
    """The quiet periods of studies whose pipelines have periods of their own; `shortest_s` is of any."""

    shortest_s: float

    def period_s(self, study_instance_uid: str) -> float:
        """Return the period of a study by what is here of it."""


@dataclass(frozen=True, slots=True)
class _Ends:
    """When associations that brought a study ended last, in good order and not; seconds since the epoch."""

    released_at: float = 0.0
    aborted_at: float = 0.0


class Assembler:
    """Watches the open studies and tells of each one that is complete.

    `quiet` overrides the quiet period of `patience`. `archive` is asked how many instances there are.
    `on_complete` may be told twice of the same state.
    """

    def __init__(
        self,
        index: Index,
        patience: Patience,
        on_complete: OnComplete,
        *,
        quiet: QuietPeriods | None = None,
        archive: Archive | None = None,
    ) -> None:
        self._index = index
        self._patience = patience
        self._on_complete = on_complete
        self._quiet = quiet
        self._asker = Asker(archive, index, self._wake_up) if archive else None
        self._ends: dict[str, _Ends] = {}
        self._extents: dict[str, dict[Path, Extent | None]] = {}
        self._full: dict[OpenStudy, str | None] = {}
        self._periods: dict[OpenStudy, float] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="assembler", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        if self._asker:
            self._asker.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; open studies stay open in the index."""
        self._is_stopping.set()
        self._wake.set()
        if self._asker:
            self._asker.stop()
        if self._thread.is_alive():
            self._thread.join()

    def note_end(self, study_instance_uids: frozenset[str], *, is_released: bool) -> None:
        """Note that an association which brought these studies ended: in good order, or broken off."""
        now = time.time()
        changes = {"released_at": now} if is_released else {"aborted_at": now}
        with self._lock:
            for uid in study_instance_uids:
                self._ends[uid] = replace(self._ends.get(uid, _Ends()), **changes)
        self._wake.set()

    def _wake_up(self) -> None:
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
        studies = self._index.open_studies()
        self._forget_others(studies)
        for study in studies:
            if evidence := self._evidence(study):
                self._on_complete(study, evidence)

    def _evidence(self, study: OpenStudy) -> Evidence | None:
        uid = study.study_instance_uid
        with self._lock:
            ends = self._ends.get(uid, _Ends())
        quiet_s = time.time() - study.last_received_at
        is_released = ends.released_at >= max(study.last_received_at, ends.aborted_at)
        look = Look(study, quiet_s, is_released, has_archive=self._asker is not None)
        if self._asker and not study.is_retry and (is_released or quiet_s >= LULL_S):
            look = replace(look, answer=self._asker.ask(uid, study.last_received_at))
        return find_evidence(
            look,
            replace(self._patience, quiet_s=self._period_s(study, quiet_s)),
            count_here=lambda: self._index.count_instances(uid),
            find_full=lambda: self._find_full(study),
        )

    def _period_s(self, study: OpenStudy, quiet_s: float) -> float:
        """Return the quiet period of a study; its headers are read only once it could be over."""
        if self._quiet is None or quiet_s < self._quiet.shortest_s:
            return self._patience.quiet_s if self._quiet is None else math.inf
        if study not in self._periods:
            self._periods[study] = self._quiet.period_s(study.study_instance_uid)
        return self._periods[study]

    def _forget_others(self, studies: Sequence[OpenStudy]) -> None:
        """Keep nothing of studies that are no longer open, but what may have come just before they are."""
        uids = {study.study_instance_uid for study in studies}
        recently = time.time() - self._patience.longest_s
        with self._lock:
            self._ends = {
                uid: ends
                for uid, ends in self._ends.items()
                if uid in uids or max(ends.released_at, ends.aborted_at) > recently
            }
        unchanged = set(studies)
        self._full = {study: words for study, words in self._full.items() if study in unchanged}
        self._periods = {study: period for study, period in self._periods.items() if study in unchanged}
        self._extents = {uid: extents for uid, extents in self._extents.items() if uid in uids}
        if self._asker:
            self._asker.forget(uids)

    # --- what the headers say

    def _find_full(self, study: OpenStudy) -> str | None:
        """Return of what every series of a study is full; None where one may lack something."""
        if study not in self._full:
            self._full[study] = self._read_full(study)
        return self._full[study]

    def _read_full(self, study: OpenStudy) -> str | None:
        latest = {one.sop_instance_uid: one for one in self._index.instances(study.study_instance_uid)}
        by_series: dict[str, list[Instance]] = {}
        for one in latest.values():
            by_series.setdefault(one.series_instance_uid, []).append(one)
        words = [self._fullness(members) for members in by_series.values()]
        if any(one is None for one in words):
            return None
        told = sorted(one for one in words if one)
        return "; ".join(told) if len(told) <= MAX_TOLD else f"{len(told)} series, {len(latest)} instances"

    def _fullness(self, members: Sequence[Instance]) -> str | None:
        modality = members[0].modality
        if modality in PROJECTION_MODALITIES:
            return ""
        return fullness(modality, [self._extent(one) for one in members])

    def _extent(self, instance: Instance) -> Extent | None:
        known = self._extents.setdefault(instance.study_instance_uid, {})
        if instance.path not in known:
            try:
                known[instance.path] = read_extent(instance.path)
            except OSError as fault:
                uid, error = instance.sop_instance_uid, type(fault).__name__
                log.warning("extent_unreadable", sop_instance_uid=uid, error=error)
                return None
        return known[instance.path]
