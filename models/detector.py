"""The networks that find lesions on a radiograph: a Faster R-CNN and a YOLO, both for one gray channel.

Both look at a pyramid of maps whose places are 4, 8, 16 and 32 pixels apart: a nodule of 4 mm is about six
pixels wide on a square of 512, and a lung up to 460 high. Boxes are left, top, right, bottom in pixels of
the square, as in node.domain.location.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from models.detector_losses import focal_loss, hardest_negatives, kind_loss, partial_cross_entropy
from models.radiograph import MEAN, STANDARD_DEVIATION, stem
from models.slide import resnet10_trunk

LABELS = ("", "Nodule", "Mass", "Consolidation", "Right lung", "Left lung")
"""What each label stands for; 0 is nothing."""
LESIONS, LUNGS = (1, 2, 3), (4, 5)
SIZE = 512
STRIDES = (4, 8, 16, 32)
# Between the largest lesion of 60 mm, about 100 pixels, and the smallest lung.
LESION_SIDE = 140.0
# By the strides 4 to 64, as sides of a square of the same area. Neighbors differ by a factor of about 1.4, so
# that every lesion between 6 and 120 pixels overlaps some anchor by half, and each level holds those that are
# 1.5 to 5 of its places wide: below that an anchor steps over them, above it sees a part of them.
ANCHOR_SIDES = ((7, 10, 14), (20, 28, 38), (50, 72, 100), (150, 185, 220), (255, 290, 330))
# Height over width: lesions are about round, lungs are upright.
ANCHOR_RATIOS = ((1.0,), (1.0,), (1.0,), (2.2,), (2.2,))
# The longest side in pixels that each stride of the YOLO is asked for.
SIDES_BY_STRIDE = (20.0, 44.0, 100.0, float("inf"))

# The logit that a place begins with: one in a hundred holds something. With one in two the empty ones would
# be all that is learned at first.
RARE = -4.6


class Truth(NamedTuple):
    """What is known of one image: boxes (n, 4), labels (n,), and whether all lesions and lungs have one."""

    boxes: Tensor
    labels: Tensor
    is_lesion_labelled: bool = True
    is_lung_labelled: bool = True

    def unknown(self) -> Tensor:
        """Return by label whether one may be there that has no box (labels,); never of label 0."""
        unknown = torch.zeros(len(LABELS), dtype=torch.bool, device=self.boxes.device)
        unknown[list(LESIONS)] = not self.is_lesion_labelled
        unknown[list(LUNGS)] = not self.is_lung_labelled
        return unknown


def scaled(image: Tensor) -> Tensor:
    """Return images (n, 1, s, s) in 0–1 in the units of the trunks."""
    return (image - MEAN) / STANDARD_DEVIATION


def light_backbone(width: int, channels: int) -> BackboneWithFPN:
    """Return a pyramid on a residual network of one block per stage; its first stage has `width` channels."""
    trunk, _ = resnet10_trunk(1, width)
    # The stem has three layers; the blocks follow, of strides 4, 8, 16 and 32.
    names = {str(index): str(index - 3) for index in range(3, 7)}
    return BackboneWithFPN(trunk, names, [width * scale for scale in (1, 2, 4, 8)], channels)


def resnet50_backbone(width: int, channels: int) -> BackboneWithFPN:
    """Return a pyramid on a ResNet-50 for gray, whose width is fixed."""
    # Each residual branch begins at zero: without pre-trained weights the identity is the better start.
    network = resnet50(weights=None, zero_init_residual=True)
    network.conv1 = stem(1)
    names = {f"layer{index + 1}": str(index) for index in range(4)}
    return BackboneWithFPN(network, names, [256, 512, 1024, 2048], channels)


BACKBONES = {"light": light_backbone, "resnet50": resnet50_backbone}


class LesionProposals(RegionProposalNetwork):
    """Proposals that learn nothing from a place where there may be something without a box."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return 1, 0 or −1 (not asked) for each anchor, and the box that it is to become."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for own, wanted, target in zip(anchors, labels, targets, strict=True):
            sides = ((own[:, 2] - own[:, 0]) * (own[:, 3] - own[:, 1])).sqrt()
            unknown = target["unknown"][[LESIONS[0], LUNGS[0]]]
            is_unknown = torch.where(sides < LESION_SIDE, unknown[0], unknown[1])
            wanted[is_unknown & (wanted == 0)] = -1.0
        return labels, boxes

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the focal loss of all anchors that are asked, and that of boxes, per anchor with a box.

        torchvision draws 256 anchors of an image at random: of some 60 000 hardly ever one beside a rib that
        looks like a nodule.
        """
        wanted = torch.cat(labels)
        positive = torch.nonzero(wanted == 1)[:, 0]
        count = max(len(positive), 1)
        found = focal_loss(objectness.flatten(), torch.where(wanted < 0, torch.nan, wanted))
        deltas, offsets = pred_bbox_deltas[positive], torch.cat(regression_targets)[positive]
        box = functional.smooth_l1_loss(deltas, offsets, beta=1 / 9, reduction="sum")
        return found.sum() / count, box / count


class LesionHeads(RoIHeads):
    """Class and box of each proposal, learned from the hardest of the proposals with nothing in them."""

    def losses(
        self,
        features: Mapping[str, Tensor],
        proposals: list[Tensor],
        sizes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Return the loss of classes, that of the kinds of lesions, and that of boxes."""
        proposals, _, labels, regression = self.select_training_samples(proposals, targets)
        logits, deltas = self.read(features, proposals, sizes)
        unknown = torch.cat(
            [one["unknown"].expand(len(own), -1) for one, own in zip(targets, labels, strict=True)]
        )
        wanted, offsets = torch.cat(labels), torch.cat(regression)
        each = partial_cross_entropy(logits, wanted, unknown)
        is_positive = wanted > 0
        kept = hardest_negatives(each, is_positive)
        positive = torch.nonzero(is_positive)[:, 0]
        own = deltas.reshape(len(wanted), -1, 4)[positive, wanted[positive]]
        box = functional.smooth_l1_loss(own, offsets[positive], beta=1 / 9, reduction="sum")
        is_lesion = torch.isin(wanted, torch.tensor(LESIONS, device=wanted.device))
        kind = kind_loss(logits[is_lesion][:, list(LESIONS)], wanted[is_lesion] - LESIONS[0])
        return {"class": each[kept].mean(), "kind": kind, "box": box / max(int(kept.sum()), 1)}

    def read(
        self, features: Mapping[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Return logits (p, labels) and box offsets (p, 4 labels) of all proposals in a row."""
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, sizes)))
        return logits, deltas


class FasterRcnn(nn.Module):
    """A Faster R-CNN (Ren et al. 2015) of torchvision's parts for images (n, 1, s, s) in 0–1."""

    def __init__(self, backbone: BackboneWithFPN, *, hidden: int, proposals: int) -> None:
        super().__init__()
        self.backbone = backbone
        anchors = AnchorGenerator(ANCHOR_SIDES, ANCHOR_RATIOS)
        self.proposals = LesionProposals(
            anchors,
            RPNHead(backbone.out_channels, anchors.num_anchors_per_location()[0]),
            # A nodule of six pixels overlaps no anchor by the usual 0.7.
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.3,
            batch_size_per_image=128,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2 * proposals, "testing": proposals},
            post_nms_top_n={"training": 2 * proposals, "testing": proposals},
            nms_thresh=0.6,
        )
        nn.init.constant_(self.proposals.head.cls_logits.bias, RARE)
        self.heads = LesionHeads(
            MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2),
            TwoMLPHead(backbone.out_channels * 7 * 7, hidden),
            FastRCNNPredictor(hidden, len(LABELS)),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=64,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.01,
            nms_thresh=0.4,
            detections_per_img=32,
        )

    def features(self, image: Tensor) -> OrderedDict[str, Tensor]:
        """Return the maps of strides 4, 8, 16, 32 and 64."""
        return OrderedDict(self.backbone(scaled(image)))

    def losses(self, image: Tensor, truths: Sequence[Truth]) -> dict[str, Tensor]:
        """Return each part of the loss by its name, of images (n, 1, s, s) and what is known of them."""
        targets = [{"boxes": one.boxes, "labels": one.labels, "unknown": one.unknown()} for one in truths]
        features, images = self.features(image), listed(image)
        proposals, asked = self.proposals(images, features, targets)
        found = self.heads.losses(features, proposals, images.image_sizes, targets)
        return {"objectness": asked["loss_objectness"], "proposal": asked["loss_rpn_box_reg"], **found}

    @torch.no_grad()
    def detect(self, image: Tensor) -> list[dict[str, Tensor]]:
        """Return boxes, scores and labels of each image as torchvision selects them: a peer of the graph."""
        features, images = self.features(image), listed(image)
        proposals, _ = self.proposals(images, features)
        found, _ = self.heads(features, proposals, images.image_sizes)
        return list(found)


