"""How far probabilities can be taken at their word, over all labels and for each: log loss, Brier score, calibration
error. Targets are boolean (N, K), or int8 with -1 for unknown cells, which count for nothing."""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import brier_score_loss

NUM_BINS = 15
"""As many as Guo et al. (2017) have. Here each holds as many cells, for most labels are rare: bins of equal width would
be empty but for the first (Nguyen and O'Connor, 2015)."""

LEAST_PROB = 1e-7
"""Probs are kept this far from 0 and 1, so that every loss and every logit is finite."""


@dataclass(frozen=True)
class Bins:
    """What was said and what was so, for cells of like probs: mean prob (B,), share of positives (B,), cells (B,)."""

    prob: np.ndarray
    share: np.ndarray
    count: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error (Guo et al., 2017): how far the two lie apart for the mean cell."""
        return float(np.average(np.abs(self.prob - self.share), weights=self.count)) if len(self.count) else np.nan


def binned(targets: np.ndarray, probs: np.ndarray, num_bins: int = NUM_BINS) -> Bins:
    """The known cells of all labels together, in bins of as many; equal probs are in one, so that bins may be fewer."""
    gold, probs = known(targets, probs)
    if not len(probs):
        return Bins(*np.empty((3, 0)))
    edges = np.quantile(probs, np.arange(1, num_bins) / num_bins, method="inverted_cdf")
    number = np.searchsorted(edges, probs)
    count, said, so = (np.bincount(number, weights, num_bins) for weights in (None, probs, gold))
    some = count > 0
    return Bins(said[some] / count[some], so[some] / count[some], count[some])


def known(targets: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gold and probs of the known cells, one after the other."""
    is_known = targets >= 0
    return targets[is_known] == 1, probs[is_known].astype(np.float64)


def log_loss(targets: np.ndarray, probs: np.ndarray, single_label: bool = False) -> float:
    """The mean of a known cell; with ``single_label``, of a post: of its one label."""
    if single_label:
        likely = probs[targets == 1].astype(np.float64)
    else:
        gold, said = known(targets, probs)
        likely = np.where(gold, said, 1 - said)
    return float(-np.log(np.clip(likely, LEAST_PROB, 1)).mean())


def probability_scores(
    targets: np.ndarray, probs: np.ndarray, labels: tuple[str, ...], single_label: bool = False
) -> dict[str, float]:
    """``log_loss``, ``brier`` and ``ece`` over all labels, and ``brier/<label>`` and ``ece/<label>`` for each.

    The Brier score is the mean of a known cell, of softmax models too; NaN for a label that is nowhere known.
    """
    scores = {"log_loss": log_loss(targets, probs, single_label), **_scores(targets, probs, "")}
    for k, label in enumerate(labels):
        scores |= _scores(targets[:, k], probs[:, k], f"/{label}")
    return scores


def _scores(targets: np.ndarray, probs: np.ndarray, suffix: str) -> dict[str, float]:
    gold, said = known(targets, probs)
    brier = float(brier_score_loss(gold, said, pos_label=True)) if len(gold) else np.nan
    return {f"brier{suffix}": brier, f"ece{suffix}": binned(targets, probs).error}
