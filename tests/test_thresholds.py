"""Thresholds: the exact ones are the best that there are on train, and the search never looks further."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emo.metrics import label_f1, macro_f1
from emo.thresholds import (
    NEVER,
    RULES,
    SHRINKAGE,
    candidates,
    choose,
    cross_fitted,
    decide,
    decide_by_train,
    exact,
    fixed,
    pooled,
    search,
    shrunk,
)

UNIT = st.floats(0, 1, width=32)
TIED = st.sampled_from([np.float32(x) for x in (0.0, 0.25, 0.5, 1.0)])


@st.composite
def labelled_probs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(1, 15), st.integers(1, 4)))
    probs = draw(hnp.arrays(np.float32, shape, elements=draw(st.sampled_from([UNIT, TIED]))))
    return draw(hnp.arrays(bool, shape)), probs


def brute_force(targets: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """The best F1 of each label over every cut that these probs allow."""
    cuts = [*np.unique(probs), NEVER]
    return np.max([label_f1(targets, probs >= cut) for cut in cuts], axis=0)


def random_case(seed: int, num_posts: int = 60, num_labels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = rng.random((num_posts, num_labels)) < 0.3
    # no prob reaches 0.5, so that the fixed rule is easily beaten
    return targets, (0.3 * rng.random(targets.shape) + 0.15 * targets).astype(np.float32)


@settings(deadline=None)
@given(labelled_probs())
def test_exact_is_the_best_of_all_cuts(case):
    targets, probs = case
    np.testing.assert_allclose(label_f1(targets, decide(probs, exact(targets, probs))), brute_force(targets, probs))


@st.composite
def partly_known(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """int8 targets, -1 where unknown, and probs."""
    targets, probs = draw(labelled_probs())
    return np.where(draw(hnp.arrays(bool, targets.shape)), -1, targets).astype(np.int8), probs


@settings(deadline=None)
@given(partly_known())
def test_exact_judges_each_label_by_the_posts_that_know_it(case):
    targets, probs = case
    found = exact(targets, probs)
    for k, known in enumerate((targets >= 0).T):
        alone = exact(targets[known, k : k + 1] == 1, probs[known, k : k + 1]) if known.any() else [NEVER]
        np.testing.assert_array_equal(found[k : k + 1], alone)


@settings(deadline=None)
@given(labelled_probs())
def test_exact_is_the_same_for_known_targets_of_either_type(case):
    targets, probs = case
    np.testing.assert_array_equal(exact(targets.astype(np.int8), probs), exact(targets, probs))


def test_no_rule_looks_at_unknown_cells():
    rng = np.random.default_rng(0)

    def disturbed(targets: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return targets, np.where(targets < 0, rng.random(probs.shape), probs).astype(np.float32)

    parts = [random_case(seed) for seed in (0, 1)]
    parts = [(np.where(rng.random(t.shape) < 0.3, -1, t).astype(np.int8), p) for t, p in parts]
    before, after = (
        candidates(*pair, num_trials=15, seed=0, held_out=pair[0][1])
        for pair in (parts, [disturbed(*p) for p in parts])
    )
    for rule in RULES:
        np.testing.assert_array_equal(before[rule], after[rule])
    assert choose(before, parts[1]) == choose(before, disturbed(*parts[1])) != "fixed"


@settings(deadline=None)
@given(labelled_probs())
def test_exact_is_never_below_the_fixed_rule(case):
    targets, probs = case
    thresholds = exact(targets, probs)
    assert thresholds.shape == (probs.shape[1],)
    assert (label_f1(targets, probs >= thresholds) >= label_f1(targets, decide(probs, fixed(len(thresholds))))).all()


@settings(deadline=None)
@given(labelled_probs())
def test_a_label_without_positives_is_never_predicted(case):
    targets, probs = case
    targets = targets & (np.arange(targets.shape[1]) > 0)
    thresholds = exact(targets, probs)
    assert thresholds[0] == NEVER
    assert not decide(probs, thresholds)[:, 0].any()
    np.testing.assert_array_equal(thresholds == NEVER, ~targets.any(axis=0))


@settings(deadline=None)
@given(st.integers(0, 2**23 - 2), st.integers(0, 1))
def test_neighbouring_float32_probs_are_told_apart(step, flipped):
    low = np.float32(0.5) + np.float32(step) * np.float32(2**-24)
    probs = np.array([[low], [np.nextafter(low, np.float32(2))]], np.float32)
    assert (decide(probs, exact(np.array([[False], [True]]), probs)) == [[False], [True]]).all()


def test_the_threshold_lies_midway():
    targets = np.array([[1], [1], [0], [0]], bool)
    assert exact(targets, np.array([[0.9], [0.7], [0.3], [0.1]], np.float32)) == pytest.approx([0.5])


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_no_search_beats_exact_on_train(seed):
    targets, probs = random_case(seed)
    found = search((targets, probs), random_case(seed + 1), num_trials=15, seed=seed)
    assert macro_f1(targets, decide(probs, found)) <= macro_f1(targets, decide(probs, exact(targets, probs)))


def test_search_is_the_same_for_the_same_seed():
    train, val = random_case(0), random_case(1)
    first, again, other = (search(train, val, num_trials=15, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert ((first >= 0) & (first <= 1)).all()


def test_search_begins_with_the_fixed_rule_and_selects_on_val():
    train, val = random_case(0), random_case(1)
    np.testing.assert_array_equal(search(train, val, num_trials=1, seed=0), fixed(3))
    found = search(train, val, num_trials=15, seed=0)
    assert macro_f1(val[0], decide(val[1], found)) >= macro_f1(val[0], decide(val[1], fixed(3)))


def test_search_selects_the_vector_that_is_best_on_val_though_not_on_train():
    # on train only a cut below 0.2 is right; on val, whose probs are shifted, it predicts everything
    train = np.array([[1], [1], [0]], bool), np.array([[0.3], [0.2], [0.1]], np.float32)
    val = np.array([[1], [0], [0]], bool), np.array([[0.9], [0.4], [0.3]], np.float32)
    found = search(train, val, num_trials=30, seed=0)
    assert macro_f1(val[0], decide(val[1], found)) == 1
    assert macro_f1(train[0], decide(train[1], found)) < 1


def test_candidates_are_all_rules_that_there_are_predictions_for():
    train, val, held_out = random_case(0), random_case(1), random_case(2)[1]
    found = candidates(train, val, num_trials=3, seed=0, held_out=held_out)
    assert tuple(found) == RULES
    np.testing.assert_array_equal(found["exact"], exact(*train))
    np.testing.assert_array_equal(found["fixed"], [0.5] * 3)
    np.testing.assert_array_equal(found["cross-fitted"], cross_fitted(train[0], held_out))
    assert tuple(candidates(train, val, num_trials=3, seed=0)) == RULES[:-1]


@settings(deadline=None)
@given(partly_known())
def test_the_pooled_threshold_has_the_best_micro_f1(case):
    targets, probs = case
    known = targets >= 0
    gold, said = targets[known] == 1, probs[known]

    def micro_f1(cut: float) -> float:
        return 2 * (gold & (said >= cut)).sum() / max(1, gold.sum() + (said >= cut).sum())

    assert micro_f1(pooled(targets, probs)) == pytest.approx(max(micro_f1(cut) for cut in [*np.unique(said), NEVER]))


@settings(deadline=None)
@given(hnp.arrays(float, 5, elements=st.floats(0, 1)), st.floats(0, 1), st.integers(0, 10**6))
def test_thresholds_are_drawn_from_the_common_one_to_their_own_as_positives_grow(own, common, number):
    np.testing.assert_allclose(shrunk(own, common, np.zeros(5)), common, atol=1e-9)
    np.testing.assert_allclose(shrunk(own, common, np.full(5, 1e12)), own, atol=1e-9)
    np.testing.assert_allclose(shrunk(own, common, np.full(5, SHRINKAGE)), (own + common) / 2, atol=1e-9)
    distance = np.abs(shrunk(own, common, np.arange(number, number + 5)) - own)
    assert (distance <= np.abs(common - own) + 1e-12).all()


def test_a_rare_label_is_shrunk_and_one_that_is_never_there_is_never_predicted():
    targets, probs = random_case(0, num_posts=500, num_labels=3)
    targets[:, 2] = False
    targets[3:, 1] = False
    targets[:3, 1] = True
    found, own, common = cross_fitted(targets, probs), exact(targets, probs), pooled(targets, probs)
    assert found[2] == NEVER
    assert abs(found[1] - common) < 0.2 * abs(own[1] - common)
    assert abs(found[0] - own[0]) < 0.2 * abs(own[0] - common) or own[0] == common


def test_choose_goes_by_val_and_takes_the_earlier_of_equals():
    val = np.array([[1], [0]], bool), np.array([[0.3], [0.2]], np.float32)
    fitting, other = np.array([0.25]), np.array([0.5])
    assert choose({"fixed": other, "optuna": fitting, "exact": other}, val) == "optuna"
    assert choose({"fixed": fitting, "exact": fitting}, val) == "fixed"


@st.composite
def single_labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Probs that are distinct, and thresholds, some of them zero."""
    shape = draw(st.tuples(st.integers(1, 10), st.integers(1, 5)))
    probs = np.random.default_rng(draw(st.integers(0, 999))).dirichlet(np.ones(shape[1]), shape[0])
    return probs.astype(np.float32), draw(hnp.arrays(np.float64, shape[1], elements=st.floats(0, 1)))


