"""How sure a leaderboard is: intervals of means over models, and pairs of rows in the same resamples."""

import time

import numpy as np
import pytest

from emo import comparison
from emo.comparison import Judged, draws, intervals, neighbours, resampled
from emo.metrics import bootstrap_intervals, score

LABELS = ("joy", "fear", "awe")


def targets_of(num_posts: int, seed: int = 0) -> np.ndarray:
    """int8, with unknown cells."""
    rng = np.random.default_rng(seed)
    found = (rng.random((num_posts, len(LABELS))) < 0.3).astype(np.int8)
    return np.where(rng.random(found.shape) < 0.1, -1, found).astype(np.int8)


def model(targets: np.ndarray, errors: float, seed: int) -> np.ndarray:
    return (targets == 1) ^ (np.random.default_rng(seed).random(targets.shape) < errors)


def judged(num_posts: int, rows: dict[str, list[float]]) -> Judged:
    """Rows by the share of wrong cells of each of their models."""
    targets, seeds = targets_of(num_posts), iter(range(1, 100))
    predicted = {name: [model(targets, errors, next(seeds)) for errors in each] for name, each in rows.items()}
    return Judged(np.arange(num_posts), targets, predicted)


def brute_force(parts: list[Judged], row: str, num_posts: int, num_resamples: int) -> dict[str, np.ndarray]:
    """The same figures from posts that are written out as often as they were drawn."""
    weights = np.concatenate([part for _, part in draws(num_posts, num_resamples, 0)], axis=1).astype(int)
    assert (weights.sum(axis=1) == num_posts).all()
    found = []
    for weight in weights:
        by_part = []
        for part in parts:
            drawn = np.repeat(np.arange(len(part.posts)), weight[part.posts])
            each = [score(part.targets[drawn], made[drawn], LABELS) for made in part.predicted[row]]
            by_part.append({name: np.mean([metrics[name] for metrics in each]) for name in each[0]})
        found.append({name: np.mean([metrics[name] for metrics in by_part]) for name in by_part[0]})
    return {name: np.array([metrics[name] for metrics in found]) for name in found[0]}


@pytest.mark.parametrize("at_once", [7, 2048])
def test_figures_are_those_of_the_posts_that_were_drawn(monkeypatch, at_once):
    monkeypatch.setattr(comparison, "POSTS_AT_ONCE", at_once)
    part = judged(40, {"a": [0.1, 0.3], "b": [0.2]})
    found = resampled([part], 40, LABELS, num_resamples=15)
    for row in ("a", "b"):
        expected = brute_force([part], row, 40, 15)
        assert list(found[row]) == list(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(found[row][name], values)


def test_folds_are_averaged_and_a_posts_repeats_are_drawn_together(monkeypatch):
    monkeypatch.setattr(comparison, "POSTS_AT_ONCE", 16)
    targets, rng, parts = targets_of(60), np.random.default_rng(5), []
    for deal in (rng.permutation(60), rng.permutation(60)):
        for posts in (np.sort(deal[:30]), np.sort(deal[30:])):
            parts.append(Judged(posts, targets[posts], {"a": [model(targets[posts], 0.2, len(parts))]}))
    found = resampled(iter(parts), 60, LABELS, num_resamples=10)["a"]
    for name, values in brute_force(parts, "a", 60, 10).items():
        np.testing.assert_allclose(found[name], values)


def test_the_interval_of_one_model_is_that_of_its_own_bootstrap():
    part = judged(400, {"a": [0.2]})
    found = intervals(resampled([part], 400, LABELS, num_resamples=4000)["a"])
    expected = bootstrap_intervals(part.targets, part.predicted["a"][0], LABELS, num_resamples=4000)
    for name, (low, high) in expected.items():
        assert found[name] == pytest.approx([low, high], abs=0.1 * (high - low))


def test_intervals_cover_the_truth_as_often_as_they_say():
    truth = score(targets := targets_of(200_000, 9), model(targets, 0.2, 8))["macro_f1"]
    covered = 0
    for seed in range(100):
        targets = targets_of(300, 100 + seed)
        part = Judged(np.arange(300), targets, {"a": [model(targets, 0.2, 500 + seed)]})
        low, high = intervals(resampled([part], 300, LABELS, num_resamples=300)["a"])["macro_f1"]
        covered += low <= truth <= high
    assert 88 <= covered <= 99


def compared(part: Judged) -> list[dict]:
    figures = {n: np.mean([score(part.targets, p)["macro_f1"] for p in made]) for n, made in part.predicted.items()}
    return neighbours(list(figures.items()), resampled([part], len(part.posts), LABELS))


def test_a_row_against_itself_is_no_difference_at_all():
    part = judged(200, {"a": [0.1, 0.2, 0.4]})
    models = part.predicted["a"]
    twins = Judged(part.posts, part.targets, {"a": models, "b": models[::-1]})  # added up in another order
    (pair,) = compared(twins)
    assert pair == {
        "upper": "a",
        "lower": "b",
        "difference": 0,
        "interval": [0, 0],
        "share_higher": 0,
        "better": None,
    }


def test_only_what_is_clearly_better_is_called_so():
    clear, near, turned = compared(judged(500, {"good": [0.1], "poor": [0.3], "as poor": [0.301], "best": [0.05]}))
    assert (clear["better"], clear["share_higher"]) == ("good", 1)
    assert 0 < clear["interval"][0] < clear["difference"] < clear["interval"][1]
    assert near["better"] is None
    assert near["interval"][0] < 0 < near["interval"][1]
    assert turned["better"] == "best"  # below on val, and above on test
    assert turned["interval"][1] < 0


def test_what_models_share_does_not_blur_their_difference():
    """Models that err on the same posts, one on a few more, differ surely, though their own intervals overlap."""
    targets = targets_of(600)
    base = model(targets, 0.2, 1)
    worse = base ^ (model(targets, 0.03, 2) ^ (targets == 1))
    found = resampled([Judged(np.arange(600), targets, {"a": [base], "b": [worse]})], 600, LABELS)
    own = {row: intervals(found[row])["macro_f1"] for row in found}
    assert own["b"][1] > own["a"][0]
    difference = score(targets, base)["macro_f1"] - score(targets, worse)["macro_f1"]
    assert neighbours([("a", difference), ("b", 0.0)], found)[0]["better"] == "a"


def test_a_usual_leaderboard_takes_seconds():
    part = judged(900, {str(row): [0.2] * 10 for row in range(6)})
    started = time.perf_counter()
    resampled([part], 900, LABELS)
    assert time.perf_counter() - started < 15
