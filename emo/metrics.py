"""How good predicted label sets are; scikit-learn's definitions, a label without support counting as F1 0.

Targets are boolean (N, K), or int8: 1 present, 0 absent, -1 unknown, where nobody could give the label. What is
unknown counts for nothing: neither the cell, nor a post or a label of which nothing is known.
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

T = TypeVar("T")

METRICS = ("macro_f1", "micro_f1", "weighted_f1", "subset_accuracy", "jaccard", "hamming")
"""What :func:`score` tells of all labels together."""

MAX_WEIGHTS = 200_000_000
"""Weights that a bootstrap draws in all: with more than 200,000 distinct rows it makes do with fewer resamples."""
LEAST_RESAMPLES = 200
WEIGHTS_AT_ONCE = 8_000_000
"""Weights held at a time, 32 MB of them."""
ROWS_AT_ONCE = 8192
FREQUENT = 32
"""A kind of post that occurs so often is cheaper to draw by the binomial distribution than post by post."""


def label_f1(targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 of each label (K,) from (N, K) arrays, 0 where it is unknown; the fast form that runs at every epoch."""
    if targets.dtype != bool:
        targets, predicted = targets == 1, predicted & (targets >= 0)
    hits = (targets & predicted).sum(axis=0)
    total = targets.sum(axis=0) + predicted.sum(axis=0)
    return 2 * hits / np.maximum(total, 1)


def macro_f1(targets: np.ndarray, predicted: np.ndarray) -> float:
    """The mean F1 of the labels of which anything is known."""
    f1 = label_f1(targets, predicted)
    if targets.dtype != bool and not (told := (targets >= 0).any(axis=0)).all():
        f1 = f1[told] if told.any() else np.zeros(1)
    return float(f1.mean())