@settings(deadline=None)
@given(single_labelled(), st.floats(0.01, 1))
def test_with_one_label_a_post_each_has_exactly_one(case, threshold):
    probs, thresholds = case
    decided = decide(probs, thresholds, single_label=True)
    assert decided.dtype == bool
    assert (decided.sum(axis=1) == 1).all()
    np.testing.assert_array_equal(decide(probs[0], thresholds, single_label=True), decided[0])
    equal = decide(probs, np.full(probs.shape[1], threshold), single_label=True)
    np.testing.assert_array_equal(equal.argmax(axis=1), probs.argmax(axis=1))
    if (thresholds > 0.01).all():
        np.testing.assert_array_equal(decided.argmax(axis=1), (probs / thresholds).argmax(axis=1))


def single_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Posts of one label each, whose third label is always likelier than it should be."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=90)
    probs = rng.dirichlet(np.ones(3), 90) + np.eye(3)[labels] + [0, 0, 1.2]
    return np.eye(3, dtype=bool)[labels], (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32)


def test_with_one_label_a_post_weights_are_searched_and_nothing_is_exact():
    train, val = single_case(0), single_case(1)
    found = candidates(train, val, num_trials=40, seed=0, single_label=True)
    assert list(found) == ["fixed", "optuna"]
    plain, searched = (macro_f1(val[0], decide(val[1], found[rule], single_label=True)) for rule in found)
    assert searched > plain + 0.1
    assert choose(found, val, single_label=True) == "optuna"


def test_a_trial_is_judged_by_exact_thresholds_or_the_likeliest_label():
    train, val = random_case(0), random_case(1)
    np.testing.assert_array_equal(decide_by_train(train, val[1]), decide(val[1], exact(*train)))
    train, val = single_case(0), single_case(1)
    wanted = val[1].argmax(axis=1)[:, None] == np.arange(3)
    np.testing.assert_array_equal(decide_by_train(train, val[1], single_label=True), wanted)
