"""The graphs that are served for lesions: a detector with all that follows it, and one that lays both aside.

Decoding, suppression and the choice of the best boxes are part of the graph and hold for any number of
images: each answer has the same length, so that images can be batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, nms, roi_align

from models.detector import LABELS, LESIONS, LUNGS, FasterRcnn, YoloDetector, listed

COUNT = 32
"""Boxes of each answer, the surest first; what is missing has score 0 and label 0."""
CANDIDATES = 256
DETECTOR_OUTPUTS = ("boxes", "scores", "labels")
NAMED_OUTPUTS = (*DETECTOR_OUTPUTS, "kinds")
"""Those of a detector whose lesions are named by models.detector_kinds."""
# Two kinds of lesion at one place are one lesion; a lesion lies on a lung.
GROUPS = tuple(min(LESIONS) if label in LESIONS else label for label in range(len(LABELS)))
SUPPRESSED_OVERLAP = 0.4
LEAST_SCORE = 0.01
LEAST_SIDE = 1e-2
EDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Platt:
    """What makes the scores of one label probabilities: sigmoid(slope × logit + offset), slope above 0."""

    slope: float = 1.0
    offset: float = 0.0


AS_THEY_ARE = (Platt(),) * (len(LABELS) - 1)


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, least: float) -> Tensor:
    """Return the scores (n, c), 0 of each box that overlaps a surer one of its image and group by `least`.

    Boxes (n, c, 4) lie within one square; groups (n, c) are whole numbers from 0.
    """
    images = torch.arange(boxes.shape[0], device=boxes.device)[:, None]
    # Each image and group has a place of its own, so that one pass serves all, as torchvision does it.
    span = boxes.detach().amax() + 1.0
    apart = (images * (len(LABELS) + 2) + groups).to(boxes.dtype) * span
    kept = nms((boxes + apart[..., None]).flatten(0, 1), scores.flatten(), least)
    flat = torch.zeros_like(scores.flatten()).scatter(0, kept, torch.ones_like(kept, dtype=scores.dtype))
    return scores * flat.reshape(scores.shape)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Return values (n, c, …) at index (n, k) along their second axis."""
    shape = (*index.shape, *values.shape[2:])
    return values.gather(1, index.reshape(*index.shape, *[1] * (values.ndim - 2)).expand(shape))


class SelectGraph(nn.Module):
    """The best boxes among many candidates: one for each thing, the surest first, with honest scores."""

    def __init__(self, platts: Sequence[Platt] = AS_THEY_ARE, groups: Sequence[int] = GROUPS) -> None:
        super().__init__()
        nothing = Platt()
        self.register_buffer("slope", torch.tensor([one.slope for one in (nothing, *platts)]))
        self.register_buffer("offset", torch.tensor([one.offset for one in (nothing, *platts)]))
        self.register_buffer("groups", torch.tensor(groups))

    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take candidates (n, c, 4), (n, c), (n, c); return DETECTOR_OUTPUTS (n, COUNT, …)."""
        best, index = scores.topk(min(CANDIDATES, scores.shape[1]), dim=1)
        boxes, labels = take(boxes, index), take(labels, index)
        best = torch.where(best > LEAST_SCORE, best, 0.0)
        best = suppress(boxes, best, self.groups[labels], SUPPRESSED_OVERLAP)
        best, index = torch.where(best > 0, self.calibrate(best, labels), 0.0).topk(COUNT, dim=1)
        boxes, labels = take(boxes, index), take(labels, index)
        is_there = best > 0
        return boxes * is_there[..., None], best, labels * is_there

    def calibrate(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the probability that there is such a thing where the box is."""
        inside = scores.clamp(EDGE, 1.0 - EDGE)
        logits = torch.log(inside) - torch.log1p(-inside)
        return torch.sigmoid(logits * self.slope[labels] + self.offset[labels])


