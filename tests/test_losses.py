"""Losses: each is its formula, one value a post, and what is unknown counts for nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import log_loss
from torch.nn import functional as F

from emo.config import UserError
from emo.losses import MAX_WEIGHT, check_single_label, goals_of, make_loss, prevalence_of

OF_LABELS = ("bce", "weighted-bce", "focal", "asymmetric", "soft")
PREVALENCE = torch.tensor([0.5, 0.2, 0.01])


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, goals between 0 and 1, and which of them are known, (B, 3)."""
    shape = (draw(st.integers(1, 6)), 3)
    logits = draw(hnp.arrays(np.float32, shape, elements=st.floats(-30, 30, width=32)))
    goals = draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.25, 1.0])))
    return tuple(torch.as_tensor(each) for each in (logits, goals, draw(hnp.arrays(bool, shape))))


def reference(name: str, logits: torch.Tensor, goals: torch.Tensor) -> np.ndarray:
    """The same losses (B, K) in plain numpy and double precision."""
    x, y = logits.double().numpy(), goals.double().numpy()
    p, log_p, log_q = 1 / (1 + np.exp(-x)), -np.logaddexp(0, -x), -np.logaddexp(0, x)
    if name == "focal":
        return -(y * (1 - p) ** 2 * log_p + (1 - y) * p**2 * log_q)
    if name == "asymmetric":
        shifted = np.maximum(p - 0.05, 0)
        return -(y * (1 - p) * log_p + (1 - y) * shifted**4 * np.log(1 - shifted))
    weights = np.array([1.0, 4.0, MAX_WEIGHT]) if name == "weighted-bce" else 1.0
    return -(y * weights * log_p + (1 - y) * log_q)


@pytest.mark.parametrize("name", OF_LABELS)
@settings(max_examples=50, deadline=None)
@given(cases())
def test_a_posts_loss_is_the_mean_of_its_formula_over_known_labels(name, case):
    logits, goals, known = case
    losses = reference(name, logits, goals)
    loss_of = make_loss(name, PREVALENCE)
    np.testing.assert_allclose(loss_of(logits, goals), losses.mean(axis=1), rtol=1e-4, atol=1e-5)
    wanted = np.where(known, losses, 0).sum(axis=1) / np.maximum(known.numpy().sum(axis=1), 1)
    some = goals.masked_fill(~known, torch.nan)
    np.testing.assert_allclose(loss_of(logits, some), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*OF_LABELS, "softmax"])
@settings(max_examples=50, deadline=None)
@given(cases(), st.sampled_from([1.0, 5.0]))
def test_gradients_are_finite_and_none_comes_from_the_unknown(name, case, factor):
    logits, goals, known = case
    logits = (factor * logits).requires_grad_()
    make_loss(name, PREVALENCE)(logits, goals.masked_fill(~known, torch.nan)).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[~known] == 0).all()


@pytest.mark.parametrize("name", OF_LABELS)
def test_the_gradient_leads_to_what_is_aimed_at(name):
    logits = torch.zeros(2, 3, requires_grad=True)
    goals = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    make_loss(name, PREVALENCE)(logits, goals).sum().backward()
    assert torch.equal(logits.grad.sign(), 1 - 2 * goals)


def test_focal_losses_hardly_count_what_is_read_rightly():
    goals, right = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, -3.0]])
    bce, focal, asymmetric = (make_loss(name, PREVALENCE[:2])(right, goals) for name in ("bce", "focal", "asymmetric"))
    assert focal < 0.01 * bce
    negative = make_loss("asymmetric", PREVALENCE[:1])(right[:, 1:], goals[:, 1:])
    assert negative == 0  # its prob, 0.047, is below the margin
    assert focal < asymmetric < bce


def test_cross_entropy_is_sklearns():
    logits, labels = torch.randn(20, 4, dtype=torch.double), torch.randint(4, (20,))
    losses = make_loss("softmax", PREVALENCE)(logits, F.one_hot(labels, 4).double())
    assert losses.shape == (20,)
    assert losses.mean().item() == pytest.approx(log_loss(labels, logits.softmax(1), labels=range(4)), rel=1e-5)


def test_cross_entropy_aims_at_shares_of_the_sum_and_leaves_unknown_labels_out():
    logits = torch.tensor([[1.0, 2.0, 90.0], [1.0, 2.0, 3.0], [0.0, 1.0, 2.0]])
    goals = torch.tensor([[0.2, 0.6, torch.nan], [torch.nan] * 3, [0.0, 0.0, 0.0]])
    losses = make_loss("softmax", PREVALENCE)(logits, goals)
    wanted = F.cross_entropy(logits[0, :2], torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(losses, torch.tensor([wanted, 0.0, 0.0]))


def test_prevalence_is_that_of_posts_that_know_the_label():
    goals = torch.tensor([[1.0, torch.nan], [0.0, torch.nan], [0.5, torch.nan]])
    torch.testing.assert_close(prevalence_of(goals), torch.tensor([2.5 / 5, 1 / 2]))


def test_goals_are_targets_or_shares():
    targets = np.array([[1, 0, -1]], np.int8)
    shares = np.array([[0.6, 0.4, np.nan]], np.float32)
    for loss, trains_on, wanted in [
        ("bce", "threshold", [1.0, 0.0]),
        ("bce", "soft", [0.6, 0.4]),
        ("focal", "draw", [0.6, 0.4]),
        ("soft", "threshold", [0.6, 0.4]),
    ]:
        goals = goals_of(targets, shares, trains_on, loss)
        assert goals.dtype == torch.float32
        torch.testing.assert_close(goals, torch.tensor([[*wanted, torch.nan]]), equal_nan=True)
    torch.testing.assert_close(goals_of(targets == 1, None, "soft", "soft"), torch.tensor([[1.0, 0.0, 0.0]]))


def test_softmax_wants_one_label_a_post():
    one = np.eye(3, dtype=np.int8)
    check_single_label({"train": one, "val": np.array([[1, -1, 0]], np.int8), "test": one == 1})
    with pytest.raises(UserError, match=r"--space\.loss softmax .* 2 of 5 labelled posts here have none or several"):
        check_single_label({"train": one, "val": np.array([[1, 1, 0], [0, -1, -1]], np.int8)})
