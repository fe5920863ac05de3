"""Metrics: scikit-learn's own figures, and a fast F1 that agrees with them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, f1_score, hamming_loss, jaccard_score

from emo.metrics import label_f1, macro_f1, prefixed, score


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
