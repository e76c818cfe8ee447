"""A Triton server as its gRPC protocol shows it; a fault of a call becomes an error of ours."""

from collections.abc import Mapping
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from node.errors import EngineUnavailableError, ModelError, OutOfResourcesError, SightlineError

ASK_TIMEOUT_S = 5.0
LOAD_TIMEOUT_S = 120.0
OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that was restarted is found within seconds; by default it takes up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Pixels of patients go to the server itself, whatever proxy the environment names.
    ("grpc.enable_http_proxy", 0),
)
# Triton has no code of its own for it when a backend runs out of memory.
OUT_OF_MEMORY_WORDS = ("bad_alloc", "Failed to allocate", "failed to allocate", "out of memory")


class BrokenModelError(EngineUnavailableError):
    """The server is there, and says that the model itself failed."""


class TritonServer:
    """One server; calls from several threads are safe, and all end when it is closed."""

    def __init__(self, url: str) -> None:
        """Talk to `host:port`; nothing is sent before the first call."""
        self.url = url
        self._channel = grpc.insecure_channel(url, OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._is_closed = False

    def infer(self, request: Any, timeout_s: float) -> Any:
        """Return the answer to a request; raises ModelError, TransientError, or one of the errors above."""
        return self._call("ModelInfer", request, timeout_s, request.model_name)

    def config(self, model: str) -> Any:
        """Return the configuration of a model that is loaded, as the server has it."""
        request = service_pb2.ModelConfigRequest(name=model)
        return self._call("ModelConfig", request, ASK_TIMEOUT_S, model).config

    def versions(self, model: str) -> tuple[int, ...]:
        """Return the versions of a model that are loaded."""
        request = service_pb2.ModelMetadataRequest(name=model)
        found = self._call("ModelMetadata", request, ASK_TIMEOUT_S, model).versions
        return tuple(int(version) for version in found if version.isdigit())

    def state_by_model(self) -> dict[str, str]:
        """Return every model of the server's repository, each with READY, LOADING … or nothing, and why."""
        index = self._call("RepositoryIndex", service_pb2.RepositoryIndexRequest(), ASK_TIMEOUT_S)
        return {one.name: " – ".join(filter(None, (one.state, one.reason))) for one in index.models}

    def load(self, model: str, *, config: str = "", files: Mapping[str, bytes] | None = None) -> None:
        """Load a model anew; with a JSON `config`, from `files` by such names as `file:1/model.onnx`."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        if config:
            request.parameters["config"].string_param = config
        for path, content in (files or {}).items():
            request.parameters[path].bytes_param = content
        self._call("RepositoryModelLoad", request, LOAD_TIMEOUT_S, model)

    def unload(self, model: str) -> None:
        """Unload a model; its requests under way are finished."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        self._call("RepositoryModelUnload", request, LOAD_TIMEOUT_S, model)

    def statistics(self, model: str, timeout_s: float = ASK_TIMEOUT_S) -> Any:
        """Return the statistics of a model's newest version; times in ns since it was loaded."""
        request = service_pb2.ModelStatisticsRequest(name=model)
        found = self._call("ModelStatistics", request, timeout_s, model).model_stats
        if not found:
            raise EngineUnavailableError(model, f"no statistics at {self.url}")
        return max(found, key=lambda one: int(one.version))

    def register_region(self, name: str, size_bytes: int) -> None:
        """Have the server map the shared memory of this name."""
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=name, key=f"/{name}", offset=0, byte_size=size_bytes
        )
        self._call("SystemSharedMemoryRegister", request, ASK_TIMEOUT_S)

    def unregister_region(self, name: str) -> None:
        """Have the server unmap a region; raises BrokenModelError while a request uses it."""
        request = service_pb2.SystemSharedMemoryUnregisterRequest(name=name)
        self._call("SystemSharedMemoryUnregister", request, ASK_TIMEOUT_S)

    def region_names(self) -> frozenset[str]:
        """Return the regions that the server has mapped."""
        request = service_pb2.SystemSharedMemoryStatusRequest()
        return frozenset(self._call("SystemSharedMemoryStatus", request, ASK_TIMEOUT_S).regions)

    def close(self) -> None:
        """Break off every call, and take none any more."""
        self._is_closed = True
        self._channel.close()

    def _call(self, method: str, request: Any, timeout_s: float, subject: str = "") -> Any:
        subject = subject or self.url
        try:
            return getattr(self._stub, method)(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise translated(subject, error.code(), error.details() or "") from error
        except ValueError as error:
            # What gRPC says of a channel that is closed.
            if self._is_closed:
                raise EngineUnavailableError(subject, "the node stops") from error
            raise


def translated(subject: str, code: grpc.StatusCode, details: str) -> SightlineError:
    """Return a fault of a call as our error: only a request that the model does not take is permanent."""
    text = " ".join(details.split())[:300]
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED or any(words in text for words in OUT_OF_MEMORY_WORDS):
        return OutOfResourcesError(f"{subject}: {text}")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return ModelError(subject, f"Triton: {text}")
    kind = BrokenModelError if code is grpc.StatusCode.INTERNAL else EngineUnavailableError
    return kind(subject, f"Triton: {code.name}, {text}")
