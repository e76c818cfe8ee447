"""Whether a server serves what the local repository describes: the cards must speak for what answers."""

from typing import Any

from node.engines.repository import ModelConfig, ModelRepository, parse_config
from node.engines.triton_server import TritonServer
from node.errors import EngineUnavailableError, ModelError

READY = "READY"


def require_agreement(server: TritonServer, repository: ModelRepository, model: str) -> None:
    """Raise ModelError unless the server has this model and its members as the cards describe them.

    Raises EngineUnavailableError for one that is not loaded.
    """
    digests = repository.digests(model)
    for name in dict.fromkeys((model, *repository.config(model).networks)):
        described = _config(server, name)
        _require_same(repository.config(name), parse_config(name, described))
        version, served = repository.version(name), server.versions(name)
        if max(served, default=0) != version:
            raise ModelError(name, f"the server has version {list(served)}, the repository {version}")
        if name == model:
            _require_parameter(name, described, "version", repository.card(model).version)
        if name in digests:
            _require_parameter(name, described, "sha256", digests[name])


def _config(server: TritonServer, model: str) -> Any:  # protobuf makes its classes at run time
    try:
        return server.config(model)
    except EngineUnavailableError as error:
        states = server.state_by_model()
        if model not in states:
            raise ModelError(model, f"the server at {server.url} has no such model") from error
        state = states[model] or "not loaded"
        if state == READY:
            raise
        raise EngineUnavailableError(model, f"{state} at {server.url}") from error


def _require_same(ours: ModelConfig, theirs: ModelConfig) -> None:
    for name in ("max_batch_size", "inputs", "outputs", "steps"):
        expected, actual = getattr(ours, name), getattr(theirs, name)
        if expected != actual:
            raise ModelError(
                ours.name, f"{name} of the server's are {_words(actual)}, the repository's {_words(expected)}"
            )


def _require_parameter(model: str, described: Any, name: str, expected: str) -> None:
    actual = described.parameters[name].string_value if name in described.parameters else "none"
    if actual != expected:
        raise ModelError(model, f"{name} of the server's is {actual}, the card says {expected}")


def _words(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return ", ".join(
        f"{one.name} {list(one.shape)} {one.dtype.__name__}" if hasattr(one, "shape") else one.model
        for one in value
    )
