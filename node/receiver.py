"""The receiver: the listener that the configuration asks for, in the node's process or in one of its own."""

import socket
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydicom import config

from node.deliver.confirmation import note_report
from node.index import Index, open_index
from node.journal import BATCH_BYTES
from node.receive.commitment import CommitmentDesk
from node.receive.dimse import DimseListener, Extras
from node.receive.notes import Notes
from node.receive.processes import ReceiverProcesses, Teller, end_now
from node.receive.settings import ApplicationEntity, DimseListenerSettings
from node.settings import Configuration, LogSettings, ReceiveSettings
from node.storage import Storage, Watermark
from node.telemetry import configure_logging
from node.tls import CurrentContext, server_context

MIB, GIB = 1 << 20, 1 << 30
SEGMENTS = 8
STOP_SPARE_S = 10.0
ASSOCIATIONS = "associations"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a receiver process is told."""

    name: str
    data: Path
    receive: ReceiveSettings
    log: LogSettings


def build_storage(data: Path, receive: ReceiveSettings) -> Storage:
    """Return the spool with the limits of the configuration."""
    watermark = Watermark(receive.max_used_percent, int(receive.min_free_gib * GIB))
    return Storage(data, watermark) if receive.sync else Storage(data, watermark, sync=_leave_unsynced)


def open_journal(storage: Storage, receive: ReceiveSettings, name: str) -> None:
    """Open the journal of one process, where the configuration wants any."""
    if receive.sync and receive.journal_mib:
        share = receive.journal_mib * MIB // max(1, receive.processes)
        storage.open_journal(name, max(BATCH_BYTES, share // SEGMENTS))


def listener_settings(receive: ReceiveSettings) -> DimseListenerSettings:
    """Return what a listener is told."""
    entities = tuple(
        ApplicationEntity(
            title,
            frozenset(() if "*" in entity.allow_callers else entity.allow_callers),
            entity.max_associations,
        )
        for title, entity in receive.application_entities.items()
    )
    return DimseListenerSettings(
        application_entities=entities,
        host=receive.host,
        port=receive.port,
        allowed_hosts=receive.allow_hosts,
        max_associations=receive.max_associations,
        max_associations_per_caller=receive.max_associations_per_caller,
        max_pdu_bytes=receive.max_pdu_bytes,
        max_instance_bytes=receive.max_instance_mib * MIB,
        idle_timeout_s=receive.idle_timeout_s,
        read_timeout_s=receive.read_timeout_s,
        min_bytes_per_s=receive.min_bytes_per_s,
        accept_private_classes=receive.accept_private_classes,
    )


def _leave_unsynced(_descriptor: int) -> None:
    """Do nothing: for measuring only."""


def build_extras(
    receive: ReceiveSettings,
    index: Index,
    *,
    bound: socket.socket | None = None,
    associations: Path | None = None,
) -> Extras:
    """Return what a listener has besides storing: storage commitment over the index, and TLS."""
    desk = CommitmentDesk(index, receive.commitment_peers, partial(note_report, index))
    tls = CurrentContext(receive.tls, server_context) if receive.tls else None
    return Extras(commitment=desk, tls=tls, bound=bound, associations=associations)


def build_receiver(
    configuration: Configuration, storage: Storage, index: Index, notes: Notes
) -> "LocalReceiver | ReceiverProcesses":
    """Return the listener of a node."""
    receive = configuration.receive
    if not receive.processes:
        return LocalReceiver(receive, storage, index, notes)
    plans = [
        Plan(str(number), storage.root, receive, configuration.log) for number in range(receive.processes)
    ]
    settings = listener_settings(receive)
    return ReceiverProcesses(
        "node.receiver",
        plans,
        (receive.host, receive.port),
        storage,
        notes,
        stop_timeout_s=settings.drain_timeout_s + settings.read_timeout_s + STOP_SPARE_S,
    )


class LocalReceiver:
    """The listener and its journal, in this process."""

    def __init__(self, receive: ReceiveSettings, storage: Storage, index: Index, notes: Notes) -> None:
        self._receive, self._storage = receive, storage
        self._listener = DimseListener(
            listener_settings(receive),
            storage,
            on_stored=lambda stored: notes.on_stored([stored]),
            on_refused=notes.on_refused,
            on_release=notes.on_release,
            extras=build_extras(receive, index),
        )

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return self._listener.port

    def start(self) -> None:
        """Listen; raises ConfigurationError where the port cannot be had."""
        open_journal(self._storage, self._receive, "node")
        self._listener.start()

    def stop(self) -> None:
        """Take no new association, let the open ones finish for a while."""
        self._listener.stop()
        self._storage.close_journal()


def main() -> None:
    """Receive for the node that started this process, until it says stop, or is dead."""
    teller = Teller(socket.socket(fileno=int(sys.argv[1])))
    plan: Plan = teller.receive_plan()
    # A sender proposes a hundred classes: pydicom's look at the characters of each UID is a third of the work
    # of an association, and what it finds it would only warn of.
    config.settings.reading_validation_mode = config.IGNORE
    configure_logging(plan.log.level, Path(plan.log.path) if plan.log.path else None)
    storage = build_storage(plan.data, plan.receive)
    open_journal(storage, plan.receive, plan.name)
    index = open_index(plan.data)
    if listening := teller.receive_listening():
        listener = DimseListener(
            listener_settings(plan.receive),
            storage,
            on_stored=teller.tell_stored,
            on_refused=teller.tell_refused,
            on_release=teller.tell_ended,
            extras=build_extras(plan.receive, index, bound=listening, associations=plan.data / ASSOCIATIONS),
        )
        listener.start()
        teller.tell(event="listening")
        if not teller.wait_for_stop():
            # Nobody would learn of what is stored; what was acknowledged is found at the next start.
            end_now()
        listener.stop()
    storage.close_journal()
    teller.finish()
    index.close()


if __name__ == "__main__":
    main()
