"""The configurations of graphs and ensembles, in the words of Triton's protobuf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tritonclient.grpc import model_config_pb2 as config_pb2

from models.policy import Serving

WEIGHTS = "model.onnx"
# FP16 is faster and moves the scores: see README.md of the repository before changing it.
TENSORRT = {
    "precision_mode": "FP32",
    "max_workspace_size_bytes": str(1 << 30),
    "trt_engine_cache_enable": "1",
    "trt_engine_cache_path": "/tmp/tensorrt",  # noqa: S108 - of the server's container
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output: element type of Triton, shape without the batch axis, -1 for any length."""

    data_type: int
    shape: tuple[int, ...]


Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Graph:
    """What a configuration says of one ONNX file."""

    name: str
    inputs: Tensors
    outputs: Tensors
    sha256: str


@dataclass(frozen=True, slots=True)
class Release:
    """What holds for all models of one card."""

    version: str
    serving: Serving


def member_tensor(output: str, member: str) -> str:
    """Return the ensemble's name of a member's output, logits of chest_xray_resnet50_a: logits_resnet50_a."""
    return "_".join([output, *member.split("_")[-2:]])


def combine_name(ensemble: str) -> str:
    """Return the name of the graph that joins the members' answers."""
    return f"{ensemble}_combine"


def graph_config(graph: Graph, release: Release) -> config_pb2.ModelConfig:
    """Return the configuration for the onnxruntime backend, on a GPU where the server has one."""
    config = _graph_config(graph, release)
    # On a GPU, each size of a batch is slow the first time.
    for size in (1, max(release.serving.preferred_batch_sizes)):
        _add_warmup(config, graph.inputs, size)
    config.backend = "onnxruntime"
    config.default_model_filename = WEIGHTS
    # No kind is KIND_AUTO: the GPUs, and the CPU of a server without.
    config.instance_group.add(count=release.serving.instances)
    return config


def tensorrt_config(graph: Graph, release: Release) -> config_pb2.ModelConfig:
    """Return the configuration for the onnxruntime backend with TensorRT, which needs a GPU."""
    config = graph_config(graph, release)
    config.instance_group[0].kind = config_pb2.ModelInstanceGroup.KIND_GPU
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    accelerators.add(name="tensorrt", parameters=TENSORRT)
    return config


def python_config(graph: Graph, release: Release) -> config_pb2.ModelConfig:
    """Return the configuration for the Python backend, where model.py runs the graph on the CPU.

    It has no warm-up: model.py runs the graph once before the model is ready.
    """
    config = _graph_config(graph, release)
    config.backend = "python"
    config.instance_group.add(count=release.serving.instances, kind=config_pb2.ModelInstanceGroup.KIND_CPU)
    return config


def ensemble_config(
    name: str, members: Sequence[Graph], combine: Graph, release: Release
) -> config_pb2.ModelConfig:
    """Return the ensemble that gives its inputs to each member and their answers to the combine graph.

    The server has no queue of its own for it: priority and time-out of a request go on to the steps.
    """
    inputs = members[0].inputs
    config = _config(name, inputs, combine.outputs, release)
    config.platform = "ensemble"
    joined = config_pb2.ModelEnsembling.Step(model_name=combine.name, model_version=-1)
    for member in members:
        step = config.ensemble_scheduling.step.add(model_name=member.name, model_version=-1)
        for tensor in inputs:
            step.input_map[tensor] = tensor
        for output in member.outputs:
            tensor = member_tensor(output, member.name)
            step.output_map[output] = tensor
            joined.input_map[tensor] = tensor
    for output in combine.outputs:
        joined.output_map[output] = output
    config.ensemble_scheduling.step.append(joined)
    return config


def _graph_config(graph: Graph, release: Release) -> config_pb2.ModelConfig:
    config = _config(graph.name, graph.inputs, graph.outputs, release)
    _set_queue(config.dynamic_batching, release.serving)
    texts = {
        "sha256": graph.sha256,
        "intra_op_thread_count": str(release.serving.threads),
        "inter_op_thread_count": "1",
    }
    for name, text in texts.items():
        config.parameters[name].string_value = text
    return config


def _config(name: str, inputs: Tensors, outputs: Tensors, release: Release) -> config_pb2.ModelConfig:
    config = config_pb2.ModelConfig(name=name, max_batch_size=release.serving.max_batch_size)
    for entries, tensors in ((config.input, inputs), (config.output, outputs)):
        for tensor_name, tensor in tensors.items():
            entries.add(name=tensor_name, data_type=tensor.data_type, dims=tensor.shape)
    config.parameters["version"].string_value = release.version
    return config


def _set_queue(batching: config_pb2.ModelDynamicBatching, serving: Serving) -> None:
    batching.preferred_batch_size.extend(serving.preferred_batch_sizes)
    batching.max_queue_delay_microseconds = round(serving.max_queue_delay_ms * 1000)
    batching.priority_levels = len(serving.priorities)
    batching.default_priority_level = serving.default_level
    for level, waiting in enumerate(serving.priorities, start=1):
        # The default is for levels without a policy of their own, of which there are none.
        rule = batching.priority_queue_policy[level]
        rule.timeout_action = config_pb2.ModelQueuePolicy.REJECT
        rule.default_timeout_microseconds = round(waiting.timeout_s * 1_000_000)
        rule.allow_timeout_override = True
        rule.max_queue_size = waiting.max_requests


def _add_warmup(config: config_pb2.ModelConfig, inputs: Tensors, batch_size: int) -> None:
    """Have the server run a batch before it says that it is ready: the first one is the slowest."""
    warmup = config.model_warmup.add(name=f"batch_{batch_size}", batch_size=batch_size, count=1)
    for name, tensor in inputs.items():
        entry = warmup.inputs[name]
        entry.data_type = tensor.data_type
        # The server takes no free axis here: one element of it is enough to load everything.
        entry.dims.extend(abs(length) for length in tensor.shape)
        entry.zero_data = True
