"""What Tune costs: 2 encoders x 50 head trials on cached features of 900 posts, 9 labels, widths 96 + 96.

1. Wall time of the sweep against the sum of what its trials report as training, spread over the cores. Limit: 1.4;
   printed beside it without the start of Tune and of the first actors.
2. A trial of the sweep against the same trial as a Ray Train TorchTrainer. Limit: ours is at least 10 times faster.
3. A trial of the sweep against one of a plain Optuna loop that encodes the posts again in every trial. No limit.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
import pytest
import ray.train.torch
from checkpoints import picture
from clip import TINY, write_clip
from measure import seconds, show
from ray import tune
from safetensors.torch import save

from emo.config import Budget, HeadConfig, SearchSpace, override
from emo.encoders import Branch
from emo.encoders.load import load_encoder
from emo.models import FeatureSpec
from emo.room import num_cpus
from emo.sweep import StudyPerEncoder, distributions, run_trials
from emo.train import TrainingData, fit
from emo.trial import PARAMETERS, trial_metrics
from emo.watch import Watcher

pytestmark = pytest.mark.bench

WALL_LIMIT, TRAINER_LIMIT = 1.4, 10
NUM_POSTS, NUM_VAL, NUM_LABELS, WIDTH = 900, 180, 9, 96
ROUNDS = 3
FIXED = HeadConfig(max_epochs=20)
BUDGET = Budget(
    encoders=("first", "second"), trials=50, refine_trials=0, refine_top=0, calibration_trials=1, max_epochs=20
)
NUM_TRIALS = BUDGET.total_trials(2)


@dataclass(frozen=True)
class Round:
    """Seconds of each way, measured one after the other."""

    wall: float
    """A sweep of NUM_TRIALS trials."""
    warm: float
    """The same since its first actor was up."""
    training: float
    """What its trials report as training, spread over the cores."""
    trainer: float
    """One of its trials as a TorchTrainer."""
    plain: float
    """One of its trials as a plain Optuna loop runs it."""


class FirstStart(tune.Callback):
    """When the first trial's actor was up."""

    def __init__(self) -> None:
        self.time: float | None = None

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.time = self.time or time.perf_counter()


def _targets(rng: np.random.Generator, latent: np.ndarray) -> np.ndarray:
    """(N, K) boolean, each label on about a fifth of the posts, with noise."""
    scores = latent @ rng.normal(size=(latent.shape[1], NUM_LABELS)) + rng.normal(size=(NUM_POSTS, NUM_LABELS))
    return scores > np.quantile(scores, 0.8, axis=0)


def _training_data(packed: np.ndarray, targets: np.ndarray) -> TrainingData:
    return TrainingData(
        train_packed=packed[NUM_VAL:],
        train_targets=targets[NUM_VAL:],
        val_packed=packed[:NUM_VAL],
        val_targets=targets[:NUM_VAL],
        specs={"text": FeatureSpec(WIDTH), "image": FeatureSpec(WIDTH)},
    )


@pytest.fixture(scope="module")
def data() -> dict[str, TrainingData]:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(NUM_POSTS, 16))
    targets = _targets(rng, latent)
    present = np.ones((NUM_POSTS, 2))
    features = {name: latent @ rng.normal(size=(16, 2 * WIDTH)) for name in BUDGET.encoders}
    noisy = {name: values + 2 * rng.normal(size=values.shape) for name, values in features.items()}
    return {
        name: _training_data(np.concatenate([values, present], axis=1, dtype=np.float32), targets)
        for name, values in noisy.items()
    }


def _sweep(run: Path, data: dict[str, TrainingData]) -> tuple[float, float, list[Any]]:
    """Wall seconds of a sweep, those since its first actor was up, and its results."""
    searcher = StudyPerEncoder({name: distributions(SearchSpace(), "frozen", 2) for name in data}, BUDGET, seed=0)
    first = FirstStart()
    began = time.perf_counter()
    grid = run_trials(str(run), data, FIXED, searcher, [Watcher(str(run), list(data), NUM_TRIALS, top=10), first])
    ended = time.perf_counter()
    assert len(grid) == NUM_TRIALS
    assert not grid.errors
    assert first.time
    return ended - began, ended - first.time, list(grid)


