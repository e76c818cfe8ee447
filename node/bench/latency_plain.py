"""One study by the plain script, as often as asked, in a process of its own; `latency.py` starts it."""

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from node.bench import plain_study
from node.bench.bare_loop import open_loop
from node.bench.clock import Clock
from node.bench.latency_node import serve
from node.bench.memory import peak
from node.bench.plain_store import send_plainly
from node.bench.plain_study import PlainModel, Values


class PlainStudy:
    """The study, and what a script would keep between two of them: its models."""

    def __init__(self, plan: dict[str, Any]) -> None:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(plan["threads"])
        self._folder, self._port = Path(plan["folder"]), plan["port"]
        self._clock = Clock()
        self._kept: list[Mapping[str, Values]] = []
        self._next: int | None = None
        self._segmenter, self._classifier = (
            self._model(one, plan["threads"]) for one in (plan["segmenter"], plan["classifier"])
        )

    def run(self, _: Path) -> dict[str, Any]:
        """Return the seconds of each stage, and what was found."""
        self._clock = clock = Clock()
        with clock.stage("read"):
            image = plain_study.read_image(self._folder)
        with clock.stage("headers"):
            headers = plain_study.read_headers(self._folder)
        with clock.stage("prepare and interpret"):
            labels, findings = self._findings(image)
        with clock.stage("encode"):
            objects = plain_study.encode(headers, labels, findings)
        with clock.stage("send"):
            send_plainly(objects, self._port)
        self._next = 0
        return {
            "seconds": clock.seconds,
            "found": len(findings),
            "objects": len(objects),
            "peak_memory_bytes": peak(),
        }

    def _findings(self, image: Any) -> tuple[Values, list[plain_study.Finding]]:
        resampled = plain_study.resample(image, self._segmenter.spacing_zyx_mm)
        volume = plain_study.pad(SimpleITK.GetArrayFromImage(resampled), self._segmenter.shape_zyx)
        probability = plain_study.segment(volume, self._segmenter)
        laid_back = plain_study.lay_back(probability, resampled, image)
        return plain_study.find(image, laid_back, self._segmenter, self._classifier)

    def _model(self, stated: dict[str, Any], threads: int) -> PlainModel:
        loop = open_loop(stated["graphs"], threads, is_spinning=False, is_batched=True)

        def infer(inputs: Mapping[str, Values]) -> Mapping[str, Values]:
            with self._clock.stage("inference"):
                if self._next is not None:
                    self._next += 1
                    return self._kept[self._next - 1]
                answers = loop(dict(inputs))
                self._kept.append({"probability": np.array(answers["probability"])})
                return self._kept[-1]

        shape, spacing = tuple(stated["shape_zyx"]), tuple(stated["spacing_zyx_mm"])
        return PlainModel(infer, shape, spacing, stated["threshold"], stated["batch"])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    serve(PlainStudy(json.loads(sys.argv[1])).run)
