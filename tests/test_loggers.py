"""Trials in TensorBoard, MLflow and Weights & Biases."""

import importlib.util
import json
import os
import pickle
import struct
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from emo import loggers
from emo.config import UserError

HISTORY = [{"epoch": 1, "val_loss": 2.0}, {"epoch": 2, "val_loss": 0.5}]
RESULT = {"training_iteration": 1, "val/macro_f1": 0.5, "val/f1/joy!": 1.0, "history": json.dumps(HISTORY)}


@dataclass(frozen=True)
class Trial:
    """What the loggers read of Tune's."""

    trial_id: str = "t0"

    @property
    def config(self) -> dict[str, float | str]:
        return {"trial": self.trial_id, "lr": 0.1}

    evaluated_params = config


TRIAL = Trial()


def log(logger, trial: Trial) -> None:
    logger.setup()
    logger.log_trial_start(trial)
    logger.log_trial_result(1, trial, RESULT)
    logger.log_trial_end(trial)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Name -> step -> value in the event files of a folder: records of a length, its checksum, an event, and its."""
    found = defaultdict(dict)
    for path in folder.iterdir():
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            for value in event.summary.value:
                if value.tag.startswith("ray/tune/") and event.step:  # what has none are the choices
                    found[value.tag.removeprefix("ray/tune/")][event.step] = value.simple_value
    return dict(found)


def test_tensorboard_has_the_epochs_and_the_figures_of_a_trial(tmp_path):
    (logger,) = pickle.loads(pickle.dumps(loggers.callbacks(["tensorboard"], str(tmp_path))))
    log(logger, TRIAL)
    found = scalars(tmp_path / "tensorboard" / "t0")
    assert found == {
        "epoch": {1: 1, 2: 2},
        "val_loss": {1: 2.0, 2: 0.5},
        "val/macro_f1": {2: 0.5},
        "val/f1/joy_": {2: 1.0},
    }


def test_a_trial_that_tells_of_each_epoch_is_not_told_again(tmp_path):
    (logger,) = loggers.callbacks(["tensorboard"], str(tmp_path))
    logger.log_trial_start(TRIAL)
    logger.log_trial_result(1, TRIAL, {"training_iteration": 1, "epoch": 1, "val/macro_f1": 0.25})
    logger.log_trial_result(2, TRIAL, RESULT | {"training_iteration": 2})
    logger.log_trial_end(TRIAL)
    assert scalars(tmp_path / "tensorboard" / "t0") == {"val/macro_f1": {1: 0.25, 2: 0.5}, "val/f1/joy_": {2: 1.0}}


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--log-to mlflow needs the package mlflow: pip install emo\[mlflow\]"):
        loggers.callbacks(["mlflow"], str(tmp_path))


@pytest.mark.parametrize(
    ("name", "variables", "run", "said"),
    [
        ("mlflow", {}, "s3://bucket/run", "needs MLFLOW_TRACKING_URI"),
        ("wandb", {}, "run", "needs WANDB_API_KEY, or WANDB_MODE=offline"),
        ("wandb", {"WANDB_MODE": "offline"}, "s3://bucket/run", "needs an --output on this machine"),
    ],
)
def test_what_the_environment_lacks_is_said_before_anything_is_done(monkeypatch, name, variables, run, said):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for variable in [variable for variable in os.environ if variable.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(variable)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"--log-to {name} .*{said}"):
        loggers.callbacks([name], run)


def test_a_logger_that_fails_in_the_middle_is_left_alone(monkeypatch, tmp_path, capsys):
    (logger,) = loggers.callbacks(["tensorboard"], str(tmp_path))
    logger.log_trial_start(TRIAL)
    calls = []

    def no_disk(*arguments, **options):
        calls.append(1)
        raise OSError("no space left")

    monkeypatch.setattr(logger._trial_writer[TRIAL], "add_scalar", no_disk)
    for _ in range(3):
        logger.log_trial_result(1, TRIAL, RESULT)
    logger.log_trial_end(TRIAL)
    assert len(calls) == 1
    assert "--log-to tensorboard: the sweep goes on without it, since no space left" in capsys.readouterr().out


def test_mlflow_has_the_epochs_and_the_figures_of_a_trial(monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (logger,) = loggers.callbacks(["mlflow"], str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    log(logger, TRIAL)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/run/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("emo").experiment_id])
    assert run.data.params == {"lr": "0.1"}
    assert run.data.metrics == {"val/macro_f1": 0.5, "val/f1/joy_": 1.0, "val_loss": 0.5, "epoch": 2}
    assert run.data.tags["run"] == "run"
    assert run.info.status == "FINISHED"
