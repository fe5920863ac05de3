"""Metrics: scikit-learn's own figures, and a fast F1 that agrees with them."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, f1_score, hamming_loss, jaccard_score

from emo import metrics as metrics_module
from emo.metrics import (
    bootstrap_intervals,
    distinct_rows,
    label_f1,
    macro_f1,
    prefixed,
    score,
    weighted_scores,
)


@st.composite
def decisions(draw: st.DrawFn, least_labels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(1, 12), st.integers(least_labels, 5)))
    return draw(hnp.arrays(bool, shape)), draw(hnp.arrays(bool, shape))


@settings(deadline=None)
@given(decisions())
def test_scores_are_those_of_scikit_learn(case):
    y, p = (part.astype(int) for part in case)
    metrics = score(*case)
    for average in ("macro", "micro", "weighted"):
        assert metrics[f"{average}_f1"] == pytest.approx(f1_score(y, p, average=average, zero_division=0))
    assert metrics["subset_accuracy"] == pytest.approx(accuracy_score(y, p))
    assert metrics["hamming"] == pytest.approx(hamming_loss(y, p))
    told = (y | p).any(axis=1)  # scikit-learn warns of samples without any label; they are read rightly
    expected = np.ones(len(y))
    if told.any():
        expected[told] = [jaccard_score(a, b) for a, b in zip(y[told], p[told], strict=True)]
    assert metrics["jaccard"] == pytest.approx(expected.mean())


@settings(deadline=None)
@given(decisions())
def test_label_f1_is_that_of_scikit_learn(case):
    y, p = (part.astype(int) for part in case)
    np.testing.assert_allclose(label_f1(*case), f1_score(y, p, average=None, zero_division=0))
    assert macro_f1(*case) == pytest.approx(score(*case)["macro_f1"])


@settings(deadline=None)
@given(decisions(least_labels=1))
def test_scores_are_shares_and_perfect_decisions_are_perfect(case):
    metrics = score(*case)
    assert all(type(value) is float and 0 <= value <= 1 for value in metrics.values())
    perfect = score(case[0], case[0])
    assert (perfect["subset_accuracy"], perfect["jaccard"], perfect["hamming"]) == (1, 1, 0)
    assert perfect["macro_f1"] == pytest.approx(case[0].any(axis=0).mean())  # without support F1 is 0


def test_a_single_label_is_scored_as_one_label():
    y, p = np.array([[1], [1], [0], [0]], bool), np.array([[1], [0], [1], [0]], bool)
    metrics = score(y, p, ("joy",))
    assert metrics["macro_f1"] == metrics["micro_f1"] == metrics["f1/joy"] == pytest.approx(0.5)
    assert metrics["subset_accuracy"] == metrics["hamming"] == metrics["jaccard"] == 0.5


def test_f1_of_each_label_under_its_name():
    y, p = np.array([[1, 0], [1, 1]], bool), np.array([[1, 0], [0, 1]], bool)
    metrics = score(y, p, ("joy", "fear"))
    assert (metrics["f1/joy"], metrics["f1/fear"]) == (pytest.approx(2 / 3), 1)
    assert prefixed("val", {"macro_f1": 1.0}) == {"val/macro_f1": 1.0}


@st.composite
def partly_known(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """int8 targets with unknown cells, of which at least one is known, and predictions."""
    shape = draw(st.tuples(st.integers(1, 10), st.integers(1, 4)))
    targets = draw(hnp.arrays(np.int8, shape, elements=st.integers(-1, 1)))
    targets[0, 0] = draw(st.integers(0, 1))
    return targets, draw(hnp.arrays(bool, shape))


@settings(deadline=None)
@given(partly_known())
def test_unknown_cells_count_for_nothing(case):
    targets, predicted = case
    known = targets >= 0
    posts = [(t[k] == 1, p[k]) for t, p, k in zip(targets, predicted, known, strict=True) if k.any()]
    by_label = [
        f1_score(targets[k, j] == 1, predicted[k, j], zero_division=0) if k.any() else 0 for j, k in enumerate(known.T)
    ]
    support = (targets == 1).sum(axis=0)
    metrics = score(targets, predicted, tuple("abcd"[: len(by_label)]))
    np.testing.assert_allclose(label_f1(targets, predicted), by_label)
    np.testing.assert_allclose([metrics[f"f1/{name}"] for name in "abcd"[: len(by_label)]], by_label)
    assert metrics["macro_f1"] == pytest.approx(np.mean(np.array(by_label)[known.any(axis=0)]))
    assert macro_f1(targets, predicted) == pytest.approx(metrics["macro_f1"])
    assert metrics["micro_f1"] == pytest.approx(f1_score(targets[known] == 1, predicted[known], zero_division=0))
    assert metrics["weighted_f1"] == pytest.approx((support * by_label).sum() / max(1, support.sum()))
    assert metrics["hamming"] == pytest.approx(((targets[known] == 1) != predicted[known]).mean())
    assert metrics["subset_accuracy"] == pytest.approx(np.mean([(t == p).all() for t, p in posts]))
    jaccard = [(t & p).sum() / (t | p).sum() if (t | p).any() else 1 for t, p in posts]
    assert metrics["jaccard"] == pytest.approx(np.mean(jaccard))


@settings(deadline=None)
@given(decisions(least_labels=1))
def test_targets_that_are_all_known_have_the_same_scores_in_either_type(case):
    targets, predicted = case
    labels = tuple("abcde"[: targets.shape[1]])
    assert score(targets.astype(np.int8), predicted, labels) == score(targets, predicted, labels)
    assert macro_f1(targets.astype(np.int8), predicted) == macro_f1(targets, predicted)


@settings(deadline=None)
@given(st.one_of(decisions(least_labels=1), partly_known()), st.data())
def test_weighted_scores_are_the_scores_of_posts_that_occur_as_often(case, data):
    targets, predicted = case
    weights = data.draw(hnp.arrays(np.int64, (3, len(targets)), elements=st.integers(0, 3)))
    weights[:, 0] += 1  # of this post something is known
    labels = tuple("abcde"[: targets.shape[1]])
    found = weighted_scores(targets, predicted, [weights[:1], weights[1:]], labels)
    for row, weight in enumerate(weights):
        expected = score(np.repeat(targets, weight, axis=0), np.repeat(predicted, weight, axis=0), labels)
        assert list(found) == list(expected)
        assert {name: values[row] for name, values in found.items()} == pytest.approx(expected)


def test_many_posts_are_weighed_in_parts(monkeypatch):
    targets, predicted, _ = corpus(300)
    weights = np.random.default_rng(0).integers(0, 5, (2, 300))
    whole = weighted_scores(targets, predicted, [weights], ("a",))
    monkeypatch.setattr(metrics_module, "ROWS_AT_ONCE", 7)
    in_parts = weighted_scores(targets, predicted, [weights], ("a",))
    for name, values in whole.items():
        np.testing.assert_allclose(in_parts[name], values)


@settings(deadline=None)
@given(st.one_of(decisions(least_labels=1), partly_known()))
def test_distinct_rows_are_those_that_differ_where_it_counts(case):
    targets, predicted = case
    cells = [
        tuple((int(t), bool(p) and t >= 0) for t, p in zip(*row, strict=True))
        for row in zip(targets, predicted, strict=True)
    ]
    kinds, counts = distinct_rows(targets, predicted)
    assert {cells[row]: count for row, count in zip(kinds, counts, strict=True)} == Counter(cells)


def test_distinct_rows_of_more_labels_than_a_word_has_bits():
    targets = np.zeros((4, 40), bool)
    targets[1, 39] = targets[3, 39] = True
    assert sorted(distinct_rows(targets, targets)[1]) == [2, 2]


def corpus(num_posts: int, num_labels: int = 3) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    rng = np.random.default_rng(0)
    targets = rng.random((num_posts, num_labels)) < 0.3
    targets = np.where(rng.random(targets.shape) < 0.1, -1, targets).astype(np.int8)
    return targets, (targets == 1) ^ (rng.random(targets.shape) < 0.2), tuple("abcdefghi"[:num_labels])


def test_intervals_are_those_of_resampled_posts():
    targets, predicted, labels = corpus(150)
    rng = np.random.default_rng(1)
    drawn = [rng.integers(150, size=150) for _ in range(1000)]
    slow = [score(targets[rows], predicted[rows], labels) for rows in drawn]
    intervals = bootstrap_intervals(targets, predicted, labels, num_resamples=4000)
    assert list(intervals) == list(slow[0])
    for name, interval in intervals.items():
        expected = np.quantile([metrics[name] for metrics in slow], [0.025, 0.975])
        assert interval == pytest.approx(expected, abs=0.12 * (expected[1] - expected[0]))  # Monte Carlo error


def test_intervals_shrink_with_the_posts_and_grow_with_the_level():
    def width(num_posts: int, level: float) -> float:
        low, high = bootstrap_intervals(*corpus(num_posts), level=level)["macro_f1"]
        return high - low

    assert width(4000, 0.95) == pytest.approx(width(250, 0.95) / 4, rel=0.25)
    assert width(250, 0.95) == pytest.approx(width(250, 0.6827) * 1.96, rel=0.15)


def test_intervals_follow_the_seed_alone(monkeypatch):
    case = corpus(200)
    first, other = bootstrap_intervals(*case), bootstrap_intervals(*case, seed=1)
    assert bootstrap_intervals(*case) == first != other
    monkeypatch.setattr(metrics_module, "WEIGHTS_AT_ONCE", 1000)  # drawn in many parts
    in_parts = bootstrap_intervals(*case)
    for name, (low, high) in first.items():
        assert in_parts[name] == pytest.approx((low, high), abs=0.2 * (high - low))  # other draws of the same law


@pytest.mark.parametrize("frequent", [1, 4, 1000])
def test_resamples_have_the_moments_of_draws_with_replacement(monkeypatch, frequent):
    monkeypatch.setattr(metrics_module, "FREQUENT", frequent)
    counts = np.array([1, 9, 2, 30, 8])
    drawn = np.concatenate(list(metrics_module._resamples(counts, 20_000, np.random.default_rng(0))))
    assert (drawn.sum(axis=1) == 50).all()
    shares = counts / 50
    np.testing.assert_allclose(drawn.mean(axis=0), counts, rtol=0.03)
    expected = 50 * (np.diag(shares) - np.outer(shares, shares))
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=0.3)


def test_fewer_resamples_where_there_are_many_kinds_of_posts(monkeypatch):
    case, drawn = corpus(200), []
    original = metrics_module._resamples

    def counting(counts, num_resamples, rng):
        drawn.append(num_resamples)
        return original(counts, num_resamples, rng)

    monkeypatch.setattr(metrics_module, "_resamples", counting)
    bootstrap_intervals(*case)
    monkeypatch.setattr(metrics_module, "MAX_WEIGHTS", 10)
    bootstrap_intervals(*case)
    assert drawn == [1000, metrics_module.LEAST_RESAMPLES]


def test_posts_that_are_all_alike_leave_no_doubt():
    intervals = bootstrap_intervals(np.ones((30, 2), bool), np.tile([True, False], (30, 1)), ("a", "b"))
    assert (intervals["f1/a"], intervals["f1/b"], intervals["hamming"]) == ((1, 1), (0, 0), (0.5, 0.5))
