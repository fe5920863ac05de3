"""Cross-fitting: no post is predicted by a model that was trained on it."""

from dataclasses import replace

import numpy as np
import pytest

from emo.config import HeadConfig
from emo.cross_fit import NUM_FOLDS, held_out_probs, train_folds
from emo.models import FeatureSpec
from emo.train import TrainingData

CONFIG = HeadConfig(num_layers=1, dropout=0.0, max_epochs=3, warmup_steps=0, lr=1e-2)


@pytest.fixture(scope="module")
def data(one_thread) -> TrainingData:
    rng = np.random.default_rng(0)
    packed = np.concatenate([rng.normal(size=(90, 6)), np.ones((90, 1))], axis=1).astype(np.float32)
    targets = packed[:, :3] + rng.normal(size=(90, 3)) > 0.8
    shares = targets.astype(np.float32)
    specs = {"text": FeatureSpec(6)}
    return TrainingData(packed[30:], targets[30:], packed[:30], targets[:30], specs, shares[30:], shares[:30])


@pytest.mark.parametrize("trains_on", ["threshold", "soft"])
def test_what_is_said_of_a_post_does_not_depend_on_its_labels(data, trains_on):
    data = replace(data, trains_on=trains_on)
    folds = train_folds(data.train_targets, seed=0)
    flipped = np.where((folds == 0)[:, None], ~data.train_targets, data.train_targets)
    other = replace(data, train_targets=flipped, train_shares=flipped.astype(np.float32))
    first, second = (held_out_probs(each, CONFIG, folds) for each in (data, other))
    np.testing.assert_array_equal(first[folds == 0], second[folds == 0])
    assert (first[folds != 0] != second[folds != 0]).mean() > 0.9


def test_folds_hold_every_label_alike_and_are_no_more_than_there_are_posts(data):
    folds = train_folds(data.train_targets, seed=0)
    counts = np.array([data.train_targets[folds == fold].sum(axis=0) for fold in range(NUM_FOLDS)])
    assert np.ptp(counts, axis=0).max() <= 1
    assert sorted(train_folds(data.train_targets[:2], seed=0)) == [0, 1]
    unknown = np.where(data.train_targets, 1, -1).astype(np.int8)
    np.testing.assert_array_equal(train_folds(unknown, seed=0), folds)
