"""The outbox: what waits for each destination goes out in its order, and is confirmed.

One thread for each destination, so that none waits for another. A thread keeps nothing: the rows of the index
are the truth, and each answer of an archive is noted in one transaction. Cut off at any moment, it goes on at
the next start; what was sent and not noted is sent again, which archives take for what it is.
"""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from node.backoff import FIRST_RETRY_S, retry_delay_s
from node.deliver.confirmation import UNCONFIRMED, Confirmation, Confirmer
from node.domain.delivery import Reception
from node.index import DELIVERED, PENDING, UNDELIVERABLE, WITHDRAWN, Delivery, Index
from node.interfaces import Destination
from node.telemetry import Metrics

# Within this time a command is noticed that paused, resumed, or asked for another try.
LONGEST_SLEEP_S = 0.5
# The objects of one association: enough to pay for it, few enough that one with priority waits not long.
BATCH = 50
# After so many, what was sent is asked about, however much more waits.
MAX_IN_A_ROW = 10

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Outlet:
    """What the configuration says of a destination: its implementation, how often to try, how to confirm."""

    destination: Destination
    max_attempts: int
    confirmation: Confirmation = UNCONFIRMED


class Outbox:
    """Sends what the index says is waiting, to each destination in a thread of its own."""

    def __init__(self, index: Index, outlets: Mapping[str, Outlet], metrics: Metrics) -> None:
        self._index = index
        self._workers = [_Worker(name, outlet, index, metrics) for name, outlet in outlets.items()]

    def start(self) -> None:
        """Take up what was left, and work."""
        for worker in self._workers:
            worker.start()

    def wake(self) -> None:
        """Have every destination look at once for something new."""
        for worker in self._workers:
            worker.wake()

    def stop(self, drain_s: float) -> None:
        """Send nothing new, and wait so long for what is under way; the rest goes at the next start."""
        deadline = time.monotonic() + drain_s
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))


