"""Probabilities: known miscalibration is found, labels never change, and the measures are those of the definitions."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit, softmax
from sklearn.metrics import log_loss as reference_log_loss

from emo.calibration import Calibrator, fit_calibrator, from_json, to_json
from emo.reliability import binned, log_loss, probability_scores
from emo.thresholds import NEVER, decide

KINDS = ("raw", "temperature", "isotonic")
UNIT = st.floats(0, 1, width=32)


@st.composite
def partly_known(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """int8 targets, -1 where unknown, and probs."""
    shape = draw(st.tuples(st.integers(1, 20), st.integers(1, 3)))
    targets = draw(hnp.arrays(np.int8, shape, elements=st.integers(-1, 1)))
    return targets, draw(hnp.arrays(np.float32, shape, elements=UNIT))


def sure_of_itself(by: float, single_label: bool, num_posts: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn by their probs, and a model whose logits are ``by`` times as large as they should be."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(num_posts, 4)) * 1.5
    if single_label:
        drawn = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((num_posts, 1))).sum(axis=1)
        return np.arange(4) == np.minimum(drawn, 3)[:, None], softmax(by * logits, axis=1).astype(np.float32)
    return rng.random(logits.shape) < expit(logits), expit(by * logits).astype(np.float32)


@pytest.mark.parametrize("single_label", [False, True])
@pytest.mark.parametrize("by", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(by, single_label):
    targets, probs = sure_of_itself(by, single_label)
    calibrator = fit_calibrator("temperature", targets, probs, single_label)
    assert calibrator.temperature == pytest.approx(by, rel=0.03)
    assert binned(targets, calibrator.apply(probs, single_label)).error < 0.01


def test_a_curve_mends_what_no_temperature_can():
    targets, probs = sure_of_itself(1.0, single_label=False)
    shifted = (probs**3).astype(np.float32)
    errors = [binned(targets, fit_calibrator(kind, targets, shifted).apply(shifted)).error for kind in KINDS]
    assert errors[2] < 0.01 < 0.05 < errors[1] < errors[0]


@settings(deadline=None)
@given(partly_known())
def test_no_log_loss_grows_on_the_posts_that_a_temperature_was_fitted_on(case):
    targets, probs = case
    if (targets >= 0).any():
        calibrated = fit_calibrator("temperature", targets, probs.astype(float)).apply(probs.astype(float))
        assert log_loss(targets, calibrated) <= log_loss(targets, probs) + 1e-6


@settings(deadline=None)
@given(partly_known(), st.sampled_from(KINDS), st.data())
def test_what_is_likelier_stays_so_and_thresholds_move_along(case, kind, data):
    targets, probs = case
    calibrator = fit_calibrator(kind, targets, probs)
    written = calibrator.apply(probs)
    assert written.dtype == probs.dtype
    assert ((written >= 0) & (written <= 1)).all()
    order = np.argsort(probs, axis=0)
    assert (np.diff(np.take_along_axis(written, order, axis=0), axis=0) >= 0).all()
    thresholds = data.draw(hnp.arrays(float, probs.shape[1], elements=st.sampled_from([*np.unique(probs), NEVER])))
    moved = calibrator.thresholds(thresholds).astype(np.float32)
    assert ((moved == NEVER) == (thresholds == NEVER)).all()
    assert (decide(written, moved) >= decide(probs, thresholds)).all()  # flat curves join probs of both sides
    if kind == "raw":
        np.testing.assert_array_equal(written, probs)


@settings(deadline=None)
@given(st.integers(0, 999), st.floats(0.3, 3), hnp.arrays(float, 4, elements=st.floats(0.05, 1)))
def test_the_one_label_stays_the_same_by_moved_thresholds(seed, temperature, thresholds):
    probs = np.random.default_rng(seed).dirichlet(np.ones(4), 30)
    calibrator = Calibrator(temperature=temperature)
    written = calibrator.apply(probs, single_label=True)
    assert written.sum(axis=1) == pytest.approx(1)
    moved = calibrator.thresholds(thresholds, single_label=True)
    np.testing.assert_array_equal(decide(written, moved, True), decide(probs, thresholds, True))


def test_no_label_is_calibrated_by_posts_that_do_not_know_it():
    rng = np.random.default_rng(0)
    targets, probs = sure_of_itself(2.0, single_label=False, num_posts=300)
    targets = np.where(rng.random(targets.shape) < 0.4, -1, targets).astype(np.int8)
    targets[:, 0] = np.minimum(targets[:, 0], 0)  # nobody has the first label, and nobody knows the second
    targets[:, 1] = -1
    disturbed = np.where(targets < 0, rng.random(probs.shape), probs).astype(np.float32)
    for kind in KINDS:
        first, second = (fit_calibrator(kind, targets, each) for each in (probs, disturbed))
        assert json.dumps(to_json(first)) == json.dumps(to_json(second))
    np.testing.assert_array_equal(first.apply(probs)[:, :2], probs[:, :2])
    assert (first.apply(probs)[:, 2] != probs[:, 2]).any()


def test_the_calibration_error_by_hand():
    # bins of two: (0.1, 0.2) with none, (0.3, 0.4) with both, (0.9, 0.9) with one; 0.8 is unknown
    targets = np.array([[0], [0], [1], [1], [0], [1], [-1]], np.int8)
    probs = np.array([[0.1], [0.2], [0.3], [0.4], [0.9], [0.9], [0.8]])
    bins = binned(targets, probs, num_bins=3)
    np.testing.assert_allclose(bins.prob, [0.15, 0.35, 0.9])
    np.testing.assert_allclose(bins.share, [0, 1, 0.5])
    np.testing.assert_array_equal(bins.count, [2, 2, 2])
    assert bins.error == pytest.approx((0.15 + 0.65 + 0.4) / 3)
    scores = probability_scores(targets, probs, ("joy",))
    assert scores["brier"] == pytest.approx(np.mean([0.01, 0.04, 0.49, 0.36, 0.81, 0.01]))
    assert scores["brier/joy"] == scores["brier"]
    assert scores["log_loss"] == pytest.approx(reference_log_loss(targets[:6, 0], probs[:6, 0]))
    assert np.isnan(
        probability_scores(np.array([[1, -1]], np.int8), np.array([[0.4, 0.5]]), ("joy", "fear"))["ece/fear"]
    )


def test_equal_probs_are_in_one_bin():
    targets, probs = np.array([[True], [False]] * 20), np.array([[0.5]] * 40)
    assert binned(targets, probs).count.tolist() == [40]
    assert binned(targets, probs).error == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_calibrator_comes_back_from_json(kind):
    targets, probs = sure_of_itself(2.0, single_label=False, num_posts=200)
    calibrator = fit_calibrator(kind, targets, probs)
    again = from_json(json.loads(json.dumps(to_json(calibrator))))
    assert (calibrator.kind, again.kind) == (kind, kind)
    np.testing.assert_array_equal(again.apply(probs), calibrator.apply(probs))
