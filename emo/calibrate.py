"""Thresholds for the kept models of a sweep, one Ray task a model; the only place where test targets are read."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from safetensors.torch import load

from emo import storage
from emo.config import SPLITS, HeadConfig, SweepConfig
from emo.features import EncodedPosts
from emo.metrics import prefixed, score
from emo.sweep import fixed_choices
from emo.tables import write_table
from emo.thresholds import candidates, choose, decide
from emo.train import build_model, predict_probs
from emo.trial import chosen, weights_uri
from emo.watch import ranked, read_trials


def calibrate(
    run: str, config: SweepConfig, data: dict[str, EncodedPosts], labels: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Calibrate each encoder's best trials in parallel; one row for each of them and each rule."""
    trials = read_trials(run)
    shared = {name: ray.put(encoded) for name, encoded in data.items()}
    kept = [(row, rank) for name in data for rank, row in enumerate(ranked(trials, name)[: config.top], start=1)]
    tasks = [_calibrate_one.remote(run, row, rank, shared[row["encoder"]], config, labels) for row, rank in kept]
    rows = [row for result in ray.get(tasks) for row in result]
    write_table(storage.join(run, "calibration.parquet"), pa.Table.from_pylist(rows))
    return rows


@ray.remote(num_cpus=1)
def _calibrate_one(
    run: str,
    trial: dict[str, Any],
    rank: int,
    data: EncodedPosts,
    config: SweepConfig,
    labels: tuple[str, ...],
) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    probs = kept_probs(run, trial, data, fixed_choices(config))
    write_predictions(run, trial["trial_id"], data, probs)
    train, val = ((data.targets[split], probs[split]) for split in ("train", "val"))
    thresholds = candidates(train, val, config.budget.calibration_trials, config.seed)
    chosen = choose(thresholds, val)
    return [
        {
            "trial_id": trial["trial_id"],
            "encoder": trial["encoder"],
            "rank": rank,
            "rule": rule,
            "thresholds": values.tolist(),
            "chosen": rule == chosen,
            **split_metrics(data.targets, probs, values, labels),
        }
        for rule, values in thresholds.items()
    ]


def split_metrics(
    targets: dict[str, np.ndarray], probs: dict[str, np.ndarray], thresholds: np.ndarray, labels: tuple[str, ...]
) -> dict[str, float]:
    """Every metric on every split, as in ``test/f1/joy``."""
    metrics: dict[str, float] = {}
    for split in SPLITS:
        metrics |= prefixed(split, score(targets[split], decide(probs[split], thresholds), labels))
    return metrics


def head_config(trial: dict[str, Any], fixed: HeadConfig) -> HeadConfig:
    return dataclasses.replace(fixed, **chosen(trial))


def kept_probs(run: str, trial: dict[str, Any], data: EncodedPosts, fixed: HeadConfig) -> dict[str, np.ndarray]:
    """Probs (N, K) of a kept trial's classifier for every split."""
    num_labels = data.targets["train"].shape[1]
    model = build_model(data.widths, data.projections, num_labels, head_config(trial, fixed))
    model.load_state_dict(load(storage.read_bytes(weights_uri(run, trial["trial_id"]))))
    return {split: predict_probs(model, data.packed[split]) for split in SPLITS}


def write_predictions(run: str, trial_id: str, data: EncodedPosts, probs: dict[str, np.ndarray]) -> None:
    """``predictions/<trial id>.parquet``: targets and probs of every labelled post."""
    parts = [
        pa.table(
            {
                "post_id": data.post_ids[split],
                "split": [split] * len(data.post_ids[split]),
                "targets": list(data.targets[split].astype(np.float32)),
                "probs": list(probs[split]),
            }
        )
        for split in SPLITS
    ]
    write_table(storage.join(run, "predictions", f"{trial_id}.parquet"), pa.concat_tables(parts))
