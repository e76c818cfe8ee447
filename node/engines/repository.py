"""The model repository on disk: configurations as Triton reads them, cards, weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from node.domain.card import ModelCard
from node.engines.card import parse_card
from node.errors import ModelError

ENSEMBLE = "ensemble"
DEFAULT_WEIGHTS = "model.onnx"
DTYPE_BY_NAME: Mapping[str, type[np.generic]] = MappingProxyType(
    {
        "TYPE_BOOL": np.bool_,
        "TYPE_UINT8": np.uint8,
        "TYPE_UINT16": np.uint16,
        "TYPE_UINT32": np.uint32,
        "TYPE_UINT64": np.uint64,
        "TYPE_INT8": np.int8,
        "TYPE_INT16": np.int16,
        "TYPE_INT32": np.int32,
        "TYPE_INT64": np.int64,
        "TYPE_FP16": np.float16,
        "TYPE_FP32": np.float32,
        "TYPE_FP64": np.float64,
    }
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output: its name, its shape without the batch axis (-1 is any length), its element type."""

    name: str
    shape: tuple[int, ...]
    dtype: type[np.generic]

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Return whether an array of this shape, without its batch axis, fits; -1 is not known yet."""
        pairs = zip(self.shape, shape, strict=False)
        return len(shape) == len(self.shape) and all(a == b or -1 in (a, b) for a, b in pairs)


@dataclass(frozen=True, slots=True)
class Step:
    """One member of an ensemble: its inputs and outputs, by the ensemble's name for each tensor."""

    model: str
    tensor_by_input: Mapping[str, str]
    tensor_by_output: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What `config.pbtxt` says of a model; `max_batch_size` 0: it takes one item at a time."""

    name: str
    max_batch_size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    weights: str

    @property
    def is_ensemble(self) -> bool:
        """Is the model a chain of others, without weights of its own?"""
        return bool(self.steps)

    @property
    def networks(self) -> tuple[str, ...]:
        """The models with weights that answer for this one: its members, or itself."""
        return tuple(dict.fromkeys(step.model for step in self.steps)) or (self.name,)


class ModelRepository:
    """The folders `<model>/` with config.pbtxt, card.json and `<version>/model.onnx`, under one path."""

    def __init__(self, path: Path) -> None:
        """Use the repository at `path`; nothing is read before it is asked for."""
        self.path = path
        self.config = cache(self._config)
        self._parsed = cache(self._parse)
        self.card_document = cache(self._card_document)

    def names(self) -> tuple[str, ...]:
        """Return the models that have a configuration, members of ensembles included."""
        return tuple(sorted(path.parent.name for path in self.path.glob("*/config.pbtxt")))

    def card(self, model: str) -> ModelCard:
        """Return the part of the card that the node acts on."""
        return parse_card(model, self.card_document(model))

    def described_by(self, model: str) -> str:
        """Return the model whose card speaks for this one: itself, or the ensemble that it is part of."""
        return str(self.card_document(model).get("part_of", model))

    def version(self, model: str) -> int:
        """Return the number of the newest version; 1 where none has a folder, as of an ensemble in git."""
        folders = [path.name for path in self._folder(model).iterdir() if path.is_dir()]
        return max((int(name) for name in folders if name.isdigit()), default=1)

    def weights_path(self, model: str) -> Path:
        """Return the weights of the newest version."""
        path = self._folder(model) / str(self.version(model)) / self.config(model).weights
        if not path.is_file():
            raise ModelError(model, f"no weights at {path}")
        return path

    def verify(self, model: str) -> None:
        """Raise ModelError unless the card fits the configuration and the weights are those it names."""
        self.verify_card(model)
        for name, expected in self.digests(model).items():
            with self.weights_path(name).open("rb") as weights:
                actual = hashlib.file_digest(weights, "sha256").hexdigest()
            if actual != expected:
                raise ModelError(name, f"weights have sha256 {actual}, the card says {expected}")

    def verify_card(self, model: str) -> None:
        """Raise ModelError unless the card fits the configuration."""
        config, card = self.config(model), self.card(model)
        if not any(tensor.takes(card.input_shape) for tensor in config.inputs):
            shapes = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in config.inputs)
            raise ModelError(
                model, f"the card's input {list(card.input_shape)} is none of config.pbtxt's: {shapes}"
            )
        stated = {
            "prediction_set": card.conformal_coverage,
            "out_of_distribution": card.out_of_distribution_threshold,
        }
        given = {tensor.name for tensor in config.outputs}
        if missing := {name for name, value in stated.items() if value is not None} - given:
            raise ModelError(
                model, f"the card promises {', '.join(sorted(missing))}, config.pbtxt has no such output"
            )

    def digests(self, model: str) -> dict[str, str]:
        """Return the sha256 of the weights that a model is made of, by model, as its card states them."""
        document = self.card_document(model)
        stated = document.get("weights") or [{"model": model, "sha256": document.get("sha256")}]
        try:
            digests = {str(entry["model"]): str(entry["sha256"]) for entry in stated}
        except (KeyError, TypeError) as error:
            raise ModelError(model, "card.json: weights must be a list of model and sha256") from error
        wanted = set(self.config(model).networks)
        if unstated := wanted - digests.keys():
            raise ModelError(model, f"card.json: no sha256 for the weights of {', '.join(sorted(unstated))}")
        return {name: digests[name] for name in sorted(wanted)}

    def _config(self, model: str) -> ModelConfig:
        """Return what config.pbtxt says; of an ensemble only where its members are there and join up."""
        config = self._parsed(model)
        if not config.is_ensemble:
            return config
        known = {tensor.name: tensor for tensor in config.inputs}
        for step in config.steps:
            known |= _join(config, step, self._parsed(step.model), known)
        if missing := {tensor.name for tensor in config.outputs} - known.keys():
            raise ModelError(model, f"no member gives {', '.join(sorted(missing))}")
        return config

    def _folder(self, model: str) -> Path:
        # A name is a folder here, never a way out of the repository.
        folder = self.path / model
        if folder.parent != self.path or folder.name in ("", "..") or not folder.is_dir():
            known = ", ".join(self.names()) or "none"
            raise ModelError(model, f"no such model in {self.path}; there are: {known}")
        return folder

    def _parse(self, model: str) -> ModelConfig:
        path = self._folder(model) / "config.pbtxt"
        try:
            text = path.read_text(encoding="utf-8")
            parsed = text_format.Parse(text, model_config_pb2.ModelConfig())
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(model, f"cannot read {path}: {error}") from error
        except text_format.ParseError as error:
            raise ModelError(model, f"{path} is not a model configuration: {error}") from error
        return parse_config(model, parsed)

    def _card_document(self, model: str) -> dict[str, Any]:
        path = self._folder(model) / "card.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(model, f"cannot read {path}: {error}") from error
        if not isinstance(document, dict):
            raise ModelError(model, f"{path} holds no object")
        return document


def _join(
    config: ModelConfig, step: Step, member: ModelConfig, known: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors that a step adds to those known; raises ModelError where it does not fit them."""
    if member.is_ensemble:
        raise ModelError(
            config.name, f"its member {step.model} is an ensemble, expected a model with weights"
        )
    for tensor in member.inputs:
        source = known.get(step.tensor_by_input.get(tensor.name, ""))
        if source is None:
            raise ModelError(config.name, f"nothing feeds the input {tensor.name} of {step.model}")
        if not tensor.takes(source.shape) or tensor.dtype is not source.dtype:
            raise ModelError(config.name, f"{tensor.name} of {step.model} does not fit what feeds it")
    if unknown := step.tensor_by_input.keys() - {tensor.name for tensor in member.inputs}:
        raise ModelError(config.name, f"{step.model} has no input {', '.join(sorted(unknown))}")
    outputs = {tensor.name: tensor for tensor in member.outputs}
    if unknown := step.tensor_by_output.keys() - outputs.keys():
        raise ModelError(config.name, f"{step.model} has no output {', '.join(sorted(unknown))}")
    return {name: outputs[output] for output, name in step.tensor_by_output.items()}


