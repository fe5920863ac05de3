"""The Tune trial: fit one classifier on one encoder's features, keep its weights, report its val metrics."""

import dataclasses
import json
from typing import Any

import torch
from ray import tune
from safetensors.torch import save

from emo import storage
from emo.config import HeadConfig, SearchSpace
from emo.metrics import prefixed, score
from emo.thresholds import decide_by_train
from emo.train import Fit, TrainingData, fit, predict_probs

METRIC = "val/macro_f1"
"""What Optuna maximises."""

COMPLETE = "complete"
"""What a trial reports last, after it has kept its weights: one without it was stopped early."""

PARAMETERS = tuple(field.name for field in dataclasses.fields(SearchSpace))
"""What a trial chooses; each is a field of HeadConfig."""


def run_trial(choices: dict[str, Any], *, data: dict[str, TrainingData], fixed: HeadConfig, run: str) -> None:
    """One trial: fit a classifier on one encoder's features, keep its weights, report its val metrics."""
    torch.set_num_threads(1)
    config = dataclasses.replace(fixed, **chosen(choices))
    encoder = choices["encoder"]
    result = fit(data[encoder], config)
    storage.write_bytes(weights_uri(run, tune.get_context().get_trial_id()), save(result.model.state_dict()))
    tune.report(trial_metrics(result, data[encoder]))


def chosen(choices: dict[str, Any]) -> dict[str, Any]:
    """What was chosen for a trial, as fields of HeadConfig."""
    return {name: choices[name] for name in PARAMETERS if choices.get(name) is not None}


def trial_metrics(result: Fit, data: TrainingData) -> dict[str, Any]:
    """Val metrics of what :func:`decide_by_train` predicts, and the trial's history."""
    train_probs, val_probs = (predict_probs(result.model, packed) for packed in (data.train_packed, data.val_packed))
    predicted = decide_by_train((data.train_targets, train_probs), val_probs, result.model.single_label)
    return {
        **prefixed("val", score(data.val_targets, predicted)),
        "num_epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "train_seconds": result.train_seconds,
        "history": json.dumps(result.history),
        COMPLETE: True,
    }


def weights_uri(run: str, trial_id: str) -> str:
    return storage.join(run, "weights", f"{trial_id}.safetensors")
