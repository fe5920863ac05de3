"""Thresholds for the kept models of a sweep, one Ray task a model; the only place where test targets are read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from emo import storage
from emo.bundle import Bundle
from emo.config import SPLITS, TRAINS_ENCODERS, SweepConfig
from emo.encoded import EncodedPosts
from emo.encoders import EncoderSpec
from emo.metrics import prefixed, score
from emo.pipeline import Posts
from emo.scores import bundle_of, probs_from_features, probs_from_posts, write_predictions
from emo.tables import write_table
from emo.thresholds import candidates, choose, decide
from emo.trials import ranked, read_trials

SCORES = "scores"
"""Where in a run's folder the posts lie that a kept model has read, until all are."""


def calibrate(
    run: str, config: SweepConfig, posts: Posts, specs: Sequence[EncoderSpec], data: dict[str, EncodedPosts]
) -> list[dict[str, Any]]:
    """Calibrate each encoder's best trials in parallel; one row for each of them and each rule."""
    trials = read_trials(run)
    labels = tuple(posts.manifest["labels"])
    tasks = []
    for spec in specs:
        shared = ray.put(data[spec.name])
        for rank, trial in enumerate(ranked(trials, spec.name)[: config.top], start=1):
            bundle = bundle_of(run, config, trial, spec, data[spec.name], posts)
            found = None
            if config.mode in TRAINS_ENCODERS:
                parts = storage.join(run, SCORES, trial["trial_id"])
                found = probs_from_posts(parts, bundle, data[spec.name], posts)
            tasks.append(_calibrate_one.remote(run, trial, rank, shared, bundle, found, config, labels))
    rows = [row for result in ray.get(tasks) for row in result]
    storage.remove(storage.join(run, SCORES))
    write_table(storage.join(run, "calibration.parquet"), pa.Table.from_pylist(rows))
    return rows


@ray.remote(num_cpus=1)
def _calibrate_one(
    run: str,
    trial: dict[str, Any],
    rank: int,
    data: EncodedPosts,
    bundle: Bundle,
    probs: dict[str, np.ndarray] | None,
    config: SweepConfig,
    labels: tuple[str, ...],
) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    if probs is None:
        probs = probs_from_features(bundle, data)
    write_predictions(run, trial["trial_id"], data, probs)
    train, val = ((data.targets[split], probs[split]) for split in ("train", "val"))
    single_label = bundle.head.single_label
    thresholds = candidates(train, val, config.budget.calibration_trials, config.seed, single_label)
    chosen = choose(thresholds, val, single_label)
    return [
        {
            "trial_id": trial["trial_id"],
            "encoder": trial["encoder"],
            "rank": rank,
            "rule": rule,
            "thresholds": values.tolist(),
            "single_label": single_label,
            "chosen": rule == chosen,
            **split_metrics(data.targets, probs, values, labels, single_label),
        }
        for rule, values in thresholds.items()
    ]


def split_metrics(
    targets: dict[str, np.ndarray],
    probs: dict[str, np.ndarray],
    thresholds: np.ndarray,
    labels: tuple[str, ...],
    single_label: bool = False,
) -> dict[str, float]:
    """Every metric on every split, as in ``test/f1/joy``."""
    metrics: dict[str, float] = {}
    for split in SPLITS:
        metrics |= prefixed(split, score(targets[split], decide(probs[split], thresholds, single_label), labels))
    return metrics
