"""What training makes small: one loss for each post, over the labels that are known of it."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emo.config import Loss, Targets, UserError

LossOf = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, K) and goals (B, K), NaN where unknown, to losses (B,)."""

MAX_WEIGHT = 20.0
"""A label with fewer than one positive in 21 posts weighs no more than with so many: a handful of posts, some of them
mislabelled, would else outweigh all others."""


def make_loss(name: Loss, prevalence: Tensor) -> LossOf:
    """The loss of that name; ``prevalence`` (K,) is how much of train has each label.

    A post's loss is the mean over its known labels, or the cross-entropy over them, and 0 where none is known.
    """
    if name == "softmax":
        return cross_entropy
    of_labels: dict[str, LossOf] = {
        "bce": binary_cross_entropy,
        "soft": binary_cross_entropy,
        "weighted-bce": partial(binary_cross_entropy, weight=positive_weights(prevalence)),
        "focal": partial(focal, gamma_pos=2.0, gamma_neg=2.0),
        "asymmetric": partial(focal, gamma_pos=1.0, gamma_neg=4.0, margin=0.05),
    }
    return partial(mean_of_known, of_labels[name])


def mean_of_known(of_labels: LossOf, logits: Tensor, goals: Tensor) -> Tensor:
    """The mean (B,) over the known labels of what ``of_labels`` gives (B, K)."""
    unknown = goals.isnan()
    if logits.device.type == "cpu" and not unknown.any():  # elsewhere, asking would wait for the device
        num_labels = logits.shape[1]
        return of_labels(logits, goals) @ logits.new_full((num_labels,), 1 / num_labels)  # a mean takes twice as long
    losses = of_labels(logits, goals.masked_fill(unknown, 0)).masked_fill(unknown, 0)
    return losses.sum(dim=1) / (~unknown).sum(dim=1).clamp(min=1)


def binary_cross_entropy(logits: Tensor, goals: Tensor, weight: Tensor | None = None) -> Tensor:
    """Losses (B, K); ``weight`` (K,) is how much a positive counts."""
    if weight is not None:
        weight = weight.to(logits.device)
    return F.binary_cross_entropy_with_logits(logits, goals, pos_weight=weight, reduction="none")


def positive_weights(prevalence: Tensor) -> Tensor:
    """Negatives by positives (K,), at most MAX_WEIGHT: both then count alike."""
    return ((1 - prevalence) / prevalence).clamp(max=MAX_WEIGHT)


def focal(logits: Tensor, goals: Tensor, gamma_pos: float, gamma_neg: float, margin: float = 0.0) -> Tensor:
    """Losses (B, K) to which labels that are read rightly add little, the less the higher gamma is.

    With one gamma of 2 this is focal loss (Lin et al. 2017, without their alpha). The asymmetric one (Ridnik et al.
    2021) has a higher gamma for negatives than for positives, and counts no negative whose prob is below a margin;
    gammas of 4 and 1 and a margin of 0.05 are those of their code. A goal between 0 and 1 is so much of a positive.
    """
    probs = logits.sigmoid()
    shifted = (probs - margin).clamp(min=0)
    log_negative = torch.log1p(-shifted) if margin else F.logsigmoid(-logits)
    positive = (1 - probs) ** gamma_pos * F.logsigmoid(logits)
    return -(goals * positive + (1 - goals) * shifted**gamma_neg * log_negative)


def cross_entropy(logits: Tensor, goals: Tensor) -> Tensor:
    """Losses (B,) of one choice among the known labels, against the goals as shares of their sum."""
    unknown = goals.isnan()
    wanted = goals.masked_fill(unknown, 0)
    wanted = wanted / wanted.sum(dim=1, keepdim=True).clamp(min=1e-6)
    log_probs = logits.masked_fill(unknown, torch.finfo(logits.dtype).min).log_softmax(dim=1)
    return -(wanted * log_probs.masked_fill(unknown, 0)).sum(dim=1)


def prevalence_of(goals: Tensor) -> Tensor:
    """How much of the posts that know a label has it (K,), in goals (N, K); one post of each kind is added, so that
    none is sure."""
    return (goals.nansum(dim=0) + 1) / ((~goals.isnan()).sum(dim=0) + 2)


def goals_of(targets: np.ndarray, shares: np.ndarray | None, trains_on: Targets, loss: Loss) -> Tensor:
    """What the loss aims at (N, K), float32, NaN where unknown: the targets, or the shares where these are wanted."""
    if shares is not None and (loss == "soft" or trains_on in ("soft", "draw")):
        return torch.tensor(shares, dtype=torch.float32)
    return torch.as_tensor(np.where(targets < 0, np.nan, targets).astype(np.float32))


def is_drawn(trains_on: Targets, loss: Loss) -> bool:
    """Whether the shares that :func:`goals_of` gives are drawn from anew at every epoch."""
    return trains_on == "draw" and loss != "soft"


def check_single_label(targets: dict[str, np.ndarray]) -> None:
    """A UserError unless every post (N, K) of every split has exactly one label, as --space.loss softmax needs it."""
    counts = np.concatenate([(found == 1).sum(axis=1) for found in targets.values()])
    if others := int((counts != 1).sum()):
        raise UserError(
            f"--space.loss softmax reads one label in each post, and {others} of {len(counts)} labelled posts here "
            "have none or several; choose another loss, or leave those posts out."
        )