def score(targets: np.ndarray, predicted: np.ndarray, labels: tuple[str, ...] = ()) -> dict[str, float]:
    """Every metric of (N, K) arrays, and ``f1/<label>`` for each of ``labels``; something must be known."""
    gold, given, known = known_cells(targets, predicted)
    posts, told = known.any(axis=1), known.any(axis=0)
    y, p = (part[posts][:, told].astype(np.uint8) for part in (gold, given))
    if y.shape[1] == 1:  # scikit-learn takes one column for two classes; twice the same label has the metrics of one
        y, p = np.repeat(y, 2, axis=1), np.repeat(p, 2, axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = {
            "macro_f1": f1_score(y, p, average="macro", zero_division=0),
            "micro_f1": f1_score(y, p, average="micro", zero_division=0),
            "weighted_f1": f1_score(y, p, average="weighted", zero_division=0),
            "subset_accuracy": accuracy_score(y, p),
            # a post that has no label and is given none is read rightly: its Jaccard index is 1
            "jaccard": jaccard_score(y, p, average="samples", zero_division=1),
            "hamming": (gold != given).sum() / known.sum(),  # hamming_loss would divide by the unknown cells, too
        }
    metrics |= {f"f1/{label}": value for label, value in zip(labels, label_f1(targets, predicted), strict=False)}
    return {name: float(value) for name, value in metrics.items()}


def known_cells(targets: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boolean gold, predicted and known (N, K); what is unknown is neither gold nor predicted."""
    if targets.dtype == bool:
        return targets, predicted, np.ones(targets.shape, bool)
    known = targets >= 0
    return targets == 1, predicted & known, known


def bootstrap_intervals(
    targets: np.ndarray,
    predicted: np.ndarray,
    labels: tuple[str, ...],
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """The percentile interval of every metric of :func:`score` over resamples of the posts (Efron, 1979).

    Posts with the same targets and predictions are of a kind, so that it is enough to draw how often each kind occurs.
    """
    kinds, counts = distinct_rows(targets, predicted)
    num_resamples = min(num_resamples, max(LEAST_RESAMPLES, MAX_WEIGHTS // len(kinds)))
    drawn = _resamples(counts, num_resamples, np.random.default_rng(seed))
    values = weighted_scores(targets[kinds], predicted[kinds], drawn, labels)
    edges = (1 - level) / 2, (1 + level) / 2
    intervals = {name: np.quantile(of_resamples, edges) for name, of_resamples in values.items()}
    return {name: (float(low), float(high)) for name, (low, high) in intervals.items()}


def _resamples(counts: np.ndarray, num_resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each kind of post occurs in resamples of the posts: in parts (B, U), ``num_resamples`` rows in all.

    The frequent kinds are drawn by their multinomial distribution together with the number of all other posts, and
    these post by post.
    """
    rare = np.flatnonzero(counts < FREQUENT)
    often = np.flatnonzero(counts >= FREQUENT)
    posts = np.repeat(np.arange(len(rare)), counts[rare])
    shares = np.append(counts[often], len(posts)) / counts.sum()
    at_once = max(1, WEIGHTS_AT_ONCE // len(counts))
    for start in range(0, num_resamples, at_once):
        drawn = rng.multinomial(counts.sum(), shares, size=min(at_once, num_resamples - start))
        weights = np.empty((len(drawn), len(counts)), np.int32)
        weights[:, often] = drawn[:, :-1]
        for row, num_rare in zip(weights, drawn[:, -1], strict=True):
            row[rare] = np.bincount(posts[rng.integers(max(1, len(posts)), size=num_rare)], minlength=len(rare))
        yield weights


def weighted_scores(
    targets: np.ndarray, predicted: np.ndarray, weights: Iterable[np.ndarray], labels: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Every metric of :func:`score` of the posts (N, K), for each of several ways to count them.

    ``weights`` come in parts (B, N): how often each post occurs. The metrics have a value for each of their rows.
    """
    counts, jaccard = countable(targets, predicted)
    parts = [figures(*weighted_sums(part, counts, jaccard), labels) for part in weights]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def weighted_sums(weights: np.ndarray, counts: np.ndarray, jaccard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the posts add up to: (B, 4K + 3) and (B,)."""
    total, index = np.zeros((len(weights), counts.shape[1])), np.zeros(len(weights))
    for start in range(0, len(counts), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        factor = weights[:, rows].astype(np.float64, copy=False)
        total += factor @ counts[rows]
        index += factor @ jaccard[rows]
    return total, index


def figures(sums: np.ndarray, jaccard: np.ndarray, labels: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Every metric (B,) from sums of :func:`countable`."""
    hits, total, support, told = np.split(sums[:, :-3], 4, axis=1)
    right, wrong, posts = sums[:, -3:].T
    f1 = 2 * hits / np.maximum(total, 1)
    metrics = {
        "macro_f1": f1.sum(axis=1) / np.maximum((told > 0).sum(axis=1), 1),
        "micro_f1": 2 * hits.sum(axis=1) / np.maximum(total.sum(axis=1), 1),
        "weighted_f1": (f1 * support).sum(axis=1) / np.maximum(support.sum(axis=1), 1),
        "subset_accuracy": right / np.maximum(posts, 1),
        "jaccard": jaccard / np.maximum(posts, 1),
        "hamming": wrong / np.maximum(told.sum(axis=1), 1),
    }
    return metrics | {f"f1/{label}": f1[:, k] for k, label in enumerate(labels)}


def countable(targets: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each post adds to the sums that metrics are made of.

    Small integers (N, 4K + 3): by label whether it is a hit, how often it is gold or predicted, whether it is gold and
    whether it is known; then whether the post is read rightly, how many labels are not, and whether the post counts.
    Besides, its Jaccard index (N,).
    """
    gold, given, known = known_cells(targets, predicted)
    counts, wrong, either = known.any(axis=1), (gold != given).sum(axis=1), (gold | given).sum(axis=1)
    jaccard = np.where(either, (gold & given).sum(axis=1) / np.maximum(either, 1), counts)
    by_post = np.stack([counts & (wrong == 0), wrong, counts], axis=1)
    small = np.min_scalar_type(2 + targets.shape[1])
    by_label = (gold & given, gold.astype(np.uint8) + given, gold, known)
    return np.concatenate([part.astype(small) for part in (*by_label, by_post)], axis=1), jaccard


def distinct_rows(targets: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One row of each kind (U,) among (N, K) targets and predictions, and how many rows there are of it (U,)."""
    bits = np.packbits(np.concatenate(known_cells(targets, predicted), axis=1), axis=1)
    words = np.pad(bits, [(0, 0), (0, -bits.shape[1] % 8)]).view(np.uint64)
    order = np.lexsort(words.T)
    changes = (words[order[1:]] != words[order[:-1]]).any(axis=1)
    starts = np.flatnonzero(np.concatenate([[True], changes]))
    return order[starts], np.diff(starts, append=len(order))


def prefixed(prefix: str, metrics: dict[str, T]) -> dict[str, T]:
    """The same metrics named as of a split, as in ``test/macro_f1``."""
    return {f"{prefix}/{name}": value for name, value in metrics.items()}
