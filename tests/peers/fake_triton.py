"""A gRPC server that speaks Triton's protocol and answers rightly, unless it is told how to go wrong."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype

from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from tests.peers import LOOPBACK, free_ports

Fault = tuple[grpc.StatusCode, str]


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves one repository by the node's own engine; `spoil` changes each answer, `fault` is one instead."""

    def __init__(self, path: Path, port: int) -> None:
        self.url = f"{LOOPBACK}:{port}"
        self.spoil: Callable[[Any], object] = lambda _response: None
        self.fault: Callable[[Any], Fault | None] = lambda _request: None
        self.asked: list[Any] = []
        self.loaded: list[str] = []
        self.unloaded: list[str] = []
        self.replaced_by = ""
        self.claims_to_write = False
        self.uses_regions = False
        self.regions: set[str] = set()
        self._repository = ModelRepository(path)
        self._engine = OnnxEngine(self._repository, threads=1)
        self._lock = threading.Lock()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the protocol's
        with self._lock:
            self.asked.append(request)
        if fault := self.fault(request):
            context.abort(*fault)
        if self.claims_to_write:
            return self._claim(request)
        config = self._repository.config(request.model_name)
        inputs = {
            tensor.name: np.frombuffer(content, tensor.dtype).reshape(entry.shape)
            for tensor, entry, content in zip(
                config.inputs, request.inputs, request.raw_input_contents, strict=True
            )
        }
        response = service_pb2.ModelInferResponse(model_name=config.name, model_version="1")
        for name, values in self._engine.infer(config.name, inputs).items():
            response.outputs.add(name=name, datatype=np_to_triton_dtype(values.dtype), shape=values.shape)
            response.raw_output_contents.append(values.tobytes())
        self.spoil(response)
        return response

    def ModelConfig(self, request: Any, _context: grpc.ServicerContext) -> Any:  # noqa: N802
        path = self._repository.path / request.name / "config.pbtxt"
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        digests = self._digests()
        if request.name in digests:
            config.parameters["sha256"].string_value = self.replaced_by or digests[request.name]
        return service_pb2.ModelConfigResponse(config=config)

    def ModelMetadata(self, request: Any, _context: grpc.ServicerContext) -> Any:  # noqa: N802
        return service_pb2.ModelMetadataResponse(name=request.name, versions=["1"])

    def RepositoryIndex(self, _request: Any, _context: grpc.ServicerContext) -> Any:  # noqa: N802
        response = service_pb2.RepositoryIndexResponse()
        for name in self._repository.names():
            response.models.add(name=name, version="1", state="READY")
        return response

    def RepositoryModelUnload(self, request: Any, _context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.unloaded.append(request.model_name)
        return service_pb2.RepositoryModelUnloadResponse()

    def RepositoryModelLoad(self, request: Any, _context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.loaded.append(request.model_name)
        return service_pb2.RepositoryModelLoadResponse()

    def SystemSharedMemoryStatus(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return service_pb2.SystemSharedMemoryStatusResponse()

    def SystemSharedMemoryRegister(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        if not self.claims_to_write:
            context.abort(grpc.StatusCode.INTERNAL, "Unable to open shared memory region")
        self.regions.add(request.name)
        return service_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        if self.uses_regions:
            context.abort(grpc.StatusCode.INTERNAL, "Cannot unregister shared memory region: in use")
        self.regions.discard(request.name)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    def _claim(self, request: Any) -> Any:
        """Return an answer that says where its outputs are; they are not there."""
        response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
        shapes = {tensor.name: tensor.shape for tensor in self._repository.config(request.model_name).outputs}
        for entry in request.outputs:
            response.outputs.add(name=entry.name, datatype="FP32", shape=(1, *shapes[entry.name]))
            response.raw_output_contents.append(b"")
        return response

    def _digests(self) -> dict[str, str]:
        described = [name for name in self._repository.names() if self._is_described(name)]
        return {key: value for name in described for key, value in self._repository.digests(name).items()}

    def _is_described(self, name: str) -> bool:
        document = self._repository.path / name / "card.json"
        return document.is_file() and "part_of" not in document.read_text()


@contextmanager
def run_fake_triton(path: Path) -> Iterator[FakeTriton]:
    """Listen on loopback until the end of the block."""
    (port,) = free_ports(1)
    fake = FakeTriton(path, port)
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    server.add_insecure_port(fake.url)
    server.start()
    try:
        yield fake
    finally:
        server.stop(0).wait()
