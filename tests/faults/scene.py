"""One run: what a plan says happens, then all is up again and left to finish."""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from node.account import describe_study
from node.index import Index, sqlite_url
from tests.faults.archive import MortalOrthanc
from tests.faults.engine import MortalTriton
from tests.faults.plan import ARCHIVE, CHILD, ENGINE, MAIN, MODEL, NODE, SENDER, SENDERS, Blow, Plan
from tests.faults.sender import Sender
from tests.faults.studies import Study, write_studies
from tests.faults.warm import Nursery, WarmNode, kill_process
from tests.peers import wait_until
from tests.peers.quick import quick_settings, write_repository
from tests.peers.triton import START_TIMEOUT_S

TICK_S, LOOK_S = 0.005, 0.2
PATIENCE_S = 180.0
GIB = 1 << 30
MARGIN_GIB, FILL_GIB = 3, 5
"""The watermark lies so far below what is free at the start, and so much fills the disk up to it."""
ASSEMBLY = {"quiet_period_s": 0.8, "settle_period_s": 0.2}
RECEIVE = {"processes": 2}
SERVICE_S, MAX_ENDED = 0.5, 20
FINISHED = frozenset({"done", "undeliverable"})


@dataclass
class Scene:
    """All that takes part, and what was done to it; times are seconds since all was up.

    `engine` None is the one in the node.
    """

    plan: Plan
    folder: Path
    studies: list[Study]
    node: WarmNode
    archive: MortalOrthanc
    engine: MortalTriton | None = None
    senders: list[Sender] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _began_at: float = 0.0
    _again: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _look_at_s: float = 0.0
    _ended: int = 0
    _log_offset: int = 0
    _seen: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def now_s(self) -> float:
        """The time since all was up."""
        return time.monotonic() - self._began_at

    def play(self) -> None:
        """Let the blows fall, then wait until everything is finished, or patience is."""
        self._began_at = time.monotonic()
        blows = list(self.plan.blows)
        fill = iter(self._disk())
        while blows or self._again or not self._is_finished():
            if self.now_s > PATIENCE_S:
                self.problems.append(f"not finished within {PATIENCE_S:g} s: {self._unfinished()}")
                return
            self._watch_log()
            blows = [blow for blow in blows if not self._strike(blow)]
            self._start_again()
            self._serve()
            next(fill, None)
            for sender in self.senders:
                sender.step(self.now_s)
            time.sleep(TICK_S)

    # --- blows

    def _strike(self, blow: Blow) -> bool:
        """Let a blow fall if its moment has come."""
        is_aimed = bool(blow.event) and self._seen[blow.event, blow.step] >= blow.count
        if not is_aimed and self.now_s < blow.at_s:
            return False
        hit = {
            NODE: self._kill_node,
            MAIN: self._kill_main,
            CHILD: self._kill_child,
            SENDER: self._kill_sender,
            ARCHIVE: self._kill_archive,
            ENGINE: self._kill_engine,
            MODEL: self._kill_model,
        }[blow.target](blow)
        self.done.append(f"{self.now_s:.3f} s: {blow.target} {'killed' if hit else 'was not there'}")
        return True

    def _kill_node(self, blow: Blow) -> bool:
        return self._kill(blow, self.node.is_alive(), self.node.kill, self.node.launch)

    def _kill_main(self, blow: Blow) -> bool:
        return self._kill(blow, self.node.is_alive(), self.node.kill_main, self.node.launch)

    def _kill_archive(self, blow: Blow) -> bool:
        return self._kill(blow, self.archive.is_alive(), self.archive.kill, self.archive.launch)

    def _kill(self, blow: Blow, is_there: bool, kill: Callable[[], None], launch: Callable[[], None]) -> bool:
        if is_there:
            kill()
            self._again.append((self.now_s + blow.pause_s, launch))
        return is_there

    def _kill_engine(self, blow: Blow) -> bool:
        engine = self.engine
        return engine is not None and self._kill(blow, engine.is_alive(), engine.kill, engine.launch)

    def _kill_model(self, blow: Blow) -> bool:
        return _kill_one(blow, self.engine.models() if self.engine else [])

    def _kill_child(self, blow: Blow) -> bool:
        return _kill_one(blow, self.node.children() if self.node.is_alive() else [])

    def _kill_sender(self, blow: Blow) -> bool:
        return self.senders[int(blow.draw * SENDERS)].kill(self.now_s, blow.pause_s)

    def _start_again(self) -> None:
        due = [launch for at_s, launch in self._again if at_s <= self.now_s]
        self._again = [one for one in self._again if one[0] > self.now_s]
        for launch in due:
            launch()

    def _serve(self) -> None:
        """Start again what ended by itself, as a service manager does; what goes on so is a fault.

        After a kill of the main process alone, its receivers may still hold the port for a moment; Triton
        ends where the process dies that is to run a model.
        """
        for name, one in ((NODE, self.node), (ENGINE, self.engine)):
            if self._again or one is None or one.is_alive():
                continue
            self._ended += 1
            self.done.append(f"{self.now_s:.3f} s: {name} ended by itself")
            if self._ended > MAX_ENDED:
                raise RuntimeError(f"{self._ended} ends without a blow, the last was the {name}'s")
            self._again.append((self.now_s + SERVICE_S, one.launch))

    def _disk(self) -> Iterator[None]:
        """Fill the disk to the watermark for a while, as planned; a step at each call."""
        if not self.plan.full_for_s:
            return
        while self.now_s < self.plan.full_at_s:
            yield
        filler = self.folder / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, FILL_GIB * GIB)
        self.done.append(f"{self.now_s:.3f} s: disk full")
        while self.now_s < self.plan.full_at_s + self.plan.full_for_s:
            yield
        filler.unlink()

    # --- where it stands

    def _watch_log(self) -> None:
        """Count the events of the node's log, those that came since the last look."""
        with suppress(FileNotFoundError), self.node.log_path.open("rb") as file:
            file.seek(self._log_offset)
            lines = file.read().split(b"\n")
            self._log_offset = file.tell() - len(lines[-1])
        for line in lines[:-1]:
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    self._seen[str(record.get("event", "")), str(record.get("step", ""))] += 1

    def _is_finished(self) -> bool:
        """Is all sent and read? The index is asked now and then, for it has other things to do."""
        if self.now_s < self._look_at_s or not all(sender.is_done for sender in self.senders):
            return False
        self._look_at_s = self.now_s + LOOK_S
        return not self._unfinished()

    def _unfinished(self) -> dict[str, str]:
        """Return the studies that are not at their end, and how they stand."""
        with opened(self.node) as index:
            described = {study.uid: describe_study(index, study.uid) for study in self.studies}
        states = {uid: one["state"] if one else "unknown" for uid, one in described.items()}
        return {uid: state for uid, state in states.items() if state not in FINISHED}