def _choices(config: dict[str, Any]) -> HeadConfig:
    return override(FIXED, {name: config[name] for name in PARAMETERS})


def _as_trainer(trial: Any, data: dict[str, TrainingData], folder: Path) -> None:
    """The trial again, as a Ray Train run of its own."""

    def train_loop(config: dict[str, Any]) -> None:
        result = fit(config["data"], config["head"])
        with tempfile.TemporaryDirectory() as kept:
            Path(kept, "weights.safetensors").write_bytes(save(result.model.state_dict()))
            ray.train.report(trial_metrics(result, config["data"]), ray.train.Checkpoint.from_directory(kept))

    trainer = ray.train.torch.TorchTrainer(
        train_loop,
        train_loop_config={"data": data[trial.config["encoder"]], "head": _choices(trial.config)},
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(name=trial.metrics["trial_id"], storage_path=str(folder)),
    )
    assert trainer.fit().metrics["val/macro_f1"] == pytest.approx(trial.metrics["val/macro_f1"], abs=0.02)


def _encoding_anew(
    trial: Any, data: dict[str, TrainingData], branches: dict[str, Branch], posts: dict[str, list[Any]]
) -> None:
    """One trial of a plain Optuna loop: texts and images of all posts through a CLIP of the tiny size, then the fit."""
    targets = np.concatenate([data["first"].val_targets, data["first"].train_targets])

    def objective(_: optuna.Trial) -> float:
        features = [load_encoder(branches[name]).encode(values) for name, values in posts.items()]
        encoded = _training_data(np.concatenate([*features, np.ones((NUM_POSTS, 2), np.float32)], axis=1), targets)
        return trial_metrics(fit(encoded, _choices(trial.config)), encoded)["val/macro_f1"]

    optuna.create_study(direction="maximize").optimize(objective, n_trials=1)


@pytest.fixture(scope="module")
def rounds(ray_session: None, data: dict[str, TrainingData], scratch: Path) -> list[Round]:
    """A sweep, a TorchTrainer and a trial of the plain loop; and all of it again."""
    branches, result = write_clip(scratch / "clip", **TINY), []
    images = [picture(seed, (96, 96), "JPEG") for seed in range(NUM_POSTS)]
    posts = {"text": ["so happy today the rain never ends"] * NUM_POSTS, "image": images}
    for n in range(ROUNDS):
        wall, warm, trials = _sweep(scratch / f"run-{n}", data)
        training = sum(trial.metrics["train_seconds"] for trial in trials) / num_cpus()
        show(f"sweep, round {n + 1}", wall, training, "s")
        trainer = seconds(lambda trial=trials[n]: _as_trainer(trial, data, scratch / "trainers"))
        plain = seconds(lambda trial=trials[n]: _encoding_anew(trial, data, branches, posts))
        result.append(Round(wall, warm, training, trainer, plain))
    return result


def test_wall_time(rounds: list[Round]) -> None:
    middle = sorted(rounds, key=lambda each: each.wall / each.training)[ROUNDS // 2]
    show("sweep without the start of Tune and its actors", middle.warm, middle.training, "s")
    assert show("sweep", middle.wall, middle.training, "s", f"<= {WALL_LIMIT}") <= WALL_LIMIT


def test_against_trainers(rounds: list[Round]) -> None:
    ours, trainer = median(each.wall / NUM_TRIALS for each in rounds), median(each.trainer for each in rounds)
    faster = show("a trial, as a TorchTrainer", ours, trainer, "s", f">= {TRAINER_LIMIT}", inverse=True)
    assert faster >= TRAINER_LIMIT


def test_against_encoding_in_every_trial(rounds: list[Round]) -> None:
    ours, plain = median(each.wall / NUM_TRIALS for each in rounds), median(each.plain for each in rounds)
    show("a trial, encoding anew in plain Optuna", ours, plain, "s", inverse=True)
