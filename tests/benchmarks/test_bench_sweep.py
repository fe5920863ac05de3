"""What Tune costs: head trials on cached features of 900 posts with 9 labels.

1. 2 encoders x 200 trials, widths 96 + 96: wall time against the sum of what the trials report as training, spread over
   the cores. Limit: 1.25; printed beside it without the start of Tune and of the first actors.
2. A trial of that sweep against the same trial as a Ray Train TorchTrainer. Limit: ours is at least 10 times faster.
3. A trial of it against one of a plain Optuna loop that encodes the posts again in every trial. No limit.
4. The published study, 5 encoders x 200 trials and 300 more for the best, on features of the published widths: trials
   in a second against a plain Optuna loop in one process that runs some of the same trials again. Limit: at least 0.75
   times the number of cores.
5. Anonymous memory of each trial's process, while one encoder's features have 20 MB and while they have 320 MB. Limit:
   it grows by a tenth of the difference at most, as features are read where Ray's object store holds them.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
import psutil
import pytest
import ray.train.torch
from checkpoints import picture
from clip import TINY, write_clip
from measure import seconds, show
from ray import tune
from safetensors.torch import save

from emo.config import HeadConfig, SearchSpace, SweepConfig, override
from emo.encoders import Branch
from emo.encoders.load import load_encoder
from emo.models import FeatureSpec
from emo.room import num_cpus
from emo.sweep import distributions, fixed_choices, sweep
from emo.train import TrainingData, fit
from emo.trial import trial_metrics
from emo.trials import METRIC, PARAMETERS, Row, read_trials

pytestmark = pytest.mark.bench

WALL_LIMIT, TRAINER_LIMIT, LOOP_LIMIT, MEMORY_LIMIT = 1.25, 10, 0.75, 0.1
NUM_POSTS, NUM_VAL, NUM_LABELS, WIDTH = 900, 180, 9, 96
ROUNDS = 3
SMALL = SweepConfig(trials=200, refine_trials=0, refine_top=0, max_epochs=20)
NUM_TRIALS = SMALL.budget.total_trials(2)
PAPER = SweepConfig(preset="paper")
WIDTHS = {"clip-base": (512, 768), "clip-large": (768, 1024), "siglip": (768, 768), "blip2": (768, 768), "bert": (768,)}
NUM_PLAIN = 60
"""Trials of the published study that a plain loop runs again."""


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


class TrialMemory(tune.Callback):
    """The highest anonymous memory, in MB, of any trial's process as it ends a trial."""

    def __init__(self) -> None:
        self.peak = 0.0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        memory = psutil.Process(trial.last_result["pid"]).memory_info()
        self.peak = max(self.peak, (memory.rss - memory.shared) / 2**20)


def _targets(rng: np.random.Generator, latent: np.ndarray) -> np.ndarray:
    """(N, K) boolean, each label on about a fifth of the posts, with noise."""
    scores = latent @ rng.normal(size=(latent.shape[1], NUM_LABELS)) + rng.normal(size=(NUM_POSTS, NUM_LABELS))
    return scores > np.quantile(scores, 0.8, axis=0)


def _training_data(features: np.ndarray, targets: np.ndarray, widths: tuple[int, ...]) -> TrainingData:
    packed = np.concatenate([features, np.ones((len(features), len(widths)))], axis=1, dtype=np.float32)
    return TrainingData(
        train_packed=packed[NUM_VAL:],
        train_targets=targets[NUM_VAL:],
        val_packed=packed[:NUM_VAL],
        val_targets=targets[:NUM_VAL],
        specs={name: FeatureSpec(width) for name, width in zip(("text", "image"), widths, strict=False)},
    )


