"""The Tune trial: fit one classifier on one encoder's features, keep its weights, report its val metrics."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray import tune
from safetensors.torch import save

from emo import storage
from emo.config import HeadConfig
from emo.errors import is_outside
from emo.metrics import prefixed, score
from emo.patience import patiently
from emo.thresholds import decide_by_train
from emo.train import Fit, TrainingData, fit, predict_probs
from emo.trials import METRIC, PARAMETERS

WEIGHTS, SUFFIX = "weights", ".safetensors"

COMPLETE = "complete"
"""What a trial reports last, after it has kept its weights: one without it was stopped early."""

FAILED, OUTSIDE = "failed", "outside"
"""What a trial reports instead that failed: why, and whether that was for no reason of its own. An error that Tune sees
is then always the loss of a process, after which the trial is run again."""


def run_trial(
    choices: dict[str, Any], *, data: dict[str, TrainingData], fixed: HeadConfig, run: str, tells_epochs: bool
) -> None:
    """One trial: fit a classifier on one encoder's features, keep its weights, report its val metrics."""
    torch.set_num_threads(1)
    on_epoch = tell_epoch if tells_epochs else None

    def train() -> dict[str, Any]:
        found = data[choices["encoder"]]
        device = "cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu"
        result = fit(found, dataclasses.replace(fixed, **chosen(choices)), on_epoch, device)
        weights = {name: tensor.cpu() for name, tensor in result.model.state_dict().items()}
        patiently(run, lambda: storage.write_bytes(weights_uri(run, choices["trial"]), save(weights)))
        return trial_metrics(result, found)

    tune.report(outcome(train))


def tell_epoch(epoch: dict[str, float]) -> None:
    tune.report({"epoch": epoch["epoch"], METRIC: epoch["val_macro_f1"]})


def outcome(train: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a trial reports at its end: what ``train`` returns, or why it failed."""
    try:
        return train() | {COMPLETE: True}
    except Exception as error:
        said = (str(error).strip() or repr(error)).splitlines()[0]
        return {FAILED: f"{type(error).__name__}: {said}", OUTSIDE: is_outside(error)}


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
    }


def weights_uri(run: str, trial_id: str) -> str:
    return storage.join(run, WEIGHTS, trial_id + SUFFIX)


def with_weights(run: str) -> set[str]:
    """The ids of the trials whose weights a run has."""
    return {name.removesuffix(SUFFIX) for name in storage.list_files(storage.join(run, WEIGHTS))}
