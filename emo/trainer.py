"""A training of encoders as one TorchTrainer: where it runs, what it keeps, how it goes on, what comes of it."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import tune
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.tune.integration.ray_train import TuneReportCallback

from emo import storage
from emo.config import HeadConfig, TrainingConfig
from emo.monitoring import run_name
from emo.room import of_worker, on_gpus
from emo.train_loop import STATE, WEIGHTS, TrainingJob, train_loop
from emo.trial import chosen, outcome, weights_uri

MAX_NAME = 200
"""File systems take names of 255 bytes."""

SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Where Ray Train lists a training's checkpoints."""


@dataclass(frozen=True)
class Trained:
    """A training that has ended."""

    metrics: dict[str, Any]
    """As State.metrics gives them, after the last epoch."""
    weights: bytes
    """Those of the best epoch, as safetensors."""


def fit(job: TrainingJob, folder: str, name: str, callbacks: Sequence[Any] = ()) -> Trained:
    """Train on Ray Train workers until val loss no longer falls.

    What ``folder/name`` holds of a training that was interrupted is gone on with. A loss that is not finite is a
    FloatingPointError; a worker that was lost more often than ``max_failures`` is Ray's TrainingFailedError.
    """
    training = job.training
    if not is_whole(storage.join(folder, name)):
        storage.remove(storage.join(folder, name))
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"job": job},
        scaling_config=scaling(training),
        run_config=RunConfig(
            name=name,
            storage_path=storage.absolute(folder),
            failure_config=FailureConfig(max_failures=training.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=training.keep_checkpoints,
                checkpoint_score_attribute="val_loss",
                checkpoint_score_order="min",
            ),
            callbacks=list(callbacks),
        ),
    )
    result = trainer.fit()
    assert result.metrics
    assert result.best_checkpoints
    if result.metrics["error"]:
        raise FloatingPointError(result.metrics["error"])
    best = min(result.best_checkpoints, key=lambda found: found[1]["val_loss"])[0]
    with best.as_directory() as kept:
        return Trained(result.metrics, storage.read_bytes(storage.join(kept, WEIGHTS)))


def is_whole(folder: str) -> bool:
    """Whether a training can go on from what is there: Ray writes its list of checkpoints in place, so that a kill can
    leave half of it, or a list of checkpoints of which some are removed."""
    uri = storage.join(folder, SNAPSHOT)
    if not storage.exists(uri):
        return True
    try:
        listed = storage.read_json(uri)["checkpoint_results"]
    except ValueError:
        return False
    return all(storage.exists(storage.join(folder, each["checkpoint_dir_name"], STATE)) for each in listed)


def fit_and_keep(
    job: TrainingJob, run: str, encoder: str, trial_id: str, callbacks: Sequence[Any] = ()
) -> dict[str, Any]:
    """Train as a trial of a run's folder, keep its weights there, and drop its checkpoints; returns its metrics."""
    folder, name = storage.join(run, "training"), shown_name(run, encoder, trial_id)
    trained = fit(job, folder, name, callbacks)
    storage.write_bytes(weights_uri(run, trial_id), trained.weights)
    storage.remove(storage.join(folder, name))
    return trained.metrics


def shown_name(run: str, encoder: str, trial_id: str) -> str:
    """A training as Ray's dashboard lists it, by run, encoder and trial; also that of its folder."""
    return re.sub(r"[^\w.+-]+", "-", f"{run_name(run)}-{encoder}-{trial_id}")[-MAX_NAME:]


class TellTune(TuneReportCallback):
    """Reports every epoch but one whose loss is not finite: without a score, Tune would end the whole sweep."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if not metrics[0]["error"]:
            super().after_report(run_context, metrics, checkpoint)


def run_trainer_trial(choices: dict[str, Any], *, jobs: dict[str, TrainingJob], fixed: HeadConfig, run: str) -> None:
    """One trial of a sweep that trains encoders; each epoch is reported, so that it can be stopped early."""
    ask_this_cluster()
    job = replace(jobs[choices["encoder"]], head=replace(fixed, **chosen(choices)))
    tune.report(outcome(lambda: fit_and_keep(job, run, choices["encoder"], choices["trial"], [TellTune()])))


def ask_this_cluster() -> None:
    """Let Ray Train's cleaner ask the cluster that it runs in whether its training was stopped; it would else ask
    whichever Ray was started last on this machine, and never free the workers' cores, or free them too early."""
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")


def scaling(training: TrainingConfig) -> ScalingConfig:
    """A GPU for each worker where the cluster has any, or else cores."""
    fewest, most = training.num_workers[0], training.num_workers[-1]
    return ScalingConfig(
        num_workers=fewest if fewest == most else (fewest, most),  # type: ignore[arg-type]
        use_gpu=on_gpus(training),
        resources_per_worker=of_worker(training),
    )