def listed(image: Tensor) -> ImageList:
    """Return a batch of images of one size as torchvision's networks take it."""
    size = (int(image.shape[2]), int(image.shape[3]))
    return ImageList(image, [size] * len(image))


def faster_rcnn(
    backbone: str = "light", *, width: int = 32, channels: int = 64, hidden: int = 256, proposals: int = 100
) -> FasterRcnn:
    """Return an untrained Faster R-CNN; `proposals` per level before and per image after suppression."""
    return FasterRcnn(BACKBONES[backbone](width, channels), hidden=hidden, proposals=proposals)


def convolve(before: int, after: int, kernel: int = 3) -> nn.Sequential:
    """Return a convolution with its normalization and activation."""
    convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


class YoloHead(nn.Module):
    """Logits and box of each place of one map, by convolutions alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kind = nn.Sequential(convolve(channels, channels), nn.Conv2d(channels, len(LABELS) - 1, 1))
        self.box = nn.Sequential(convolve(channels, channels), nn.Conv2d(channels, 4, 1))
        nn.init.constant_(self.kind[-1].bias, RARE)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (n, places, labels − 1) and offsets (n, places, 4) of maps (n, channels, h, w)."""
        return self.kind(maps).flatten(2).transpose(1, 2), self.box(maps).flatten(2).transpose(1, 2)


