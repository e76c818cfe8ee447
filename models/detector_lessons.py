"""What the detectors learn of each place: whether something is there, what, and how large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.detector import (
    LABELS,
    LESIONS,
    SIDES_BY_STRIDE,
    SIZE,
    STRIDES,
    FasterRcnn,
    Truth,
    YoloDetector,
    faster_rcnn,
    places_of,
)
from models.detector_losses import area, focal_loss, kind_loss, overlaps

FASTER_RCNN, YOLO = "chest_xray_faster_rcnn", "chest_xray_yolo"
KINDS = "chest_xray_kinds"
# Places within so many strides of a box's middle are to find it.
REACH = 1.5
# What a place is wanted to say of a box that it does not fit at all; 1 where it fits exactly.
LEAST_WANTED = 0.5
BOX_WEIGHT = 2.0


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """Everything that decides a training run; see Settings of models.train for the common words.

    `films` synthetic ones are drawn, and so many `thoraxes` with a consolidation or nothing; at most `real`
    of each folder of real ones are added: `lungs` with boxes of lungs, `normals` without any finding; empty
    is none. `tuning` more are drawn for the printed figures.
    `crop`: films are shown as pieces of so many pixels, and only the part `whole` of them as a whole too; 0
    shows all as a whole. `planted`: so often a film without a lesion is shown with some (models.planting),
    out of so many `patches`. `mined`: from the second epoch on, this part of an epoch's films is drawn from
    those without a lesion that the network was surest to see one in.
    """

    out: str
    model: str = YOLO
    epochs: int = 15
    size: int = SIZE
    backbone: str = "light"
    width: int = 24
    channels: int = 32
    hidden: int = 128
    proposals: int = 60
    films: int = 3000
    thoraxes: int = 600
    lungs: str = ""
    normals: str = ""
    real: int = 300
    tuning: int = 60
    batch: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 0.03
    strength: float = 1.0
    crop: int = 256
    whole: float = 0.3
    planted: float = 0.5
    patches: int = 1000
    mined: float = 0.15
    ema_decay: float = 0.995
    patience: int = 0
    init: str = ""
    seed: int = 1
    device: str = "auto"
    threads: int = 2


def make_detector(settings: DetectorSettings) -> FasterRcnn | YoloDetector:
    """Return the untrained network of a run."""
    if settings.model == YOLO:
        return YoloDetector(settings.width, settings.channels)
    return faster_rcnn(
        settings.backbone,
        width=settings.width,
        channels=settings.channels,
        hidden=settings.hidden,
        proposals=settings.proposals,
    )


def detector_loss(network: FasterRcnn | YoloDetector, images: Tensor, truths: Sequence[Truth]) -> Tensor:
    """Return the loss of a batch of images (n, 1, s, s) in 0–1."""
    if isinstance(network, FasterRcnn):
        return torch.stack(list(network.losses(images, truths).values())).sum()
    return yolo_loss(network, images, truths)


def yolo_loss(network: YoloDetector, images: Tensor, truths: Sequence[Truth]) -> Tensor:
    """Return the focal loss of what is where, the GIoU loss of how large it is, and that of kinds."""
    answer = network(images)
    places = places_of(images.shape[-2], images.shape[-1]).to(answer.boxes.device)
    owners = torch.stack([assign(one.boxes, places) for one in truths])
    wanted = torch.stack([wanted_of(one, own) for one, own in zip(truths, owners, strict=True)])
    image, place = torch.nonzero(owners >= 0, as_tuple=True)
    count = max(len(place), 1)
    if len(place):
        owner = owners[image, place]
        starts = torch.tensor([0, *(len(one.boxes) for one in truths)], device=owner.device).cumsum(0)
        boxes = torch.cat([one.boxes for one in truths])[starts[image] + owner]
        overlap, generalized = overlaps(answer.boxes[image, place], boxes)
        # The better a place's own box, the surer it is to be: suppression then keeps the best of them.
        score = LEAST_WANTED + (1 - LEAST_WANTED) * overlap.detach()
        wanted[image, place] = wanted[image, place] * score[:, None]
        fit = (1.0 - generalized).sum()
        labels = torch.cat([one.labels for one in truths])[starts[image] + owner]
        is_lesion = torch.isin(labels, torch.tensor(LESIONS, device=labels.device))
        said = answer.logits[image, place][is_lesion][:, [label - 1 for label in LESIONS]]
        kind = kind_loss(said, labels[is_lesion] - LESIONS[0])
    else:
        fit = kind = answer.boxes.sum() * 0.0
    return (focal_loss(answer.logits, wanted).sum() + BOX_WEIGHT * fit) / count + kind


def assign(boxes: Tensor, places: Tensor) -> Tensor:
    """Return which box (places,) each place is to find, −1 for none: that of its stride, around its middle.

    Where two boxes claim a place the smaller one has it: the larger one has others.
    """
    if not len(boxes):
        return torch.full((len(places),), -1, device=places.device)
    bounds = torch.tensor(SIDES_BY_STRIDE, device=boxes.device)
    level = torch.bucketize((boxes[:, 2:] - boxes[:, :2]).amax(dim=1), bounds)
    stride = torch.tensor(STRIDES, device=boxes.device)[level]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    away = (places[:, None, :2] - middle).abs().amax(dim=2)
    is_claimed = (places[:, 2:] == stride) & (away < REACH * stride)
    cost = torch.where(is_claimed, area(boxes), torch.inf)
    least, owner = cost.min(dim=1)
    return torch.where(least < torch.inf, owner, -1)


def wanted_of(truth: Truth, owner: Tensor) -> Tensor:
    """Return what each place is to say of each label (places, labels − 1): 1, 0, or NaN where not known."""
    wanted = torch.zeros(len(owner), len(LABELS) - 1, device=owner.device)
    wanted[:, truth.unknown()[1:]] = torch.nan
    found = torch.nonzero(owner >= 0)[:, 0]
    # Of what is one thing it is known that it is no other.
    wanted[found] = functional.one_hot(truth.labels[owner[found]] - 1, len(LABELS) - 1).float()
    return wanted
