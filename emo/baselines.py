"""The rows that every learned row must beat: trivial ones, and TF-IDF with logistic regression."""

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

Predictions = dict[str, np.ndarray]
"""Split -> (N, K): probs where a threshold is still to be chosen, else decisions, boolean."""


def all_positive(targets: dict[str, np.ndarray]) -> Predictions:
    """Every label on every post."""
    return {split: np.ones(y.shape, bool) for split, y in targets.items()}


def prior(targets: dict[str, np.ndarray]) -> Predictions:
    """Each label as most of the train posts have it: for rare labels, never."""
    known = [column[column >= 0] for column in targets["train"].T]
    columns = [DummyClassifier(strategy="prior").fit(np.zeros((len(y), 1)), y) for y in known]
    return {
        split: np.stack([c.predict(np.zeros((len(y), 1))).astype(bool) for c in columns], axis=1)
        for split, y in targets.items()
    }


def most_frequent(targets: dict[str, np.ndarray]) -> Predictions:
    """The label that most train posts have, alone on every post: the prior where each has one label."""
    best = (targets["train"] == 1).sum(axis=0).argmax()
    return {split: np.broadcast_to(np.arange(y.shape[1]) == best, y.shape) for split, y in targets.items()}


def tfidf_probs(texts: dict[str, list[str]], targets: np.ndarray, seed: int) -> Predictions | None:
    """Probs of one logistic regression a label over words and pairs of words, fitted on train.

    ``texts`` holds the texts of every split ("" where a post has none) and ``targets`` (N, K) those of train, -1 where
    unknown. None where no text of train has a word.
    """
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=200_000)
    tokenize = words.build_analyzer()
    if not any(tokenize(text) for text in texts["train"]):
        return None
    train = words.fit_transform(texts["train"])
    models = [_regression(train[y >= 0], y[y >= 0], seed) for y in targets.T]
    inputs = {split: words.transform(split_texts) for split, split_texts in texts.items()}
    return {
        split: np.stack([model.predict_proba(x)[:, -1] for model in models], axis=1).astype(np.float32)
        for split, x in inputs.items()
    }


def _regression(inputs: csr_matrix, y: np.ndarray, seed: int) -> LogisticRegression | DummyClassifier:
    """Whether a post has one label; a constant where all posts of train have it, or none."""
    if len(np.unique(y)) < 2:
        value = int(y.any())
        return DummyClassifier(strategy="constant", constant=value).fit(np.zeros((2, 1)), [0, 1])
    return LogisticRegression(solver="liblinear", class_weight="balanced", random_state=seed).fit(inputs, y)