class YoloAnswer(NamedTuple):
    """What a YOLO says: logits (n, places, labels − 1) and boxes (n, places, 4), places by stride and row."""

    logits: Tensor
    boxes: Tensor


class YoloDetector(nn.Module):
    """One pass without anchors for images (n, 1, s, s) in 0–1: each place says what is there and how large.

    Two paths through the pyramid, down and up again, so that the finest map knows the lungs, and the coarsest
    the edges; no layer is tied to the size of the image.
    """

    def __init__(self, width: int = 24, channels: int = 48) -> None:
        super().__init__()
        self.trunk, _ = resnet10_trunk(1, width)
        self.down = FeaturePyramidNetwork([width * scale for scale in (1, 2, 4, 8)], channels)
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            )
            for _ in STRIDES[1:]
        )
        self.heads = nn.ModuleList(YoloHead(channels) for _ in STRIDES)

    def forward(self, image: Tensor) -> YoloAnswer:
        """Return the answer; the boxes are decoded to pixels and may pass the edge of the image."""
        maps, levels = scaled(image), OrderedDict[str, Tensor]()
        for index, layer in enumerate(self.trunk):
            maps = layer(maps)
            if index >= 3:
                levels[str(index)] = maps
        pyramid = list(self.down(levels).values())
        for index, step in enumerate(self.up):
            pyramid[index + 1] = pyramid[index + 1] + step(pyramid[index])
        answers = [head(one) for head, one in zip(self.heads, pyramid, strict=True)]
        logits, offsets = (torch.cat(parts, dim=1).float() for parts in zip(*answers, strict=True))
        places = places_of(int(image.shape[-2]), int(image.shape[-1])).to(offsets)
        return YoloAnswer(logits, decode(offsets, places))


def places_of(rows: int, columns: int) -> Tensor:
    """Return the middle and stride (places, 3; x, y, pixels) of each place of the maps of an image."""
    parts = []
    for stride in STRIDES:
        y, x = (torch.arange(-(-side // stride)) * stride + stride / 2 for side in (rows, columns))
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2).flatten(0, 1)
        parts.append(functional.pad(grid, (0, 1), value=float(stride)))
    return torch.cat(parts)


def decode(offsets: Tensor, places: Tensor) -> Tensor:
    """Return the boxes (n, places, 4) that offsets from places mean: middle and logarithm of the size."""
    stride = places[:, 2:]
    middle = places[:, :2] + offsets[..., :2] * stride
    # So far that no box is larger than the image by much: the logarithm of an early network may be anything.
    half = offsets[..., 2:].clamp(-4.0, 4.0).exp() * stride / 2
    return torch.cat([middle - half, middle + half], dim=-1)
