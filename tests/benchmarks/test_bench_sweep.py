"""What Tune costs: 2 encoders x 50 head trials on cached features of 900 posts, 9 labels, widths 96 + 96.

1. Wall time of the sweep against the sum of what its trials report as training, spread over the cores. Limit: 1.4;
   printed beside it without the start of Tune and of the first actors.
2. A trial of the sweep against the same trial as a Ray Train TorchTrainer. Limit: ours is at least 10 times faster.
3. A trial of the sweep against one of a plain Optuna loop that encodes the posts again in every trial. No limit.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import ray.train.torch
from checkpoints import picture
from clip import TINY, write_clip
from measure import seconds, show
from ray import tune

from emo.config import Budget, HeadConfig, SearchSpace, override
from emo.encoders.pretrained import PretrainedEncoder
from emo.session import num_cpus
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
        widths={"text": WIDTH, "image": WIDTH},
        projections={"text": None, "image": None},
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
    searcher = StudyPerEncoder(list(data), SearchSpace(), BUDGET, seed=0)
    first = FirstStart()
    began = time.perf_counter()
    grid = run_trials(str(run), data, FIXED, searcher, [Watcher(str(run), list(data), 100, top=10), first])
    ended = time.perf_counter()
    assert len(grid) == 100
    assert not grid.errors
    assert first.time
    return ended - began, ended - first.time, list(grid)


def _choices(config: dict[str, Any]) -> HeadConfig:
    return override(FIXED, {name: config[name] for name in PARAMETERS})


def _as_trainer(trial: Any, data: dict[str, TrainingData], folder: Path) -> None:
    """The trial again, as a Ray Train run of its own."""

    def train_loop(config: dict[str, Any]) -> None:
        result = fit(config["data"], config["head"])
        ray.train.report(trial_metrics(result, config["data"]))

    trainer = ray.train.torch.TorchTrainer(
        train_loop,
        train_loop_config={"data": data[trial.config["encoder"]], "head": _choices(trial.config)},
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(name=trial.metrics["trial_id"], storage_path=str(folder)),
    )
    assert trainer.fit().metrics["val/macro_f1"] == pytest.approx(trial.metrics["val/macro_f1"], abs=0.02)


def test_sweep(ray_session: None, data: dict[str, TrainingData], tmp_path: Path) -> None:
    ratios, warm_ratios, walls, trainers = [], [], [], []
    for n in range(ROUNDS):
        wall, warm, trials = _sweep(tmp_path / f"run-{n}", data)
        training = sum(trial.metrics["train_seconds"] for trial in trials) / num_cpus()
        show(f"sweep, round {n + 1}", wall, training, "s")
        walls.append(wall)
        ratios.append(wall / training)
        warm_ratios.append(warm / training)
        trainers.append(seconds(lambda trial=trials[n]: _as_trainer(trial, data, tmp_path / "trainers")))
    ours, theirs = statistics.median(walls) / 100, statistics.median(trainers)
    middle = ratios.index(statistics.median(ratios))
    show("sweep, wall", walls[middle], walls[middle] / ratios[middle], "s", f"<= {WALL_LIMIT}")
    print(
        f"sweep, wall without the start of Tune and its actors: ratio {statistics.median(warm_ratios):.2f} (limit none)"
    )
    faster = show("sweep, a trial, TorchTrainer", ours, theirs, "s", f">= {TRAINER_LIMIT}", inverse=True)
    assert faster >= TRAINER_LIMIT
    assert statistics.median(ratios) <= WALL_LIMIT


def test_encoding_in_every_trial(ray_session: None, data: dict[str, TrainingData], tmp_path: Path) -> None:
    """A plain Optuna loop: texts and images of all posts through a CLIP of the tiny size, then the same fit."""
    branches = write_clip(tmp_path / "clip", **TINY)
    images = [picture(seed, (96, 96), "JPEG") for seed in range(NUM_POSTS)]
    texts = ["so happy today the rain never ends"] * NUM_POSTS
    targets = np.concatenate([data["first"].val_targets, data["first"].train_targets])
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        text, image = (
            PretrainedEncoder(branches["text"]).encode(texts),
            PretrainedEncoder(branches["image"]).encode(images),
        )
        packed = np.concatenate([text, image, np.ones((NUM_POSTS, 2), np.float32)], axis=1)
        choices = {name: trial._suggest(name, space) for name, space in distributions(SearchSpace()).items()}
        fitted = _training_data(packed, targets)
        return trial_metrics(fit(fitted, _choices(choices)), fitted)["val/macro_f1"]

    loop = seconds(lambda: optuna.create_study(direction="maximize").optimize(objective, n_trials=2)) / 2
    wall, _, _ = _sweep(tmp_path / "run", data)
    show("sweep, a trial, plain Optuna that encodes each time", wall / 100, loop, "s", inverse=True)
