"""How sure a leaderboard is: intervals of its figures, and its neighbours compared pair by pair.

Both come from the same resamples of the posts (Efron, 1979): a post that is drawn counts in every model of every row
alike, so that a difference between rows owes nothing to which posts were drawn for which.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emo.metrics import LEAST_RESAMPLES, MAX_WEIGHTS, countable, figures, weighted_sums

LEVEL = 0.95
NUM_RESAMPLES = 1000
POSTS_AT_ONCE = 2048
DIGITS = 12
"""Differences are rounded to so many: the same figures added up in another order are no difference."""

Figures = dict[str, np.ndarray]
"""Metric -> its value in every resample (B,)."""


@dataclass(frozen=True)
class Judged:
    """The posts of one test set, and what the models of every row decided about them."""

    posts: np.ndarray
    """int64 (N,), ascending: which of the posts that are resampled these are."""
    targets: np.ndarray
    """(N, K) as :mod:`emo.metrics` takes them."""
    predicted: dict[str, list[np.ndarray]]
    """By row, the decisions (N, K), boolean, of each of its models."""


def resampled(
    parts: Iterable[Judged], num_posts: int, labels: tuple[str, ...], num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, Figures]:
    """By row, every metric of :func:`emo.metrics.score` in resamples of ``num_posts`` posts.

    A row's figure is the mean over its models in each of the parts (the test sets of folds, say), and then over these.
    A post that several parts hold is drawn for all of them at once. Takes seconds for 60 models and 10,000 posts, and
    with more than 200,000 posts makes do with fewer resamples.
    """
    num_resamples = min(num_resamples, max(LEAST_RESAMPLES, MAX_WEIGHTS // num_posts))
    return mean([_of_part(part, num_posts, labels, num_resamples, seed) for part in parts])


def _of_part(
    part: Judged, num_posts: int, labels: tuple[str, ...], num_resamples: int, seed: int
) -> dict[str, Figures]:
    sums = {
        row: [(np.zeros((num_resamples, 4 * len(labels) + 3)), np.zeros(num_resamples)) for _ in models]
        for row, models in part.predicted.items()
    }
    for first, weights in draws(num_posts, num_resamples, seed):
        low, high = np.searchsorted(part.posts, (first, first + weights.shape[1]))
        if low == high:
            continue
        factor = weights if high - low == weights.shape[1] else weights[:, part.posts[low:high] - first]
        for row, models in part.predicted.items():
            for (total, index), predicted in zip(sums[row], models, strict=True):
                more, more_index = weighted_sums(factor, *countable(part.targets[low:high], predicted[low:high]))
                total += more
                index += more_index
    return {row: _mean([figures(total, index, labels) for total, index in totals]) for row, totals in sums.items()}


def draws(num_posts: int, num_resamples: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """How often each post occurs in resamples of all, some posts at a time: the first of these, and (B, n) float64."""
    rng = np.random.default_rng(seed)
    starts = np.arange(0, num_posts, POSTS_AT_ONCE)
    sizes = np.diff(starts, append=num_posts)
    in_part = rng.multinomial(num_posts, sizes / num_posts, size=num_resamples)
    for first, size, counts in zip(starts.tolist(), sizes.tolist(), in_part.T, strict=True):
        cells = np.repeat(np.arange(num_resamples) * size, counts) + rng.integers(size, size=counts.sum())
        yield first, np.bincount(cells, minlength=num_resamples * size).reshape(-1, size).astype(np.float64)


def mean(parts: Sequence[dict[str, Figures]]) -> dict[str, Figures]:
    """By row, the mean over parts that were resampled alike."""
    return {row: _mean([found[row] for found in parts]) for row in parts[0]}


def _mean(each: Sequence[Figures]) -> Figures:
    return {name: np.mean([found[name] for found in each], axis=0) for name in each[0]}


def intervals(found: Figures, level: float = LEVEL) -> dict[str, list[float]]:
    """The percentile interval [low, high] of each metric."""
    return {name: _interval(values, level) for name, values in found.items()}


def _interval(values: np.ndarray, level: float) -> list[float]:
    return np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist()


def neighbours(
    ordered: Sequence[tuple[str, float]], found: dict[str, Figures], metric: str = "macro_f1", level: float = LEVEL
) -> list[dict[str, Any]]:
    """Each row (name, figure) against the next one below it.

    ``difference`` is the upper figure less the lower one, ``interval`` its interval, ``share_higher`` the share of
    resamples in which the upper one is higher. ``better`` names the better one where the interval excludes 0, and is
    None where the posts cannot tell the two apart. Nothing is corrected for the number of pairs.
    """
    rows = []
    for (upper, high), (lower, low) in itertools.pairwise(ordered):
        differences = (found[upper][metric] - found[lower][metric]).round(DIGITS)
        interval = _interval(differences, level)
        better = upper if interval[0] > 0 else lower if interval[1] < 0 else None
        rows.append(
            {
                "upper": upper,
                "lower": lower,
                "difference": round(high - low, DIGITS),
                "interval": interval,
                "share_higher": float((differences > 0).mean()),
                "better": better,
            }
        )
    return rows
