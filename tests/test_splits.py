"""Splits and folds: stratified, without leakage, the same every time."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emo.config import UserError
from emo.splits import count_across, group_ids, make_folds, make_splits


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


def test_each_corpus_gets_the_splits_that_it_lacks():
    number = np.repeat([0, 1, 2], 200)
    given = [None] * 200 + ["train", "val"] * 100 + ["train", "test"] * 100
    splits = np.array(make_splits(corpus(600, 3), given, np.arange(600), 0.15, 0.25, 0, number))
    shares = [[float(np.mean(splits[number == n] == name)) for name in ("val", "test")] for n in range(3)]
    np.testing.assert_allclose(shares, [[0.15, 0.25], [0.5, 0.125], [0.075, 0.5]], atol=0.02)


@settings(max_examples=40, deadline=None)
@given(st.integers(40, 300), st.integers(12, 300), st.integers(1, 5), st.integers(0, 9))
def test_no_group_in_two_splits_or_folds(num_posts, num_groups, num_labels, seed):
    groups = np.random.default_rng(seed).integers(0, num_groups, num_posts)
    targets = corpus(num_posts, num_labels, seed)
    splits = make_splits(targets, [None] * num_posts, groups, 0.15, 0.25, seed)
    assert count_across(splits, groups) == 0
    for folds in make_folds(targets, groups, 4, seed, 2).T:
        assert count_across(folds.astype(str).tolist(), groups) == 0
        assert set(folds.tolist()) == {0, 1, 2, 3}


# Folds


@pytest.mark.parametrize("num_folds", [2, 5, 10])
def test_folds_are_of_one_size_and_every_label_spread(num_folds):
    targets = corpus(4000, 6)
    deals = make_folds(targets, np.arange(4000), num_folds, 0, num_repeats=2)
    assert (deals.dtype, deals.shape) == (np.int8, (4000, 2))
    for folds, fold in itertools.product(deals.T, range(num_folds)):
        assert (folds == fold).mean() == pytest.approx(1 / num_folds, rel=0.05)
        assert targets[folds == fold].mean(axis=0) == pytest.approx(targets.mean(axis=0), rel=0.1)
    # deals know nothing of each other: posts of one fold fall into all folds of the other
    together = np.histogram2d(*deals.T, bins=num_folds)[0]
    assert together == pytest.approx(np.full_like(together, 4000 / num_folds**2), rel=0.5)


def test_same_seed_same_folds():
    arguments = (corpus(200, 3), np.arange(200) // 2, 4)
    assert make_folds(*arguments, 1).tolist() == make_folds(*arguments, 1).tolist()
    assert make_folds(*arguments, 1).tolist() != make_folds(*arguments, 2).tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(0, 4), st.integers(1, 3), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 5))
def test_no_fold_is_empty(num_folds, more, num_labels, density, seed):
    num_posts = num_folds + more
    targets = np.random.default_rng(seed).random((num_posts, num_labels)) < density
    folds = make_folds(targets, np.arange(num_posts), num_folds, seed)[:, 0]
    assert set(folds.tolist()) == set(range(num_folds))


def test_fewer_groups_than_folds():
    with pytest.raises(UserError, match=r"4 groups .* too few for 5 folds"):
        make_folds(corpus(40, 2), np.arange(40) % 4, 5, 0)


# Groups


def grouped(group=None, text=None, image=None, near=None) -> tuple[list[int], int]:
    num_posts = next(len(values) for values in (group, text, image) if values is not None)
    columns = [
        pa.array([None] * num_posts if values is None else list(values), kind)
        for values, kind in ((group, pa.string()), (text, pa.int64()), (image, pa.int64()))
    ]
    pairs = None if near is None else tuple(np.array(side, dtype=np.int64) for side in near)
    groups, num_ignored = group_ids(*columns, pairs)
    assert groups.shape == (num_posts,)
    return groups.tolist(), num_ignored


def test_groups_join_through_group_text_and_image():
    groups, num_ignored = grouped(
        ["a", None, "a", None, None, None], [1, 1, None, 2, None, None], [None, None, 7, 7, 8, None]
    )
    assert len(set(groups[:4])) == 1
    assert len(set(groups)) == 3
    assert num_ignored == 0


def test_columns_may_be_chunked_and_dictionary_encoded():
    text, image = pa.array([1, 1, None, 2, None, None]), pa.array([None, None, 7, 7, 8, None])
    group = pa.array(["a", None, "a", None, None, None])
    expected = group_ids(group, text, image)[0].tolist()
    chunked = [pa.chunked_array([column[:2], column[2:]]) for column in (group.dictionary_encode(), text, image)]
    assert group_ids(*chunked)[0].tolist() == expected


def test_near_posts_join_groups():
    groups, num_ignored = grouped(text=[1, 1, 2, 2, 3, None], near=([1, 5], [2, 4]))
    assert groups[0] == groups[1] == groups[2] == groups[3] != groups[4] == groups[5]
    assert num_ignored == 0


@pytest.mark.parametrize(("num_like", "num_ignored"), [(51, 0), (52, 52)])
def test_a_template_is_not_a_copy(num_like, num_ignored):
    chain = np.arange(num_like - 1)
    groups, ignored = grouped(text=range(100), near=([*chain, 98], [*(chain + 1), 99]))
    assert ignored == num_ignored
    assert len(set(groups[:num_like])) == (1 if num_ignored == 0 else num_like)
    assert groups[98] == groups[99]  # which no template holds


def test_a_large_corpus_may_have_larger_groups():
    chain = np.arange(99)
    assert grouped(text=range(9_000), near=(chain, chain + 1))[1] == 100
    assert grouped(text=range(10_000), near=(chain, chain + 1))[1] == 0


def test_near_copies_of_a_post_with_many_exact_ones_join_it():
    groups, num_ignored = grouped(text=[0] * 80 + [1, 2, 3], near=([0, 5, 9], [80, 81, 82]))
    assert len(set(groups)) == 1
    assert num_ignored == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=30), st.integers(0, 5))
def test_groups_are_those_of_merging_one_link_after_another(num_posts, links, seed):
    rng = np.random.default_rng(seed)
    columns = [[int(v) if v < 20 else None for v in rng.integers(0, 40, num_posts)] for _ in range(3)]
    links = [(a, b) for a, b in links if max(a, b) < num_posts]
    group = [None if value is None else str(value) for value in columns[0]]
    groups, _ = grouped(group, *columns[1:], near=([a for a, _ in links], [b for _, b in links]))
    merged = list(range(num_posts))
    same = [(a, b) for a in range(num_posts) for b in range(a) if any(c[a] == c[b] is not None for c in columns)]
    for a, b in [*same, *links]:
        merged = [merged[a] if number == merged[b] else number for number in merged]
    assert all((groups[a] == groups[b]) == (merged[a] == merged[b]) for a in range(num_posts) for b in range(a))


def test_count_across():
    assert count_across(["train", "test", "train", "val"], np.array([0, 0, 1, 2])) == 2
