"""The config.pbtxt of members, combine graph and ensemble, as Triton and the embedded engine read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as config_pb2

MAX_BATCH = 16
QUEUE_DELAY_US = 2000
Shapes = Mapping[str, Sequence[int]]
"""Tensor name to shape without the batch axis."""


def graph_config(name: str, inputs: Shapes, outputs: Shapes) -> config_pb2.ModelConfig:
    """Return the configuration of one ONNX graph, batched by the server."""
    config = _config(name, inputs, outputs)
    config.backend = "onnxruntime"
    config.default_model_filename = "model.onnx"
    config.dynamic_batching.max_queue_delay_microseconds = QUEUE_DELAY_US
    return config


def ensemble_config(
    name: str, answers_by_member: Mapping[str, Sequence[str]], combine: str, inputs: Shapes, outputs: Shapes
) -> config_pb2.ModelConfig:
    """Return the ensemble that gives its inputs to each member and their answers to the combine graph."""
    config = _config(name, inputs, outputs)
    config.platform = "ensemble"
    joined = config_pb2.ModelEnsembling.Step(model_name=combine, model_version=-1)
    for member, answers in answers_by_member.items():
        step = config.ensemble_scheduling.step.add(model_name=member, model_version=-1)
        for tensor in inputs:
            step.input_map[tensor] = tensor
        for output in answers:
            tensor = member_tensor(output, member)
            step.output_map[output] = tensor
            joined.input_map[tensor] = tensor
    for output in outputs:
        joined.output_map[output] = output
    config.ensemble_scheduling.step.append(joined)
    return config


def member_tensor(output: str, member: str) -> str:
    """Return the ensemble's name of a member's output, logits of chest_xray_resnet50_a: logits_resnet50_a."""
    return "_".join([output, *member.split("_")[-2:]])


def write_config(repository: Path, config: config_pb2.ModelConfig) -> Path:
    """Write a configuration into its model's folder; return the folder."""
    folder = repository / config.name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    return folder


def _config(name: str, inputs: Shapes, outputs: Shapes) -> config_pb2.ModelConfig:
    config = config_pb2.ModelConfig(name=name, max_batch_size=MAX_BATCH)
    for tensor, shape in inputs.items():
        config.input.add(name=tensor, data_type=config_pb2.TYPE_FP32, dims=shape)
    for tensor, shape in outputs.items():
        config.output.add(name=tensor, data_type=config_pb2.TYPE_FP32, dims=shape)
    return config
