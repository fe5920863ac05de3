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
from emo.thresholds import decide, exact
from emo.train import Fit, TrainingData, fit, predict_probs

METRIC = "val/macro_f1"
"""What Optuna maximises."""

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
    """Val metrics with the thresholds that are exact on train, and the trial's history."""
    thresholds = exact(data.train_targets, predict_probs(result.model, data.train_packed))
    predicted = decide(predict_probs(result.model, data.val_packed), thresholds)
    return {
        **prefixed("val", score(data.val_targets, predicted)),
        "num_epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "train_seconds": result.train_seconds,
        "history": json.dumps(result.history),
    }


def weights_uri(run: str, trial_id: str) -> str:
    return storage.join(run, "weights", f"{trial_id}.safetensors")