def parse_config(model: str, parsed: Any) -> ModelConfig:  # protobuf makes its classes at run time
    """Return what a configuration says, read from a file or told by a server; raises ModelError."""
    if parsed.name not in ("", model):
        raise ModelError(model, f"config.pbtxt names another model: {parsed.name}")
    steps = tuple(
        Step(step.model_name, dict(step.input_map), dict(step.output_map))
        for step in parsed.ensemble_scheduling.step
    )
    if (parsed.platform == ENSEMBLE) != bool(steps):
        raise ModelError(model, "config.pbtxt: an ensemble needs steps, and only an ensemble has them")
    if not parsed.input or not parsed.output:
        raise ModelError(model, "config.pbtxt: no inputs or no outputs")
    return ModelConfig(
        name=model,
        max_batch_size=parsed.max_batch_size,
        inputs=tuple(_tensor(model, tensor) for tensor in parsed.input),
        outputs=tuple(_tensor(model, tensor) for tensor in parsed.output),
        steps=steps,
        weights=parsed.default_model_filename or DEFAULT_WEIGHTS,
    )


def _tensor(model: str, tensor: Any) -> Tensor:
    name = model_config_pb2.DataType.Name(tensor.data_type)
    if name not in DTYPE_BY_NAME:
        raise ModelError(model, f"config.pbtxt: {tensor.name} has type {name}, which the node does not use")
    return Tensor(tensor.name, tuple(tensor.dims), DTYPE_BY_NAME[name])