def _kill_one(blow: Blow, processes: Sequence[int]) -> bool:
    """SIGKILL one of these, where there is one."""
    if processes:
        kill_process(processes[int(blow.draw * len(processes))])
    return bool(processes)


@contextmanager
def opened(node: WarmNode) -> Iterator[Index]:
    """The index of a node, beside the running node."""
    index = Index(sqlite_url(node.folder / "data" / "index.sqlite"))
    try:
        yield index
    finally:
        index.close()


@contextmanager
def set_scene(plan: Plan, folder: Path, nursery: Nursery) -> Iterator[Scene]:
    """Start all that takes part in a plan; nothing of it is left at the end."""
    studies = write_studies(plan, folder / "studies")
    free_gib = shutil.disk_usage(folder).free / GIB
    watermark = {"max_used_percent": 100, "min_free_gib": max(0.0, free_gib - MARGIN_GIB)}
    with ExitStack() as stack:
        archive = MortalOrthanc(folder / "archive")
        repository = write_repository(folder / "repository")
        settings = quick_settings(repository, archive, **ASSEMBLY)
        settings |= {"workflow": {"workers": 2}, "receive": RECEIVE | (watermark if plan.full_for_s else {})}
        # A report of a commitment that the node was not there to take is not waited for.
        settings["destinations"]["pacs"]["confirm_timeout_s"] = 2
        engine = MortalTriton(folder, repository) if plan.on_triton else None
        if engine:
            engine.configure(settings)
        node = WarmNode(folder / "node", settings, nursery)
        archive.peers = {"node": (node.ae_title, node.host, node.port)}
        for one in filter(None, (archive, engine, node)):
            stack.callback(one.kill_all)
            one.launch()
        wait_until(lambda: archive.answers() and node.is_ready(), "archive and node are ready", 60, 0.02)
        if engine:
            wait_until(engine.is_ready, "Triton is ready", START_TIMEOUT_S, 0.02)
        scene = Scene(plan, folder, studies, node, archive, engine)
        scene.senders = list(_senders(studies, node, is_compressed=plan.is_compressed))
        for sender in scene.senders:
            stack.callback(sender.close)
        yield scene


def _senders(studies: Sequence[Study], node: WarmNode, *, is_compressed: bool) -> Iterator[Sender]:
    for number in range(SENDERS):
        own = [study for study in studies if study.plan.sender == number]
        yield Sender(own, node, is_compressed=is_compressed)
