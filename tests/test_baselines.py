"""Baselines: what trivial rows reach, and TF-IDF with logistic regression."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score

from emo.baselines import all_positive, most_frequent, prior, tfidf_probs
from emo.metrics import label_f1

TARGETS = hnp.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 4)))


@settings(deadline=None)
@given(TARGETS)
def test_f1_of_all_positive_follows_from_prevalence(targets):
    share = targets.mean(axis=0)
    made = all_positive({"test": targets})["test"]
    np.testing.assert_allclose(label_f1(targets, made), 2 * share / (1 + share))


@settings(deadline=None)
@given(TARGETS, st.integers(1, 5))
def test_prior_gives_every_post_what_most_train_posts_have(targets, num_test):
    made = prior({"train": targets, "test": np.zeros((num_test, targets.shape[1]), bool)})
    assert made["test"].shape == (num_test, targets.shape[1])
    for split in made.values():
        assert split.dtype == bool
        np.testing.assert_array_equal(split, np.broadcast_to(targets.mean(axis=0) > 0.5, split.shape))


def corpus(num_posts: int, num_labels: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Posts whose labels are named by words among others."""
    rng = np.random.default_rng(seed)
    targets = rng.random((num_posts, num_labels)) < 0.3
    fill = rng.choice(["rain", "train", "phone", "today", "never"], (num_posts, 3))
    texts = [
        " ".join([*words, *(f"cue{k}" for k in np.flatnonzero(y))]) for words, y in zip(fill, targets, strict=True)
    ]
    return texts, targets


def test_tfidf_ranks_posts_by_the_words_that_tell_labels():
    (train, targets), (test, test_targets) = corpus(120, 3), corpus(60, 3, seed=1)
    probs = tfidf_probs({"train": train, "test": test}, targets, seed=0)
    assert probs["train"].shape == targets.shape
    assert probs["test"].dtype == np.float32
    for k in range(3):
        assert roc_auc_score(test_targets[:, k], probs["test"][:, k]) > 0.95


@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_tfidf_gives_a_label_without_positives_no_chance(num_labels):
    texts, targets = corpus(40, num_labels)
    targets[:, -1] = False
    probs = tfidf_probs({"train": texts, "test": ["cue0"]}, targets, seed=0)
    assert probs["test"].shape == (1, num_labels)
    assert (probs["train"][:, -1] == 0).all()


def test_tfidf_takes_empty_texts():
    texts, targets = corpus(40, 2)
    probs = tfidf_probs({"train": ["", *texts[1:]], "val": ["", "words never seen"]}, targets, seed=0)
    assert np.isfinite(probs["val"]).all()
    np.testing.assert_allclose(probs["val"][0], probs["val"][1], atol=0.3)


def test_tfidf_is_the_same_for_the_same_seed():
    texts, targets = corpus(40, 2)
    first, again = (tfidf_probs({"train": texts}, targets, seed=3)["train"] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_the_most_frequent_label_alone():
    train = np.array([[0, 1, -1], [0, 1, 0], [1, 0, 0]], np.int8)
    made = most_frequent({"train": train, "test": np.zeros((2, 3), bool)})
    assert made["train"].tolist() == [[False, True, False]] * 3
    assert made["test"].tolist() == [[False, True, False]] * 2
