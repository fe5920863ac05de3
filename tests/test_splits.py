"""Splits: stratified, without leakage, the same every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emo.config import UserError
from emo.splits import count_across, group_ids, make_splits


def corpus(num_posts: int, num_labels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((num_posts, num_labels)) < np.linspace(0.05, 0.4, num_labels)


def test_shares_and_every_label_spread():
    targets = corpus(4000, 6)
    splits = np.array(make_splits(targets, [None] * 4000, np.arange(4000), 0.15, 0.25, 0))
    for name, share in (("train", 0.6), ("val", 0.15), ("test", 0.25)):
        mask = splits == name
        assert mask.mean() == pytest.approx(share, abs=0.02)
        assert targets[mask].mean(axis=0) == pytest.approx(targets.mean(axis=0), rel=0.15)


def test_same_seed_same_splits():
    arguments = (corpus(200, 3), [None] * 200, np.arange(200) // 2, 0.2, 0.2)
    assert make_splits(*arguments, 1) == make_splits(*arguments, 1)
    assert make_splits(*arguments, 1) != make_splits(*arguments, 2)


def test_groups_stay_whole():
    groups = np.random.default_rng(0).integers(0, 60, 400)
    splits = make_splits(corpus(400, 3), [None] * 400, groups, 0.15, 0.25, 0)
    assert set(splits) == {"train", "val", "test"}
    assert count_across(splits, groups) == 0


@pytest.mark.parametrize(
    ("given", "made"),
    [(["train", "test"], "val"), (["train", "val"], "test"), ([None, "test"], "val"), (["train", "val", "test"], None)],
)
def test_only_what_is_missing_is_made(given, made):
    given = [given[number % len(given)] for number in range(300)]
    splits = make_splits(corpus(300, 3), given, np.arange(300), 0.15, 0.25, 0)
    assert set(splits) == {"train", "val", "test"}
    for before, after in zip(given, splits, strict=True):
        assert after == before or (before in (None, "train") and after in (made, "train"))


def test_only_train_is_given():
    assert set(make_splits(corpus(100, 2), ["train"] * 100, np.arange(100), 0.15, 0.25, 0)) == {"train", "val", "test"}


def test_too_few_posts():
    with pytest.raises(UserError, match="9 labelled posts"):
        make_splits(corpus(9, 2), [None] * 9, np.arange(9), 0.15, 0.25, 0)


def test_one_group_cannot_be_split():
    with pytest.raises(UserError, match="too few groups"):
        make_splits(corpus(20, 2), [None] * 20, np.zeros(20), 0.15, 0.25, 0)


def test_nothing_to_train_on():
    with pytest.raises(UserError, match="nothing to train on"):
        make_splits(corpus(20, 2), ["val", "test"] * 10, np.arange(20), 0.15, 0.25, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(10, 40), st.integers(1, 4), st.integers(0, 5), st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_small_and_degenerate_corpora_do_not_crash(num_posts, num_labels, seed, density):
    targets = np.random.default_rng(seed).random((num_posts, num_labels)) < density
    splits = make_splits(targets, [None] * num_posts, np.arange(num_posts), 0.15, 0.25, seed)
    assert set(splits) == {"train", "val", "test"}


def test_groups_join_through_group_text_and_image():
    groups = group_ids(["a", None, "a", None, None, None], [1, 1, None, 2, None, None], [None, None, 7, 7, 8, None])
    assert len(set(groups[:4])) == 1
    assert len(set(groups)) == 3


def test_count_across():
    assert count_across(["train", "test", "train", "val"], np.array([0, 0, 1, 2])) == 2