def _features(widths: dict[str, tuple[int, ...]]) -> dict[str, TrainingData]:
    """What several encoders would make of the same posts."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(NUM_POSTS, 16))
    targets = _targets(rng, latent)
    found = {name: latent @ rng.normal(size=(16, sum(of_name))) for name, of_name in widths.items()}
    noisy = {name: values + 2 * rng.normal(size=values.shape) for name, values in found.items()}
    return {name: _training_data(values, targets, widths[name]) for name, values in noisy.items()}


@pytest.fixture(scope="module")
def data() -> dict[str, TrainingData]:
    return _features({"first": (WIDTH, WIDTH), "second": (WIDTH, WIDTH)})


def _sweep(run: Path, data: dict[str, TrainingData], config: SweepConfig) -> tuple[float, float, list[Row]]:
    """Wall seconds of a sweep, those since its first actor was up, and its trials."""
    first = FirstStart()
    began = time.perf_counter()
    sweep(str(run), config, data, {}, callbacks=[first])
    ended = time.perf_counter()
    trials = read_trials(str(run))
    assert [row["status"] for row in trials] == ["done"] * config.budget.total_trials(len(data))
    assert first.time
    return ended - began, ended - first.time, trials


def _choices(trial: Row, config: SweepConfig = SMALL) -> HeadConfig:
    return override(fixed_choices(config), {name: trial[name] for name in PARAMETERS if trial[name] is not None})


def _as_trainer(trial: Row, data: dict[str, TrainingData], folder: Path) -> None:
    """The trial again, as a Ray Train run of its own."""

    def train_loop(config: dict[str, Any]) -> None:
        result = fit(config["data"], config["head"])
        with tempfile.TemporaryDirectory() as kept:
            Path(kept, "weights.safetensors").write_bytes(save(result.model.state_dict()))
            ray.train.report(trial_metrics(result, config["data"]), ray.train.Checkpoint.from_directory(kept))

    trainer = ray.train.torch.TorchTrainer(
        train_loop,
        train_loop_config={"data": data[trial["encoder"]], "head": _choices(trial)},
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(name=trial["trial_id"], storage_path=str(folder)),
    )
    assert trainer.fit().metrics["val/macro_f1"] == pytest.approx(trial[METRIC], abs=0.02)


def _encoding_anew(
    trial: Row, data: dict[str, TrainingData], branches: dict[str, Branch], posts: dict[str, list[Any]]
) -> None:
    """One trial of a plain Optuna loop: texts and images of all posts through a CLIP of the tiny size, then the fit."""
    targets = np.concatenate([data["first"].val_targets, data["first"].train_targets])

    def objective(_: optuna.Trial) -> float:
        features = [load_encoder(branches[name]).encode(values) for name, values in posts.items()]
        encoded = _training_data(np.concatenate(features, axis=1), targets, (WIDTH, WIDTH))
        return trial_metrics(fit(encoded, _choices(trial)), encoded)[METRIC]

    optuna.create_study(direction="maximize").optimize(objective, n_trials=1)


@pytest.fixture(scope="module")
def rounds(ray_session: None, data: dict[str, TrainingData], scratch: Path) -> list[Round]:
    """A sweep, a TorchTrainer and a trial of the plain loop; and all of it again."""
    branches, result = write_clip(scratch / "clip", **TINY), []
    images = [picture(seed, (96, 96), "JPEG") for seed in range(NUM_POSTS)]
    posts = {"text": ["so happy today the rain never ends"] * NUM_POSTS, "image": images}
    for n in range(ROUNDS):
        wall, warm, trials = _sweep(scratch / f"run-{n}", data, SMALL)
        training = sum(trial["train_seconds"] for trial in trials) / num_cpus()
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


@pytest.mark.usefixtures("ray_session", "one_thread")
def test_the_published_study(scratch: Path) -> None:
    data = _features(WIDTHS)
    wall, _, trials = _sweep(scratch / "paper", data, PAPER)
    training = sum(trial["train_seconds"] for trial in trials) / num_cpus()
    print(
        f"the published study's {len(trials)} trials: {wall:.0f} s, of which training is {training:.0f} s on all cores"
    )
    again = trials[:: -(-len(trials) // NUM_PLAIN)]

    def plain() -> None:
        """The same choices one after the other in this process, told to a study."""
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
        for trial in again:
            encoder = data[trial["encoder"]]
            asked = study.ask(distributions(SearchSpace(), "frozen", encoder.num_modalities))
            study.tell(asked, trial_metrics(fit(encoder, _choices(trial, PAPER)), encoder)[METRIC])

    ours, reference = len(trials) / wall, len(again) / seconds(plain)
    limit = LOOP_LIMIT * num_cpus()
    assert show("the published study", ours, reference, "trials/s", f">= {limit}") >= limit


@pytest.mark.usefixtures("ray_session")
def test_memory(scratch: Path) -> None:
    sizes, peaks = {}, {}
    for width in (5_000, 80_000):
        data = _features({"wide": (width,)})
        config = override(SMALL, {"trials": 2 * num_cpus(), "max_epochs": 1, "space.num_layers": (1,)})
        watch = TrialMemory()
        sweep(str(scratch / str(width)), config, data, {}, callbacks=[watch])
        sizes[width], peaks[width] = data["wide"].train_packed.nbytes / 2**20, watch.peak
        print(f"features of {sizes[width]:.0f} MB: {peaks[width]:.0f} MB of anonymous memory in a trial's process")
    (small, large), (less, more) = sizes.values(), peaks.values()
    assert more - less <= MEMORY_LIMIT * (large - small)
