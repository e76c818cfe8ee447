"""The target that is a listener: recorded conversations of a real sender, spoiled, over a real socket."""

import re
import socket
import struct
import threading
from contextlib import ExitStack
from pathlib import Path
from random import Random

from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from structlog.testing import capture_logs

from node.journal import BATCH_BYTES
from node.storage import Storage
from tests.doors import ANY_DISK, SIGHTLINE, opening
from tests.fuzz.mutation import mutate
from tests.fuzz.seeds import Seed
from tests.fuzz.values import rename, spoil_dataset
from tests.instances import CT, EXPLICIT, IMPLICIT, encode_dataset, write_instance
from tests.peers import LOOPBACK, wait_until

NAME = re.compile(r"journal/fuzz/\d+\.segment|instances/[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+\.dcm")
ANSWER_S = 0.05
SEPARATOR = b"-PDU-"
ASSOCIATE_RQ, ASSOCIATE_AC, P_DATA = b"\1", b"\2", b"\4"
PDU_HEAD_BYTES, ITEM_HEAD_BYTES = 6, 6
# Where a path that climbs would come out is watched too.
DEPTH = "a/b/c/d/spool"
CLIMBING = (b"..", b".", b"../../../out", b"../../../../../out", b"1.2/../../3", b"1.2\\..\\3", b"CON")


