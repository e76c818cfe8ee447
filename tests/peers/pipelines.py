"""Pipelines that misbehave, named in the configuration of a test's node."""

import time
from dataclasses import dataclass
from pathlib import Path

from node.domain.findings import Findings
from node.domain.study import Series
from node.interfaces import Engine
from node.pipelines.chest_xray import ChestXray


@dataclass(frozen=True)
class StallingOnce:
    """The chest radiograph pipeline, which hangs the first time: until someone kills it."""

    marker: str

    @property
    def model(self) -> str:
        return ChestXray().model

    def analyze(self, series: Series, engine: Engine) -> Findings:
        marker = Path(self.marker)
        if not marker.exists():
            marker.touch()
            time.sleep(600)
        return ChestXray().analyze(series, engine)
