"""3-D residual, dense and U-shaped networks, and what gradient checkpointing may change of them."""

from collections.abc import Callable

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from models.volume import (
    LAYERS_OF_DENSENET,
    DenseLayer,
    ResidualBlock,
    Transition,
    UNet,
    VolumeNetwork,
    normalize,
)

SIDE = 16


def cubes(n: int = 2, side: int = SIDE) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randint(-1000, 400, (n, 1, side, side, side), generator=random).float()


def classifier(trunk: str, *, is_checkpointed: bool = False) -> VolumeNetwork:
    torch.manual_seed(2)
    return VolumeNetwork(2, trunk=trunk, width=4, scores=3, dropout=0.0, is_checkpointed=is_checkpointed)


def segmenter(*, is_checkpointed: bool = False) -> UNet:
    torch.manual_seed(2)
    return UNet(4, is_checkpointed=is_checkpointed)


@pytest.mark.parametrize("trunk", ["resnet18", "densenet"])
def test_a_classifier_answers_with_logits_maps_a_mask_and_scores(trunk: str) -> None:
    lesson = classifier(trunk).learn(cubes())

    assert lesson.answer.logits.shape == (2, 2)
    assert lesson.answer.activation.shape == (2, 2, 2, 2, 2)
    assert lesson.answer.foreign.shape == (2,)
    assert lesson.mask.shape == (2, 1, 8, 8, 8)
    assert lesson.scores.shape == (2, 3)
    torch.testing.assert_close(lesson.answer.attention.flatten(2).sum(dim=2), torch.ones(2, 2))


def test_networks_have_the_blocks_that_give_them_their_names() -> None:
    residual = [part for part in classifier("resnet18").modules() if isinstance(part, ResidualBlock)]
    dense = [part for part in classifier("densenet").modules() if isinstance(part, DenseLayer)]
    transitions = [part for part in classifier("densenet").modules() if isinstance(part, Transition)]

    # Two convolutions each, and the stem: with the classifier's layer that makes 18.
    assert len(residual) == 8
    assert len(dense) == sum(LAYERS_OF_DENSENET)
    assert len(transitions) == 2


def test_a_dense_layer_keeps_what_it_read_and_a_transition_halves() -> None:
    maps = torch.randn(1, 6, 4, 4, 4)

    torch.testing.assert_close(DenseLayer(6, 2)(maps)[:, :6], maps)
    assert DenseLayer(6, 2)(maps).shape[1] == 8
    assert Transition(6)(maps).shape == (1, 3, 2, 2, 2)


def test_a_residual_block_begins_as_the_identity() -> None:
    maps = torch.rand(2, 3, 4, 4, 4)

    torch.testing.assert_close(ResidualBlock(3, 3, 1)(maps), maps)


@pytest.mark.parametrize("shape", [(16, 16, 16), (8, 24, 16)])
def test_a_u_net_gives_a_logit_for_each_voxel(shape: tuple[int, int, int]) -> None:
    logits = segmenter()(torch.zeros(1, 1, *shape))

    assert logits.shape == (1, 1, *shape)
    # Most voxels are no nodule, and an untrained network says so.
    assert torch.sigmoid(logits).mean() < 0.2


@torch.no_grad()
def test_a_voxel_does_not_depend_on_what_is_far_away_in_the_window() -> None:
    network = segmenter().eval()
    plain = torch.full((1, 1, 8, 8, 128), -860.0)
    changed = plain.clone()
    changed[..., 120:] = 40.0

    near, far = (network(image)[..., :16] for image in (plain, changed))

    torch.testing.assert_close(near, far, rtol=0, atol=0)


def test_what_lies_beyond_the_window_looks_like_its_edge() -> None:
    values = torch.tensor([-2000.0, -1000.0, -200.0, 600.0, 3000.0])

    assert normalize(values).tolist() == pytest.approx([-1, -1, 0, 1, 1])
    torch.testing.assert_close(normalize(values.to(torch.int16)), normalize(values))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": lambda **options: classifier("resnet18", **options),
    "densenet": lambda **options: classifier("densenet", **options),
    "unet": lambda **options: segmenter(**options),
}


def one_step(network: nn.Module) -> tuple[Tensor, int]:
    """Return the loss after one forward and backward pass, and the bytes that were kept for the gradients."""
    kept: dict[int, int] = {}

    def remember(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    network.train()
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        answer = network(cubes())
        loss = (answer if isinstance(answer, Tensor) else answer.logits).square().mean()
    held = sum(kept.values())
    loss.backward()
    return loss.detach(), held


@pytest.mark.parametrize("name", NETWORKS)
def test_checkpointing_keeps_less_and_learns_the_same(name: str) -> None:
    plain, checkpointed = (NETWORKS[name](is_checkpointed=is_it) for is_it in (False, True))

    (loss, held), (other_loss, other_held) = one_step(plain), one_step(checkpointed)

    assert other_held < 0.6 * held
    torch.testing.assert_close(loss, other_loss)
    for (key, one), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, msg=key)
    # A batch that is computed twice is counted once.
    for (key, one), other in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=key)
