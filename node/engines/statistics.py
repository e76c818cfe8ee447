"""What a Triton server counts of the models that the node uses, as metrics of the node."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from node.engines.triton_server import TritonServer
from node.errors import SightlineError

TIMEOUT_S = 1.0
NS = 1e-9


class ServerStatistics(Collector):
    """Asks the server when Prometheus asks the node; of one that does not answer nothing is told."""

    def __init__(self, server: TritonServer, models: Callable[[], Iterable[str]]) -> None:
        self._server = server
        self._models = models

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield queue time, items and batches of each model, since the server loaded it."""
        queue = _counter("engine_queue_seconds", "Time that requests waited in the server's queues")
        items = _counter("engine_server_items", "Items that the server ran")
        batches = _counter("engine_server_batches", "Batches in which the server ran them")
        for model in self._models():
            try:
                counted: Any = self._server.statistics(model, TIMEOUT_S)
            except SightlineError:
                break
            queue.add_metric([model], counted.inference_stats.queue.ns * NS)
            items.add_metric([model], counted.inference_count)
            batches.add_metric([model], counted.execution_count)
        yield from (queue, items, batches)


def _counter(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"sightline_{name}", text, labels=["model"])