class Receiver:
    """A listener with short patience over a spool of its own; `close` ends it."""

    def __init__(self, _seeds: list[Seed], folder: Path) -> None:
        self._stack, self._watched = ExitStack(), folder / "receiver"
        self._folder = self._watched / DEPTH
        self._names = (*CLIMBING, str(self._watched / "out").encode())
        # An association that fails in a way that nobody thought of is only logged.
        self._logs = self._stack.enter_context(capture_logs())
        storage = Storage(self._folder / "data", ANY_DISK)
        storage.open_journal("fuzz", BATCH_BYTES)
        self._stack.callback(storage.close_journal)
        open_door = self._stack.enter_context(opening(self._folder))
        self._door = open_door(storage, read_timeout_s=0.3, idle_timeout_s=0.5, max_associations=64)
        path = write_instance(folder / "good.dcm", encode_dataset(pixels=bytes(3000)))
        self._store, self._echo = _record(self._door.port, path), _record(self._door.port, None)
        self._faults: list[str] = []
        self._old_hook, threading.excepthook = threading.excepthook, self._note

    def close(self) -> None:
        threading.excepthook = self._old_hook
        self._stack.close()

    def make(self, rng: Random) -> bytes:
        pdus = list(rng.choice((self._store, self._store, self._echo)))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            # An association that does not come about has nothing to say: most changes come after it.
            spoken = [index for index, pdu in enumerate(pdus) if pdu[:1] == P_DATA]
            number = rng.choice(spoken) if spoken and rng.random() < 0.7 else rng.randrange(len(pdus))
            way = rng.random()
            if way < 0.8:
                pdus[number] = self._spoiled(rng, pdus[number])
            elif way < 0.85 and len(pdus) > 1:
                del pdus[number]
            elif way < 0.9:
                pdus.insert(rng.randrange(len(pdus) + 1), pdus[number])
            else:
                pdus.insert(number, bytes([rng.randrange(10)]) + rng.randbytes(rng.randrange(40)))
        return SEPARATOR.join(pdus)

    def _spoiled(self, rng: Random, pdu: bytes) -> bytes:
        """A PDU whose inside is changed, lengths put right in most of them, so that the inside is read."""
        is_whole = pdu[:1] == P_DATA and len(pdu) > PDU_HEAD_BYTES + ITEM_HEAD_BYTES
        if is_whole and rng.random() < 0.7:
            return self._misspoken(rng, pdu)
        changed = mutate(rng, pdu[6:]) if rng.random() < 0.8 else mutate(rng, pdu)[6:]
        length = len(changed) if rng.random() < 0.6 else rng.choice((0, 3, len(changed) + 9, 0xFFFFFFFF))
        return pdu[:2] + struct.pack(">L", length) + changed

    def _misspoken(self, rng: Random, pdu: bytes) -> bytes:
        """A P-DATA PDU whose command set or data set says something else; its lengths are true."""
        body = pdu[PDU_HEAD_BYTES + ITEM_HEAD_BYTES :]
        context_id, control = pdu[PDU_HEAD_BYTES + 4 : PDU_HEAD_BYTES + ITEM_HEAD_BYTES]
        is_command = bool(control & 1)
        if not is_command and rng.random() < 0.5:
            changed = rename(rng, body, self._names)
        else:
            changed = spoil_dataset(rng, body, IMPLICIT if is_command else EXPLICIT)
        item = struct.pack(">LBB", len(changed) + 2, context_id, control) + changed
        return pdu[:2] + struct.pack(">L", len(item)) + item

    def attempt(self, data: bytes, rng: Random) -> None:
        self._play(data.split(SEPARATOR), rng)
        if rng.random() < 0.2:
            self._check()

    def _play(self, pdus: list[bytes], rng: Random) -> None:
        try:
            with socket.create_connection((LOOPBACK, self._door.port), timeout=2) as connection:
                for pdu in pdus:
                    connection.sendall(pdu)
                    if pdu[:1] == ASSOCIATE_RQ:
                        _listen(connection)
                _listen(connection)
                if rng.random() < 0.3:  # a reset, not an end
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        except OSError:
            pass  # the node may hang up whenever it likes

    def _check(self) -> None:
        assert self._answers(), "the listener does not answer a C-ECHO"
        wait_until(
            lambda: not list((self._folder / "data" / "incoming").iterdir()), "nothing half-written", 5
        )
        strays = strays_in(self._watched, self._folder / "data")
        assert not strays, f"files in odd places: {strays[:3]}"
        faults, self._faults[:] = list(self._faults), []
        assert not faults, f"in a thread: {faults[0]}"
        errors = [one["event"] for one in self._logs if one["log_level"] in ("error", "critical")]
        self._logs.clear()
        assert not errors, f"in the log: {errors[0]}"
        wait_until(lambda: threading.active_count() < 40, "threads end", 10)

    def _answers(self) -> bool:
        """Does it still answer a C-ECHO?"""
        with socket.create_connection((LOOPBACK, self._door.port), timeout=5) as connection:
            connection.sendall(self._echo[0])
            is_accepted = _listen(connection, 5)[:1] == ASSOCIATE_AC
            connection.sendall(b"".join(self._echo[1:-1]))
            answers = is_accepted and _listen(connection, 5)[:1] == P_DATA
            connection.sendall(self._echo[-1])
            _listen(connection, 5)
        return answers

    def _note(self, fault: threading.ExceptHookArgs) -> None:
        self._faults.append(f"{fault.exc_type.__name__}: {fault.exc_value}")


def strays_in(watched: Path, data: Path) -> list[str]:
    """The files in a folder that are neither instances of a spool in it nor its journal."""
    files = [one for one in watched.rglob("*") if one.is_file()]
    names = [str(one.relative_to(data)) if one.is_relative_to(data) else str(one) for one in files]
    return [name for name in names if not NAME.fullmatch(name)]


def _listen(connection: socket.socket, patience_s: float = ANSWER_S) -> bytes:
    connection.settimeout(patience_s)
    try:
        return connection.recv(65536)
    except TimeoutError:
        return b""
    finally:
        connection.settimeout(2)


def _record(port: int, path: Path | None) -> list[bytes]:
    """The PDUs that stock pynetdicom sends to store a file, or for an echo."""
    sent: list[bytes] = []
    entity = AE("FUZZ")
    handlers = [(evt.EVT_DATA_SENT, lambda event: sent.append(bytes(event.data)))]
    contexts = [build_context(CT, EXPLICIT), build_context(Verification)]
    association = entity.associate(LOOPBACK, port, contexts, SIGHTLINE, evt_handlers=handlers)
    assert association.is_established
    if path:
        association.send_c_store(path)
    else:
        association.send_c_echo()
    association.release()
    return sent
