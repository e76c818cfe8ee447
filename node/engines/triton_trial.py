"""A trial of a model on a Triton server: is it the one of the card, and does it answer?"""

import math
import time
from collections.abc import Callable

import structlog

from node.engines.agreement import require_agreement
from node.engines.repository import ModelConfig, ModelRepository
from node.engines.shared_memory import SharedMemory
from node.engines.tensors import zeros
from node.engines.triton_server import BrokenModelError, TritonServer
from node.interfaces import Arrays

AGREED_FOR_S = 60.0
"""How long it is believed that the server still has the model that the card describes."""

Ask = Callable[[ModelConfig, Arrays], None]

log = structlog.get_logger()


class Trial:
    """Tries the models of one repository on one server; `ask` makes a request, before all that wait."""

    def __init__(
        self,
        repository: ModelRepository,
        server: TritonServer,
        ask: Ask,
        memory: SharedMemory | None,
        *,
        must_share: bool,
    ) -> None:
        """Try models on a server that shares this memory; where it must and does not, no trial is passed."""
        self._repository = repository
        self._server = server
        self._ask = ask
        self._memory = memory
        self._must_share = must_share
        self._agreed_at: dict[str, float] = {}

    def require(self, config: ModelConfig) -> None:
        """Raise ModelError unless the server has the model as its card describes it, and it answers.

        Raises TransientError where it does not answer now. What fails is loaded anew, once.
        """
        self._agreed_at.pop(config.name, None)
        self.require_agreement(config)
        if self._memory:
            self._memory.renew()
            if self._must_share:
                self._memory.require()
        shape = self._repository.card(self._repository.described_by(config.name)).input_shape
        try:
            self._ask(config, zeros(config, shape))
        except BrokenModelError:
            # Server and model go on to say "ready" after the process that runs the model has died.
            self._repair(config, shape)
            self._ask(config, zeros(config, shape))

    def require_agreement(self, config: ModelConfig) -> None:
        """Compare the server's model with the card, but not more often than is needed.

        Somebody may have it load other files, of which no request tells.
        """
        if time.monotonic() < self._agreed_at.get(config.name, -math.inf) + AGREED_FOR_S:
            return
        described_by = self._repository.described_by(config.name)
        self._repository.verify_card(described_by)
        require_agreement(self._server, self._repository, described_by)
        self._agreed_at[config.name] = time.monotonic()

    def _repair(self, config: ModelConfig, shape: tuple[int, ...]) -> None:
        """Load anew what fails, which a server allows in its explicit mode."""
        for name in config.networks:
            network = self._repository.config(name)
            try:
                self._ask(network, zeros(network, shape))
            except BrokenModelError as error:
                log.warning("engine_model_reloaded", model=name, reason=str(error))
                # To load alone does nothing where no file has changed.
                self._server.unload(name)
                self._server.load(name)
