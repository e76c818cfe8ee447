"""One study by the node, stage by stage, again and again; `latency.py` starts it as a process."""

import json
import logging
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import structlog

import node.pipelines.chest_ct
from node.bench.clock import Clock
from node.bench.memory import peak
from node.bench.plain_store import AE_TITLE
from node.bench.relayed import Answers, RelayedEngine
from node.deliver.dimse import DimseDestination
from node.domain.delivery import Reception
from node.domain.findings import Findings, Priority
from node.domain.profile import Kind, Profile
from node.domain.study import Instance, Series
from node.encode import EncodingContext, warm_up
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.errors import ConformanceError, DestinationUnreachableError
from node.header import read_file_meta, read_identifiers
from node.interfaces import Arrays, Engine
from node.objects import make_objects
from node.pipelines.chest_ct import ChestCt
from node.read.header import read_attributes
from node.read.volume import read_volume
from node.results import load_findings, save_findings

PROFILE = Profile(kinds=(Kind.LESIONS_SR, Kind.SEGMENTATION))
"""What the peer makes too."""


class ReplayedEngine(RelayedEngine):
    """An engine whose answers of the first study are kept: later ones, the same, are spared the networks."""

    def __init__(self, engine: Engine, clock: Callable[[], Clock]) -> None:
        super().__init__(engine)
        self._clock = clock
        self._kept: list[Answers] = []
        self._next: int | None = None

    def replay(self) -> None:
        """Give the answers that were kept, from the first on."""
        self._next = 0

    def infer(self, model: str, inputs: Arrays) -> Answers:
        """Return what the model answers, or answered in the first study."""
        with self._clock().stage("inference"):
            if self._next is not None:
                self._next += 1
                return self._kept[self._next - 1]
            self._kept.append(self._engine.infer(model, inputs))
            return self._kept[-1]


class Study:
    """The study, and what it takes to work on it again and again."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.clock = Clock()
        self._paths = sorted(Path(plan["folder"]).glob("*"))
        self._series = received(self._paths)
        engine = OnnxEngine(ModelRepository(Path(plan["repository"])), plan["threads"])
        self.engine = ReplayedEngine(engine, lambda: self.clock)
        self._destination = DimseDestination(
            name="bench", host="127.0.0.1", port=plan["port"], ae_title=AE_TITLE
        )
        # The stage that is inside the pipeline is timed where it is called, in this process alone.
        names = vars(node.pipelines.chest_ct)
        names["read_volume"] = self._timed("read", read_volume)
        warm_up()

    def run(self, folder: Path) -> dict[str, Any]:
        """Return the seconds of each stage, and what was found."""
        self.clock = Clock()
        with self.clock.stage("headers"):
            series = replace(self._series, attributes=read_attributes(self._series.instances))
        with self.clock.stage("prepare and interpret"):
            findings = ChestCt().analyze(series, self.engine)
        with self.clock.stage("keep"):
            findings = load_findings(save_findings(folder, findings))
        with self.clock.stage("encode"):
            paths = self._objects(folder / "objects", findings)
        with self.clock.stage("send"):
            for receipt in self._destination.deliver(paths):
                if receipt.reception is not Reception.ACCEPTED:
                    raise DestinationUnreachableError("bench", receipt.reason)
        self.engine.replay()
        return {
            "seconds": self.clock.seconds,
            "found": len(findings.regions),
            "objects": len(paths),
            "peak_memory_bytes": peak(),
        }

    def _objects(self, folder: Path, findings: Findings) -> list[Path]:
        context = EncodingContext(folder.parent.name, datetime.now(UTC), Priority.ROUTINE)
        made = make_objects(folder, findings, self._paths, context=context, profiles=[PROFILE])
        for one in made.quarantined:
            raise ConformanceError(one.object.sop_instance_uid, "; ".join(map(str, one.violations)))
        return [one.path for one in made.objects]

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*arguments: Any) -> Any:
            with self.clock.stage(name):
                return function(*arguments)

        return timed


def received(paths: list[Path]) -> Series:
    """Return the files as the series that the node knows them as once they are received."""
    instances = []
    for path in paths:
        with path.open("rb") as file:
            syntax = read_file_meta(file).transfer_syntax_uid
            own = read_identifiers(file, syntax, path.name)
        uids = own.study_instance_uid, own.series_instance_uid, own.sop_instance_uid, own.sop_class_uid
        instances.append(Instance(*uids, syntax, own.modality, path, ""))
    return Series(instances[0].study_instance_uid, instances[0].series_instance_uid, tuple(instances), {})


def serve(run: Callable[[Path], dict[str, Any]]) -> None:
    """Run the study for every line that comes in, and answer each with one."""
    answers = sys.stdout
    for _ in sys.stdin:
        with TemporaryDirectory(prefix="sightline-bench-") as folder, redirect_stdout(sys.stderr):
            result = run(Path(folder))
        answers.write(json.dumps(result) + "\n")
        answers.flush()


if __name__ == "__main__":
    # What is delivered is told of in the figures.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    serve(Study(json.loads(sys.argv[1])).run)
