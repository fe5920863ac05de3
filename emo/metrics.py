"""How good predicted label sets are; scikit-learn's definitions, a label without support counting as F1 0."""

import warnings

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, hamming_loss, jaccard_score


def label_f1(targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 of each label (K,) from boolean (N, K) arrays; the fast form that runs at every epoch."""
    hits = (targets & predicted).sum(axis=0)
    total = targets.sum(axis=0) + predicted.sum(axis=0)
    return 2 * hits / np.maximum(total, 1)


def macro_f1(targets: np.ndarray, predicted: np.ndarray) -> float:
    return float(label_f1(targets, predicted).mean())


def score(targets: np.ndarray, predicted: np.ndarray, labels: tuple[str, ...] = ()) -> dict[str, float]:
    """Every metric of boolean (N, K) arrays, and ``f1/<label>`` for each of ``labels``."""
    y, p = targets.astype(np.uint8), predicted.astype(np.uint8)
    if y.shape[1] == 1:  # scikit-learn takes one column for two classes; twice the same label has the metrics of one
        y, p = np.repeat(y, 2, axis=1), np.repeat(p, 2, axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = {
            "macro_f1": f1_score(y, p, average="macro", zero_division=0),
            "micro_f1": f1_score(y, p, average="micro", zero_division=0),
            "weighted_f1": f1_score(y, p, average="weighted", zero_division=0),
            "subset_accuracy": accuracy_score(y, p),
            # a post that has no label and is given none is read rightly: its Jaccard index is 1
            "jaccard": jaccard_score(y, p, average="samples", zero_division=1),
            "hamming": hamming_loss(y, p),
        }
    metrics |= {f"f1/{label}": value for label, value in zip(labels, label_f1(targets, predicted), strict=False)}
    return {name: float(value) for name, value in metrics.items()}


def prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    """The same metrics named as of a split, as in ``test/macro_f1``."""
    return {f"{prefix}/{name}": value for name, value in metrics.items()}
