"""Weights from files: earlier checkpoints of our own, and DenseNets of TorchXRayVision."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from models.radiograph import MEAN, STANDARD_DEVIATION, RadiographNetwork

TORCHXRAYVISION = "torchxrayvision:"
XRV_RANGE = 1024.0
"""TorchXRayVision's networks take images in -1024 to 1024 (its `datasets.normalize`)."""

Json = dict[str, Any]


class CheckpointError(ValueError):
    """A file does not hold the weights that were expected; the message says what differs."""


def load_initial(network: RadiographNetwork, source: str) -> list[Json]:
    """Give a network the weights of a file, and return the stages of training that made them.

    `source` is a checkpoint of models.train, or `torchxrayvision:PATH` for a DenseNet-121 of
    TorchXRayVision, of which the trunk is taken. Raises FileNotFoundError and CheckpointError.
    """
    if source.startswith(TORCHXRAYVISION):
        path = Path(source.removeprefix(TORCHXRAYVISION))
        load_torchxrayvision(network, path)
        return [{"started_from": f"TorchXRayVision, {path.name}"}]
    earlier = torch.load(source, map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(earlier["weights"])
        stages: list[Json] = earlier["stages"]
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{source} is no checkpoint of this network: {error}") from error
    return stages


def load_torchxrayvision(network: RadiographNetwork, path: Path) -> None:
    """Give a DenseNet-121 the trunk of a TorchXRayVision checkpoint: a state dict, or a whole stored model.

    Its first layer is scaled so that it takes our images: TorchXRayVision's are in -1024 to 1024, and what
    the shift of the zero does at the padded border is neglected.
    """
    stored = read_state_dict(path)
    trunk = {name.removeprefix("features."): stored[name] for name in stored if name.startswith("features.")}
    expected = network.trunk.state_dict()
    wrong = sorted(expected.keys() ^ trunk.keys()) or sorted(
        name for name in expected if expected[name].shape != trunk[name].shape
    )
    if wrong:
        raise CheckpointError(
            f"{path} is no DenseNet-121 for gray images: {len(wrong)} differ, first {wrong[0]}"
        )
    # Theirs is x = 2048 u - 1024 of our image u in 0-1, and ours u = STANDARD_DEVIATION n + MEAN.
    scale, shift = 2 * XRV_RANGE * STANDARD_DEVIATION, XRV_RANGE * (2 * MEAN - 1)
    first = trunk["conv0.weight"]
    trunk["norm0.running_mean"] = trunk["norm0.running_mean"] - shift * first.sum(dim=(1, 2, 3))
    trunk["conv0.weight"] = first * scale
    network.trunk.load_state_dict(trunk)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict, or of a whole model that was pickled, by their names.

    Nothing in the file is run: of a pickled model only its tensors are taken, whatever its classes are.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_inert_pickle)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if isinstance(stored, Shell):
        return dict(_tensors(stored, ""))
    if isinstance(stored, dict) and all(isinstance(value, Tensor) for value in stored.values()):
        return dict(stored)
    raise CheckpointError(f"{path} holds {type(stored).__name__}, expected a state dict or a model")


class Shell:
    """Stands for an object of any class in a pickle: its attributes, and none of its code."""

    def __init__(self, *_: object, **__: object) -> None:
        """Take what the class would have been made from, and make nothing of it."""

    def __setstate__(self, state: object) -> None:
        """Keep the attributes."""
        if isinstance(state, dict):
            self.__dict__.update(state)


def _tensors(module: Shell, prefix: str) -> list[tuple[str, Tensor]]:
    """Return the parameters and buffers below a pickled module, named as in its state dict."""
    attributes = vars(module)
    own = {**attributes.get("_parameters", {}), **attributes.get("_buffers", {})}
    found = [(prefix + name, value) for name, value in own.items() if isinstance(value, Tensor)]
    for name, part in attributes.get("_modules", {}).items():
        if isinstance(part, Shell):
            found += _tensors(part, f"{prefix}{name}.")
    return found


# What tensors are made of; every other name in a pickle becomes a Shell.
_SAFE = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return what is safe to build, and a Shell for everything else."""
        if module == "torch" and (name.endswith("Storage") or name in ("Size", "float32", "int64")):
            return getattr(torch, name)
        return _SAFE.get((module, name), Shell)


# torch.load asks for a module that has an Unpickler.
_inert_pickle = ModuleType("inert_pickle")
_inert_pickle.Unpickler = _InertUnpickler  # type: ignore[attr-defined]
