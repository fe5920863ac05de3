"""A sweep's trials in TensorBoard, MLflow or Weights & Biases, by Ray Tune's own callbacks.

Credentials come from the environment. Import it only where a logger is wanted: the packages take seconds.
"""

import importlib.util
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.air.integrations.wandb import WandbLoggerCallback
from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback
from ray.tune.logger.tensorboardx import TBXLoggerCallback
from ray.tune.result import TRAINING_ITERATION

from emo import storage
from emo.config import Logger, UserError
from emo.console import warn
from emo.monitoring import run_name

PACKAGES: dict[Logger, str] = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
PROJECT = "emo"
"""The MLflow experiment and the W&B project, where MLFLOW_EXPERIMENT_NAME and WANDB_PROJECT name no other."""


def callbacks(names: Sequence[Logger], run: str) -> list[tune.Callback]:
    """What a Tune experiment is given for a run's folder; a UserError where a logger cannot work."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise UserError(f"--log-to {name} needs the package {PACKAGES[name]}: pip install emo[{name}]")
    made: dict[Logger, Callable[[str], tune.Callback]] = {"tensorboard": TensorBoard, "mlflow": mlflow, "wandb": wandb}
    return [made[name](run) for name in dict.fromkeys(names)]


def mlflow(run: str) -> tune.Callback:
    """Runs at MLFLOW_TRACKING_URI, or else in ``<run>/mlflow.db``."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        if storage.is_remote(run):
            raise UserError("--log-to mlflow needs MLFLOW_TRACKING_URI where --output is on an object store.")
        uri = f"sqlite:///{storage.join(storage.absolute(run), 'mlflow.db')}"
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    return MLflow(tracking_uri=uri, experiment_name=experiment, tags={"run": run_name(run)})


def wandb(run: str) -> tune.Callback:
    """Runs of a group at W&B; with WANDB_MODE=offline they lie in ``<run>/wandb`` for ``wandb sync``."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode == "online" and "WANDB_API_KEY" not in os.environ:
        raise UserError("--log-to wandb needs WANDB_API_KEY, or WANDB_MODE=offline to keep the runs here.")
    if mode == "offline" and storage.is_remote(run):
        raise UserError("--log-to wandb with WANDB_MODE=offline needs an --output on this machine.")
    folder = tempfile.gettempdir() if storage.is_remote(run) else storage.absolute(run)
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    return WeightsAndBiases(project=project, group=run_name(run), dir=folder, mode=mode)


def figures(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a trial has reported, with the epoch as its step: a trial on cached features tells of all its epochs only
    at its end, in its history."""
    history = json.loads(result.get("history", "[]"))
    if result[TRAINING_ITERATION] == 1:
        yield from (row | {TRAINING_ITERATION: row["epoch"]} for row in history)
    step = history[-1]["epoch"] if history else result.get("epoch", result[TRAINING_ITERATION])
    numbers = {name: value for name, value in result.items() if name.startswith("val/") or name == "train_seconds"}
    yield numbers | {TRAINING_ITERATION: step}


class Tracker(LoggerCallback):
    """What the loggers share: every epoch is a step, and one that fails in the middle does not take the sweep along."""

    name: Logger
    failed = False

    def setup(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().setup(*args, **kwargs)
        except Exception as error:
            raise UserError(f"--log-to {self.name} does not work: {error}") from error

    def log_trial_start(self, trial: Trial) -> None:
        self._try(super().log_trial_start, trial)

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        for row in figures(result):
            self._try(self.log_figures, iteration, trial, row)

    def log_figures(self, iteration: int, trial: Trial, row: dict[str, Any]) -> None:
        super().log_trial_result(iteration, trial, row)

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        self._try(super().log_trial_end, trial, failed)

    def _try(self, log: Any, *arguments: Any) -> None:
        if self.failed:
            return
        try:
            log(*arguments)
        except Exception as error:
            self.failed = True
            warn(f"--log-to {self.name}: the sweep goes on without it, since {error}")


class TensorBoard(Tracker, TBXLoggerCallback):
    """Event files in ``<run>/tensorboard/<trial>``, put there at each trial's end where that is an object store."""

    name: Logger = "tensorboard"

    def __init__(self, run: str) -> None:
        super().__init__()
        self.uri = storage.join(storage.absolute(run), "tensorboard")
        is_remote = storage.is_remote(run)
        self.folder = os.path.join(tempfile.gettempdir(), storage.digest(self.uri)) if is_remote else self.uri

    def log_trial_start(self, trial: Trial) -> None:
        self._try(self._open, trial)

    def _open(self, trial: Trial) -> None:
        if trial in self._trial_writer:  # it was started again
            self._trial_writer[trial].close()
        self._trial_writer[trial] = self._summary_writer_cls(
            os.path.join(self.folder, trial.config["trial"]), flush_secs=30
        )
        self._trial_result[trial] = {}

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        super().log_trial_end(trial, failed)
        if self.folder != self.uri:
            name = trial.config["trial"]
            self._try(storage.put_folder, os.path.join(self.folder, name), f"{self.uri}/{name}")


class MLflow(Tracker, MLflowLoggerCallback):
    """Figures are sent an epoch at a time, where Ray sends each by itself, which takes ten times as long."""

    name: Logger = "mlflow"

    def log_figures(self, iteration: int, trial: Trial, row: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        now, step = int(1000 * time.time()), row[TRAINING_ITERATION]
        named = {re.sub(r"[^\w\-./: ]", "_", name): value for name, value in row.items()}  # MLflow refuses others
        metrics = [Metric(name, value, now, step) for name, value in named.items() if name != TRAINING_ITERATION]
        self.mlflow_util._get_client().log_batch(self._trial_runs[trial], metrics)


class WeightsAndBiases(Tracker, WandbLoggerCallback):
    """Ray has a process of its own for each trial that runs."""

    name: Logger = "wandb"