class _Worker(threading.Thread):
    """The thread of one destination."""

    def __init__(self, name: str, outlet: Outlet, index: Index, metrics: Metrics) -> None:
        super().__init__(name=f"outbox-{name}", daemon=True)
        self._destination = name
        self._outlet = outlet
        self._index = index
        self._metrics = metrics
        self._in_a_row = 0
        self._woken = threading.Event()
        self._ended = threading.Event()
        self._confirmer = Confirmer(
            name, outlet.destination, outlet.confirmation, index, is_needed_elsewhere=self._is_called
        )

    def wake(self) -> None:
        self._woken.set()

    def end(self) -> None:
        self._ended.set()
        self._woken.set()

    def run(self) -> None:
        while not self._ended.is_set():
            self._woken.clear()
            try:
                pause_s = self._turn()
            except Exception:  # the thread must outlive whatever broke
                log.exception("outbox_failed", destination=self._destination)
                pause_s = FIRST_RETRY_S
            self._woken.wait(pause_s)

    def _is_called(self) -> bool:
        return self._woken.is_set()

    def _turn(self) -> float:
        """Do the next thing for this destination; return for how long there may be none."""
        line = self._index.line(self._destination)
        blocked_s = line["blocked_until"] - time.time()
        if line["is_paused"] or blocked_s > 0:
            return LONGEST_SLEEP_S if line["is_paused"] else min(blocked_s, LONGEST_SLEEP_S)
        if self._in_a_row < MAX_IN_A_ROW and (batch := self._index.waiting(self._destination, BATCH)):
            self._in_a_row += 1
            self._send(batch, line["failures"])
            return 0.0
        self._in_a_row = 0
        if unconfirmed := self._index.unconfirmed(self._destination, self._confirmer.limit):
            self._confirmer.confirm(unconfirmed)
            return 0.0
        due_at = self._index.next_due_at(self._destination)
        return LONGEST_SLEEP_S if due_at is None else min(LONGEST_SLEEP_S, max(0.01, due_at - time.time()))

    # --- sending

    def _send(self, batch: Sequence[Delivery], failures: int) -> None:
        # What an archive accepts each time, and then does not keep, comes back as often.
        for one in (one for one in batch if one.attempts >= self._outlet.max_attempts):
            self._give_up(one, f"gave up after {one.attempts} attempts: {one.detail}")
        batch = [one for one in batch if one.attempts < self._outlet.max_attempts]
        if not batch:
            return
        uids = [one.uid for one in batch]
        self._index.count_attempt(uids, self._destination)
        receipts = self._outlet.destination.deliver([one.path for one in batch])
        by_reception: dict[Reception, list[tuple[Delivery, str]]] = {one: [] for one in Reception}
        for one, receipt in zip(batch, receipts, strict=True):
            by_reception[receipt.reception].append((one, receipt.reason))
        for reception, several in by_reception.items():
            self._metrics.delivery_attempts.labels(self._destination, reception.value).inc(len(several))
        self._note_accepted([one for one, _ in by_reception[Reception.ACCEPTED]])
        for one, reason in by_reception[Reception.REFUSED]:
            self._give_up(one, reason)
        postponed = by_reception[Reception.POSTPONED]
        is_lost = len(postponed) == len(batch)
        for one, reason in postponed:
            self._postpone(one, reason, at_once=is_lost)
        self._note_line(postponed[0][1] if is_lost else "", failures)

    def _note_accepted(self, accepted: Sequence[Delivery]) -> None:
        if not accepted:
            return
        columns = self._confirmer.first_step()
        uids = [one.uid for one in accepted]
        # It may have been taken back meanwhile, but the archive has it.
        unconfirmed = (PENDING, UNDELIVERABLE, WITHDRAWN)
        self._index.record_delivery(uids, self._destination, DELIVERED, among=unconfirmed, **columns)
        self._metrics.objects_delivered.labels(self._destination, DELIVERED).inc(len(accepted))
        log.info("objects_delivered", destination=self._destination, objects=len(accepted))
        self._tell("objects_delivered", accepted)

    def _give_up(self, one: Delivery, reason: str) -> None:
        """Put an object among the dead letters; the reason may quote the archive, so no log has it."""
        self._index.record_delivery([one.uid], self._destination, UNDELIVERABLE, reason, among=[PENDING])
        self._metrics.objects_delivered.labels(self._destination, UNDELIVERABLE).inc()
        log.warning("object_undeliverable", destination=self._destination, sop_instance_uid=one.uid)
        self._tell("objects_undeliverable", [one])

    def _postpone(self, one: Delivery, reason: str, *, at_once: bool) -> None:
        """Have an object tried again: with all that waits, as soon as its archive is, or by itself later."""
        attempts = one.attempts + 1
        if attempts >= self._outlet.max_attempts:
            self._give_up(one, f"gave up after {attempts} attempts: {reason}")
            return
        due_at = time.time() + (0.0 if at_once else retry_delay_s(attempts))
        self._index.record_delivery(
            [one.uid], self._destination, PENDING, reason, among=[PENDING], due_at=due_at
        )

    def _note_line(self, failure: str, failures: int) -> None:
        """Keep quiet for a while after a failure, longer each time, and so keep the order of what waits."""
        if not failure:
            columns = {"failures": 0, "blocked_until": 0.0, "last_error": "", "last_success_at": time.time()}
            self._index.record_line(self._destination, **columns)
            return
        delay_s = retry_delay_s(failures + 1)
        log.warning("delivery_postponed", destination=self._destination, retry_in_s=delay_s)
        self._index.record_line(
            self._destination,
            failures=failures + 1,
            blocked_until=time.time() + delay_s,
            last_error=failure,
        )

    def _tell(self, event: str, deliveries: Iterable[Delivery]) -> None:
        """Add to the story of each study."""
        counts: dict[str, int] = {}
        for one in deliveries:
            uid = one.reference.study_instance_uid
            counts[uid] = counts.get(uid, 0) + 1
        for uid, number in counts.items():
            self._index.record_event(uid, event, {"destination": self._destination, "objects": number})
