"""What a model says of posts that it has not seen: its training is repeated without each fold of train in turn."""

from dataclasses import replace

import numpy as np

from emo.config import HeadConfig
from emo.splits import make_folds
from emo.train import TrainingData, fit, predict_probs

NUM_FOLDS = 3
"""Each model is trained on two thirds of train, in the time of two trainings; five folds would take
that of four."""


def train_folds(targets: np.ndarray, seed: int) -> np.ndarray:
    """The fold of each train post, int8 (N,), stratified by label; fewer than NUM_FOLDS where there are fewer posts."""
    return make_folds(targets == 1, np.arange(len(targets)), min(NUM_FOLDS, len(targets)), seed)[:, 0]


def held_out_probs(data: TrainingData, config: HeadConfig, folds: np.ndarray) -> np.ndarray:
    """Probs (N, K) of train, each post's by a classifier that was trained as ``config`` says on the other folds.

    Val ends these trainings as it ended the model's own. Needs two folds, and the time of a training for each; a
    FloatingPointError where one of them fails.
    """
    probs = np.empty(data.train_targets.shape, np.float32)
    for fold in np.unique(folds):
        held, rest = folds == fold, folds != fold
        part = replace(
            data,
            train_packed=data.train_packed[rest],
            train_targets=data.train_targets[rest],
            train_shares=None if data.train_shares is None else data.train_shares[rest],
        )
        probs[held] = predict_probs(fit(part, config).model, data.train_packed[held])
    return probs
