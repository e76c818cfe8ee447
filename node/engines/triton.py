"""The engine on a Triton server: the same repository, the same answers, asked over gRPC."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import structlog

from node.domain.card import ModelCard
from node.domain.findings import Priority
from node.engines.breaker import Breaker
from node.engines.owner import NOWHERE
from node.engines.repository import ModelConfig, ModelRepository
from node.engines.shared_memory import DEFAULT_LIMITS, Limits, SharedMemory
from node.engines.statistics import ServerStatistics
from node.engines.tensors import Array, batch_size, divide, join, require_outputs
from node.engines.triton_request import Exchange
from node.engines.triton_server import TritonServer
from node.engines.triton_trial import Trial
from node.errors import EngineUnavailableError, SightlineError, StoppedError, TransientError
from node.interfaces import Arrays
from node.telemetry import Metrics

MAX_ATTEMPTS = 4
"""Requests that one call makes in all; what then is left to do is the workflow's."""

LEVELS: Mapping[Priority, int] = MappingProxyType({Priority.STAT: 1, Priority.URGENT: 2, Priority.ROUTINE: 3})
"""Triton's priority levels; a model that has none takes its requests as they come."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonSettings:
    """Where the server is, how long it is waited for, and what memory is shared with it.

    `shares_memory` None is where possible; `home` stands for the node's data folder.
    """

    url: str
    timeout_s: float = 60.0
    patience_s: float = 300.0
    shares_memory: bool | None = None
    limits: Limits = DEFAULT_LIMITS
    home: str = NOWHERE


class TritonEngine:
    """Asks a server for the models of one repository; calls from several threads are safe.

    A model is asked once the server was found to serve what its card describes and to answer. After a fault
    one caller at a time finds that out anew, and all others wait for it, each up to `patience_s`.
    """

    def __init__(
        self, repository: ModelRepository, settings: TritonSettings, metrics: Metrics | None = None
    ) -> None:
        """Use a server; nothing is sent before the first call."""
        self._repository = repository
        self._settings = settings
        self._metrics = metrics or Metrics()
        self._server = TritonServer(settings.url)
        shares = settings.shares_memory is not False
        self._memory = SharedMemory(self._server, settings.limits, settings.home) if shares else None
        self._breakers: dict[str, Breaker] = {}
        must_share = settings.shares_memory is True
        self._trial = Trial(repository, self._server, self._ask_first, self._memory, must_share=must_share)
        self._lock = Lock()
        self._is_closed = False
        self._metrics.registry.register(ServerStatistics(self._server, self._networks_in_use))

    def infer(self, model: str, inputs: Arrays) -> dict[str, Array]:
        """Return the named outputs, batch first; a batch the model cannot take is divided.

        Raises ModelError for an unknown model, an input of another shape or type than it takes, and an
        answer that is not what its configuration promises or holds no numbers; TransientError where no
        answer can be had within the patience.
        """
        return self.infer_as(Priority.ROUTINE, model, inputs)

    def infer_as(self, priority: Priority, model: str, inputs: Arrays) -> dict[str, Array]:
        """Do as `infer`; the requests wait on the server in this class."""
        config = self._repository.config(model)
        parts = divide(inputs, batch_size(config, inputs), config.max_batch_size or 1)
        try:
            return join([self._answer(config, part, priority) for part in parts])
        except TransientError as error:
            if self._is_closed:
                raise StoppedError(f"{model}: the node stops") from error
            raise

    def prioritized(self, priority: Priority) -> "PrioritizedEngine":
        """Return this engine for one run: its requests wait on the server in that class."""
        return PrioritizedEngine(self, priority)

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return an array to be filled and given to `infer`; a large one lies where the server sees it."""
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        is_large = size_bytes >= self._settings.limits.large_bytes
        lease = self._memory.lease(size_bytes) if self._memory and is_large else None
        return lease.array(shape, dtype)[0] if lease else np.empty(shape, dtype)

    def card(self, model: str) -> ModelCard:
        """Return the card of a model; raises ModelError where there is none."""
        return self._repository.card(model)

    def check(self, model: str) -> None:
        """Raise ModelError unless the server has the model that the card describes, and it answers.

        Raises TransientError where it does not answer now; nothing is waited for.
        """
        self._try(self._repository.config(model), self._breaker(model))

    def load(self, model: str) -> None:
        """Have the server load a model and its members, from its files as they are now."""
        for name in dict.fromkeys((*self._repository.config(model).networks, model)):
            self._server.load(name)

    def unload(self, model: str) -> None:
        """Have the server unload a model; what another one needs stays."""
        self._server.unload(model)

    def state_by_model(self) -> dict[str, str]:
        """Return the models of the server's repository, each with its state there."""
        return self._server.state_by_model()

    def close(self) -> None:
        """Break off every request, with StoppedError, and have the server let go of shared memory."""
        with self._lock:
            self._is_closed = True
            breakers = list(self._breakers.values())
        for breaker in breakers:
            breaker.stop()
        if self._memory:
            self._memory.close()
        self._server.close()

    # --- one batch: asked until it is answered, within bounds

    def _answer(self, config: ModelConfig, inputs: Arrays, priority: Priority) -> dict[str, Array]:
        breaker = self._breaker(config.name)
        until = time.monotonic() + self._settings.patience_s
        attempt = 0
        while True:
            self._await(config, breaker, until)
            attempt += 1
            try:
                self._trial.require_agreement(config)
                return self._request(config, inputs, priority)
            except TransientError as error:
                breaker.note_fault(error)
                log.warning("engine_request_failed", model=config.name, attempt=attempt, reason=str(error))
                if attempt == MAX_ATTEMPTS:
                    raise
                self._metrics.engine_retries.labels(config.name).inc()

    def _await(self, config: ModelConfig, breaker: Breaker, until: float) -> None:
        """Return once the model may be asked; raises EngineUnavailableError where that is not so in time."""
        while not breaker.admit(until):
            try:
                self._try(config, breaker)
            except TransientError as error:
                if self._is_closed:
                    raise
                log.warning("engine_unavailable", model=config.name, reason=str(error))

    def _request(self, config: ModelConfig, inputs: Arrays, priority: Priority) -> dict[str, Array]:
        size = len(next(iter(inputs.values())))
        with self._metrics.observed_inference(config.name, size):
            return self._exchange(config, inputs, size, priority)

    def _exchange(
        self, config: ModelConfig, inputs: Arrays, size: int, priority: Priority
    ) -> dict[str, Array]:
        exchange = Exchange(config, inputs, size, self._memory)
        exchange.request.parameters["priority"].uint64_param = LEVELS[priority]
        exchange.request.parameters["timeout"].int64_param = int(1e6 * self._settings.timeout_s)
        try:
            response = self._server.infer(exchange.request, self._settings.timeout_s)
        except SightlineError:
            if self._memory:
                self._memory.suspect(exchange.places)
            raise
        outputs = exchange.outputs(response)
        require_outputs(config, outputs, size)
        return outputs

    def _ask_first(self, config: ModelConfig, inputs: Arrays) -> None:
        self._exchange(config, inputs, 1, Priority.STAT)

    def _try(self, config: ModelConfig, breaker: Breaker) -> None:
        error: SightlineError | None = EngineUnavailableError(config.name, "the trial was broken off")
        try:
            self._trial.require(config)
            error = None
        except SightlineError as found:
            error = found
            raise
        finally:
            breaker.note_trial(error)

    def _breaker(self, model: str) -> Breaker:
        with self._lock:
            if model not in self._breakers:
                gauge = self._metrics.engine_breaker_state.labels(model)
                self._breakers[model] = Breaker(model, gauge.set)
            return self._breakers[model]

    def _networks_in_use(self) -> list[str]:
        with self._lock:
            models = list(self._breakers)
        return list(
            dict.fromkeys(name for model in models for name in self._repository.config(model).networks)
        )


@dataclass(frozen=True, slots=True)
class PrioritizedEngine:
    """A view of the engine for one run: what the run asks waits on the server in its class."""

    engine: TritonEngine
    priority: Priority

    def infer(self, model: str, inputs: Arrays) -> dict[str, Array]:
        """Do as the engine, in this class."""
        return self.engine.infer_as(self.priority, model, inputs)

    def prioritized(self, priority: Priority) -> "PrioritizedEngine":
        """Return the view of another class."""
        return PrioritizedEngine(self.engine, priority)

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Do as the engine."""
        return self.engine.buffer(shape, dtype)

    def card(self, model: str) -> ModelCard:
        """Do as the engine."""
        return self.engine.card(model)

    def check(self, model: str) -> None:
        """Do as the engine."""
        self.engine.check(model)

    def close(self) -> None:
        """Do as the engine."""
        self.engine.close()
