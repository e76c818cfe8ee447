"""What training minimizes: cross-entropy and focal loss over known labels, and the weights of both."""

import math

import pytest

torch = pytest.importorskip("torch")

from models import losses  # noqa: E402

LOSSES = [losses.masked_binary_cross_entropy, losses.masked_focal_loss]
NAN = float("nan")


def random_cases(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((40, 3), generator=generator) * 3
    return logits, (torch.rand((40, 3), generator=generator) < 0.3).float()


# --- what is unknown -------------------------------------------------------------------------------------


def test_an_unknown_label_weighs_nothing() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0], [0.0, 5.0, -5.0]], requires_grad=True)
    labels = torch.tensor([[1.0, NAN, 0.0], [0.0, NAN, NAN]])
    loss = losses.masked_binary_cross_entropy(logits, labels)
    loss.backward()

    known = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor([0.3, 2.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    )
    torch.testing.assert_close(loss, known)
    assert (logits.grad[torch.isnan(labels)] == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_an_unknown_label_changes_neither_loss_nor_slope(loss) -> None:
    logits, labels = random_cases()
    logits.requires_grad_()
    weights = torch.tensor([[0.5, 1.0, 0.7], [2.0, 1.0, 3.0]])
    hidden = labels.clone()
    hidden[10:] = NAN

    value = loss(logits, hidden, weights=weights)
    value.backward()

    torch.testing.assert_close(value, loss(logits[:10], labels[:10], weights=weights))
    assert (logits.grad[10:] == 0).all()
    assert (logits.grad[:10] != 0).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weights", [None, torch.ones(2, 3)])
def test_a_batch_without_labels_costs_nothing(loss, weights) -> None:
    assert loss(torch.zeros(2, 3), torch.full((2, 3), NAN), weights=weights) == 0


# --- weights, soft labels --------------------------------------------------------------------------------


def test_the_weighted_cross_entropy_is_a_weighted_mean() -> None:
    # At logit 0 each label costs log 2, at logit log 3 a positive costs log(4/3) and a negative log 4.
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    labels = torch.tensor([[1.0, 0.0], [NAN, 1.0]])
    weights = torch.tensor([[9.0, 2.0], [3.0, 5.0]])

    loss = losses.masked_binary_cross_entropy(logits, labels, weights=weights)

    expected = (3 * math.log(2) + 2 * math.log(4) + 5 * math.log(4 / 3)) / (3 + 2 + 5)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_weights_change_nothing(loss) -> None:
    logits, labels = random_cases()

    torch.testing.assert_close(loss(logits, labels, weights=torch.full((2, 3), 7.0)), loss(logits, labels))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_mixed_label_weighs_as_the_mixture_of_its_parts(loss) -> None:
    # Two labels of different weight and price: the mean shows what share the mixed one has.
    logits, labels = torch.tensor([[0.5], [-2.0]]), torch.tensor([[0.25], [0.0]])

    mixed, plain = loss(logits[:1], labels[:1]), loss(logits[1:], labels[1:])
    both = loss(logits, labels, weights=torch.tensor([[2.0], [6.0]]))

    torch.testing.assert_close(both, (3.0 * mixed + 2.0 * plain) / 5.0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("label", [0.0, 0.3, 1.0])
def test_the_loss_is_least_at_the_smoothed_label(loss, label) -> None:
    wanted = label * 0.9 + 0.05
    logit = math.log(wanted / (1 - wanted))
    logits = torch.tensor([logit - 0.2, logit, logit + 0.2])[:, None]

    below, at, above = (loss(one[None], torch.tensor([[label]]), smoothing=0.1) for one in logits)

    assert at < below
    assert at < above


# --- focal loss ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_the_focal_loss_is_that_of_torchvision(gamma) -> None:
    ops = pytest.importorskip("torchvision.ops")
    logits, labels = random_cases()

    loss = losses.masked_focal_loss(logits, labels, gamma=gamma)

    expected = ops.sigmoid_focal_loss(logits, labels, alpha=-1, gamma=gamma, reduction="mean")
    torch.testing.assert_close(loss, expected)


def test_the_focal_loss_by_hand() -> None:
    # Probability 3/4: a positive misses by 1/4, a negative by 3/4.
    logits, labels = torch.full((2, 1), math.log(3)), torch.tensor([[1.0], [0.0]])

    loss = losses.masked_focal_loss(logits, labels, gamma=2.0)

    assert loss.item() == pytest.approx((math.log(4 / 3) / 16 + math.log(4) * 9 / 16) / 2, rel=1e-5)


def test_the_focal_loss_of_a_mixed_label_by_hand() -> None:
    # Probability 3/4 for a label of 1/2: it misses by 1/4.
    loss = losses.masked_focal_loss(torch.tensor([[math.log(3)]]), torch.tensor([[0.5]]), gamma=1.0)

    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2 / 4, rel=1e-5)


def test_gamma_0_is_the_cross_entropy() -> None:
    logits, labels = random_cases()
    labels[3:9, 1], labels[11] = NAN, 0.4
    weights = torch.tensor([[0.5, 1.0, 0.7], [2.0, 1.0, 3.0]])

    focal = losses.masked_focal_loss(logits, labels, smoothing=0.1, gamma=0.0, weights=weights)

    expected = losses.masked_binary_cross_entropy(logits, labels, smoothing=0.1, weights=weights)
    torch.testing.assert_close(focal, expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_slope_of_the_focal_loss_stays_finite_where_a_label_is_met_exactly(gamma) -> None:
    # In float32 the probability of logit 40 is 1.
    logits = torch.tensor([[40.0, -40.0, 0.0, 40.0]], requires_grad=True)

    losses.masked_focal_loss(logits, torch.tensor([[1.0, 0.0, 0.5, 0.0]]), gamma=gamma).backward()

    assert torch.isfinite(logits.grad).all()


def test_the_focal_loss_looks_at_hard_cases_more_than_the_cross_entropy_does() -> None:
    logits, labels = torch.tensor([[4.0], [-1.0]], requires_grad=True), torch.ones(2, 1)

    shares = []
    for loss in LOSSES:
        (slope,) = torch.autograd.grad(loss(logits, labels), logits)
        shares.append((slope[1] / slope.sum()).item())

    assert 0.9 < shares[0] < 0.99 < shares[1]


# --- class-balanced weights ------------------------------------------------------------------------------


def test_class_balanced_weights_by_hand() -> None:
    # Three negatives and one positive of the first class; one of each and two unknown of the second.
    labels = torch.tensor([[0.0, NAN], [0.0, 1.0], [0.0, 0.0], [1.0, NAN]])

    weights = losses.class_balanced_weights(labels, beta=0.5)

    # Effective numbers (1 - 1/8) / (1/2) = 7/4 and 1; their inverses 4/7 and 1 have the mean 19/28.
    assert weights.shape == (2, 2)
    torch.testing.assert_close(weights[:, 0], torch.tensor([16 / 19, 28 / 19]))
    torch.testing.assert_close(weights[:, 1], torch.ones(2))


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.99999])
def test_the_mean_weight_of_known_labels_is_1(beta) -> None:
    _, labels = random_cases()
    labels[5:20, 2] = NAN
    weights = losses.class_balanced_weights(labels, beta)

    given = torch.where(labels == 1, weights[1], weights[0])

    torch.testing.assert_close(given[~torch.isnan(labels)].mean(), torch.tensor(1.0))
    assert (weights[1] >= weights[0]).all()


def test_beta_goes_from_no_balance_to_inverse_counts() -> None:
    labels = torch.tensor([0.0] * 30 + [1.0] * 10)[:, None]

    even, inverse = (losses.class_balanced_weights(labels, beta) for beta in (0.0, 1 - 1e-7))

    torch.testing.assert_close(even, torch.ones(2, 1))
    # Inverse counts: both kinds weigh 20 of 40 in all.
    torch.testing.assert_close(inverse, torch.tensor([[20 / 30], [20 / 10]]), rtol=1e-4, atol=0)


def test_a_kind_without_cases_has_a_finite_weight() -> None:
    labels = torch.tensor([[0.0, NAN], [0.0, NAN]])

    weights = losses.class_balanced_weights(labels)

    assert torch.isfinite(weights).all()
    assert weights[0, 0] == 1
    assert weights[:, 1].tolist() == [1, 1]


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_a_beta_outside_0_to_1_is_refused(beta) -> None:
    with pytest.raises(ValueError, match="expected 0 <= beta < 1"):
        losses.class_balanced_weights(torch.zeros(2, 1), beta)


# --- attention -------------------------------------------------------------------------------------------


def test_the_attention_loss_by_hand() -> None:
    # Masks of 4 x 4 pixels over attention of 2 x 2 cells: the first holds one pixel of the upper left cell,
    # the second nothing, the third the lower half.
    masks = torch.zeros(3, 1, 4, 4)
    masks[0, 0, 1, 0], masks[2, 0, 2:] = 1.0, 1.0
    attention = torch.tensor([[[0.5, 0.2], [0.2, 0.1]], [[0.25] * 2] * 2, [[0.1, 0.1], [0.2, 0.6]]])

    loss = losses.attention_loss(attention, masks, torch.tensor([1.0, 1.0, 3.0]))

    assert loss.item() == pytest.approx(-(math.log(0.5) + 3 * math.log(0.8)) / 4, rel=1e-5)


def test_a_batch_without_masks_asks_nothing_of_the_attention() -> None:
    assert losses.attention_loss(torch.rand(2, 3, 3), torch.zeros(2, 1, 9, 9), torch.ones(2)) == 0
