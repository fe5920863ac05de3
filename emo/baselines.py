"""The rows that every learned row must beat: trivial ones, and TF-IDF with logistic regression."""

import warnings

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

Predictions = dict[str, np.ndarray]
"""Split -> (N, K): probs where a threshold is still to be chosen, else decisions, boolean."""


def all_positive(targets: dict[str, np.ndarray]) -> Predictions:
    """Every label on every post."""
    return {split: np.ones_like(y) for split, y in targets.items()}


def prior(targets: dict[str, np.ndarray]) -> Predictions:
    """Each label as most of the train posts have it: for rare labels, never."""
    columns = [DummyClassifier(strategy="prior").fit(np.zeros((len(y), 1)), y) for y in targets["train"].T]
    return {
        split: np.stack([c.predict(np.zeros((len(y), 1))).astype(bool) for c in columns], axis=1)
        for split, y in targets.items()
    }


def tfidf_probs(texts: dict[str, list[str]], targets: np.ndarray, seed: int) -> Predictions | None:
    """Probs of one logistic regression a label over words and pairs of words, fitted on train.

    ``texts`` holds the texts of every split ("" where a post has none) and ``targets`` (N, K) those of train.
    None where no text of train has a word.
    """
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=200_000)
    tokenize = words.build_analyzer()
    if not any(tokenize(text) for text in texts["train"]):
        return None
    regression = LogisticRegression(solver="liblinear", class_weight="balanced", random_state=seed)
    model = make_pipeline(words, OneVsRestClassifier(regression))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label without positives in train is a constant; the posts' manifest says so
        model.fit(texts["train"], targets.astype(int))
        return {split: _probs(model, split_texts, targets.shape[1]) for split, split_texts in texts.items()}


def _probs(model: object, texts: list[str], num_labels: int) -> np.ndarray:
    probs = model.predict_proba(texts)  # type: ignore[attr-defined]
    # with one label, scikit-learn gives both classes
    return probs[:, -1:].astype(np.float32) if num_labels == 1 else probs.astype(np.float32)