class YoloGraph(nn.Module):
    """A YOLO from the picture to its best boxes."""

    def __init__(self, network: YoloDetector, select: SelectGraph) -> None:
        super().__init__()
        self.network = network
        self.select = select

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return DETECTOR_OUTPUTS of images (n, 1, s, s) in 0–1."""
        answer = self.network(image)
        boxes = clip_boxes_to_image(answer.boxes, (int(image.shape[2]), int(image.shape[3])))
        scores = torch.sigmoid(answer.logits)
        # Of each place the kind of lesion that is most likely, and beside it each lung.
        lesion, kind = scores[..., : len(LESIONS)].max(dim=2, keepdim=True)
        each = torch.cat([lesion, scores[..., len(LESIONS) :]], dim=2)
        lungs = [torch.full_like(kind, label) for label in LUNGS]
        labels = torch.cat([kind + min(LESIONS), *lungs], dim=2)
        # Of all, first those that can be chosen at all: suppression asks for one box per score.
        best, index = each.flatten(1).topk(CANDIDATES, dim=1)
        place = torch.div(index, each.shape[2], rounding_mode="floor")
        return self.select(take(boxes, place), best, take(labels.flatten(1), index))


class FasterRcnnGraph(nn.Module):
    """A Faster R-CNN from the picture to its best boxes, for any number of images of one size.

    torchvision's own way from proposals to boxes goes image by image and gives as many as there are; this one
    says the same of the same weights.
    """

    def __init__(self, network: FasterRcnn, select: SelectGraph, size: int) -> None:
        super().__init__()
        self.network = network
        self.select = select
        self.size = size
        self.count = network.proposals.post_nms_top_n()
        with torch.no_grad():
            image = torch.zeros(1, 1, size, size, device=next(network.parameters()).device)
            maps = list(network.eval().features(image).values())
            (anchors,) = network.proposals.anchor_generator(listed(image), maps)
        per_place = network.proposals.anchor_generator.num_anchors_per_location()
        self.lengths = [one.shape[2] * one.shape[3] * each for one, each in zip(maps, per_place, strict=True)]
        self.register_buffer("anchors", anchors)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return DETECTOR_OUTPUTS of images (n, 1, size, size) in 0–1."""
        features = self.network.features(image)
        proposals, is_there = self.propose(list(features.values()))
        heads = self.network.heads
        logits, deltas = heads.box_predictor(heads.box_head(self.pool(list(features.values()), proposals)))
        boxes = heads.box_coder.decode_single(deltas, proposals.flatten(0, 1))
        boxes = clip_boxes_to_image(boxes.reshape(-1, len(LABELS), 4)[:, 1:], (self.size, self.size))
        scores = torch.softmax(logits, dim=1)[:, 1:] * is_there.flatten()[:, None]
        scores = torch.where((boxes[..., 2:] - boxes[..., :2]).amin(dim=2) >= LEAST_SIDE, scores, 0.0)
        each = (-1, self.count * (len(LABELS) - 1))
        labels = torch.ones_like(scores, dtype=torch.int64).cumsum(dim=1)
        return self.select(boxes.reshape(*each, 4), scores.reshape(each), labels.reshape(each))

    def propose(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return proposals (n, p, 4), the surest of all levels, and which of them are there (n, p)."""
        network, parts = self.network.proposals, []
        anchors = self.anchors.split(self.lengths)
        for level, (objectness, deltas) in enumerate(zip(*network.head(list(maps)), strict=True)):
            scores = objectness.permute(0, 2, 3, 1).flatten(1)
            offsets = deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            best, index = scores.topk(min(network.pre_nms_top_n(), self.lengths[level]), dim=1)
            own = anchors[level][index]
            boxes = network.box_coder.decode_single(take(offsets, index).flatten(0, 1), own.flatten(0, 1))
            boxes = clip_boxes_to_image(boxes.reshape(own.shape), (self.size, self.size))
            parts.append((boxes, torch.sigmoid(best), torch.full_like(index, level)))
        boxes, scores, levels = (torch.cat(one, dim=1) for one in zip(*parts, strict=True))
        scores = torch.where((boxes[..., 2:] - boxes[..., :2]).amin(dim=2) >= network.min_size, scores, 0.0)
        best, index = suppress(boxes, scores, levels, network.nms_thresh).topk(self.count, dim=1)
        return take(boxes, index), best > 0

    def pool(self, maps: Sequence[Tensor], proposals: Tensor) -> Tensor:
        """Return the features (n p, channels, 7, 7) of proposals, each from the level of its size."""
        pooler = self.network.heads.box_roi_pool
        flat = proposals.flatten(0, 1)
        images = torch.arange(proposals.shape[0], device=flat.device)[:, None].expand(proposals.shape[:2])
        regions = torch.cat([images.reshape(-1, 1).to(flat.dtype), flat], dim=1)
        areas = (flat[:, 2:] - flat[:, :2]).clamp(min=0.0).prod(dim=1)
        scale = torch.log2(areas.sqrt() / pooler.canonical_scale + 1e-12) + pooler.canonical_level + 1e-6
        # 2 is the level of stride 4, the first.
        level = (scale.floor() - 2).clamp(0, len(pooler.featmap_names) - 1)
        sampling = pooler.sampling_ratio
        return torch.stack(
            [
                roi_align(one, regions, pooler.output_size, 2.0 ** -(index + 2), sampling)
                * (level == index)[:, None, None, None]
                for index, one in enumerate(maps[: len(pooler.featmap_names)])
            ]
        ).sum(dim=0)


class StackGraph(nn.Module):
    """The answers of all members beside each other; the node joins them (node.imaging.boxes)."""

    def forward(self, *answers: Tensor) -> tuple[Tensor, ...]:
        """Take the boxes of each member, then the other NAMED_OUTPUTS; return each (n, members, …)."""
        members = len(answers) // len(NAMED_OUTPUTS)
        return tuple(
            torch.stack(answers[start : start + members], dim=1) for start in range(0, len(answers), members)
        )


def detector_graph(
    network: FasterRcnn | YoloDetector, size: int, platts: Sequence[Platt] = AS_THEY_ARE
) -> nn.Module:
    """Return the graph of either detector."""
    select = SelectGraph(platts)
    if isinstance(network, YoloDetector):
        return YoloGraph(network, select).eval()
    return FasterRcnnGraph(network.eval(), select, size).eval()
