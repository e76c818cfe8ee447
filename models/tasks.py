"""What an ensemble is asked and how: the little in which the ensembles of this repository differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from models import data, policy
from models.configuration import combine_name
from models.graphs import MIRRORED_LEFT_RIGHT, Mirrors

RADIOGRAPH_STRIDE = 32
VOLUME_STRIDE = 8
PARITY_TOLERANCE = {
    "probability": 0.01,
    "interval": 0.02,
    "activation_map": 0.05,
    "out_of_distribution": 0.05,
}


@dataclass(frozen=True, slots=True)
class Task:
    """Shapes without the batch axis; `form_by_trunk` says how the weights of each kind are stored.

    `parity_tolerance`: how far the served graphs may be from the networks as trained, by output.
    """

    name: str
    classes: Sequence[str]
    image_shape: tuple[int, ...]
    map_shape: tuple[int, ...]
    image_type: torch.dtype
    mirrors: Mirrors
    serving: policy.Serving
    form_by_trunk: Mapping[str, str]
    parity_tolerance: Mapping[str, float]

    @property
    def combine(self) -> str:
        """The name of the graph that joins the members' answers."""
        return combine_name(self.name)


def radiograph_task(size: int) -> Task:
    """Return the task of radiographs with so many pixels along a side."""
    return Task(
        name="chest_xray",
        classes=data.CLASSES,
        image_shape=(1, size, size),
        map_shape=(size // RADIOGRAPH_STRIDE,) * 2,
        image_type=torch.float32,
        mirrors=MIRRORED_LEFT_RIGHT,
        serving=policy.Serving(),
        # A ResNet-50 has three times the weights of a DenseNet-121; int8 makes up for half of that.
        form_by_trunk={"densenet121": "float16", "resnet50": "int8"},
        parity_tolerance=PARITY_TOLERANCE,
    )


def candidate_task(side: int) -> Task:
    """Return the task of one candidate for a nodule, in a cube of so many voxels along a side."""
    return Task(
        name="chest_ct",
        classes=("Nodule", "Malignant"),
        image_shape=(1, side, side, side),
        map_shape=(side // VOLUME_STRIDE,) * 3,
        image_type=torch.int16,
        # A nodule has no upper side: each axis may be turned around.
        mirrors=((), (2,), (3,), (4,)),
        serving=policy.Serving(),
        # Small enough as they are: int8 would move the out-of-distribution score by a tenth.
        form_by_trunk={"resnet18": "float16", "densenet": "float16"},
        parity_tolerance=PARITY_TOLERANCE,
    )
