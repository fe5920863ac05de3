"""Pieces of what a sweep does, each timed for a few seconds in the process where it runs."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from emo.batches import LoadedBatch, Plan, Recipe, read_batches
from emo.config import HeadConfig
from emo.encode import BATCH_SIZE, Encode, actor_device, plan_units
from emo.encoders import Branch
from emo.finetune import parameter_groups
from emo.losses import make_loss
from emo.models import FeatureSpec
from emo.reading import TextVariant, input_columns
from emo.sampler import Share
from emo.thresholds import search
from emo.train import MicroBatch, TrainingData, fit, make_optimizer, train_epoch
from emo.train_loop import MAX_NORM, TrainingJob, autocast
from emo.trial import trial_metrics

CUT_SECONDS = 3.0
"""What has not ended after so long is stopped."""
FEW = 8
"""Posts with which all is done once before it is timed, for what is slow only then."""
SEARCHED, GROWTH = 100, 1.5
"""Of a search of thresholds, so many trials are timed: the time of n grows with n to the power of GROWTH."""


@dataclass(frozen=True)
class TrialTime:
    """How long a trial took, as far as it came."""

    seconds: float
    num_epochs: int
    ended: bool
    """By itself."""


@dataclass(frozen=True)
class BranchTime:
    """How fast an actor passes posts through a branch."""

    start: float
    """Seconds until the branch was there."""
    seconds: tuple[float, ...]
    """Of a post, in each of some batches."""
    spec: FeatureSpec
    """What its features will be."""


@dataclass(frozen=True)
class TrainingTime:
    """How fast a worker trains an encoder."""

    start: float
    """Seconds until the model was there."""
    training: dict[int, float]
    """Of a post, by the posts of a step."""
    reading: float
    """Of a post, until it is tensors; other cores do that meanwhile, if there are any."""
    judging: float
    """Of a post that passes through and is not trained on."""


class _Enough(Exception):
    """A trial has run for long enough."""


def is_there() -> bool:
    """True, once a process has started and imported this."""
    return True


def time_trial(data: TrainingData, head: HeadConfig) -> TrialTime:
    """A trial on cached features."""
    torch.set_num_threads(1)
    device = actor_device()
    _fit(cut(data, FEW), replace(head, max_epochs=1), device)
    began = time.perf_counter()
    num_epochs, ended = _fit(data, head, device)
    return TrialTime(time.perf_counter() - began, num_epochs, ended)


def _fit(data: TrainingData, head: HeadConfig, device: str) -> tuple[int, bool]:
    """How many epochs a trial came to, and whether it ended by itself."""
    began, num_epochs = time.perf_counter(), 1

    def on_epoch(epoch: dict[str, float]) -> None:
        nonlocal num_epochs
        num_epochs = int(epoch["epoch"])
        if time.perf_counter() - began > CUT_SECONDS:
            raise _Enough

    try:
        trial_metrics(fit(data, head, on_epoch, device), data)
    except _Enough:
        return num_epochs, False
    except FloatingPointError:  # as a trial of the sweep ends, too
        pass
    return num_epochs, True


def cut(data: TrainingData, num_rows: int) -> TrainingData:
    """The same with so many posts of train at most."""
    shares = data.train_shares
    return replace(
        data,
        train_packed=data.train_packed[:num_rows],
        train_targets=data.train_targets[:num_rows],
        train_shares=None if shares is None else shares[:num_rows],
    )


def time_branch(posts: str, num_posts: int, branch: Branch, text: TextVariant, layers: bool) -> BranchTime:
    """A branch over posts from the middle of the corpus."""
    began = time.perf_counter()
    encode = Encode(branch, text, layers)
    start = time.perf_counter() - began
    units = plan_units(posts, num_posts)
    table = units[len(units) // 2].read(["post_id", *input_columns(branch.modality)])
    encode(table[:FEW])
    began = time.perf_counter()
    encode(table[:FEW])
    size = BATCH_SIZE if (time.perf_counter() - began) * BATCH_SIZE / FEW < CUT_SECONDS / 3 else FEW
    seconds: list[float] = []
    while sum(seconds) * size < CUT_SECONDS and len(seconds) * size < table.num_rows:
        rows = table.slice(len(seconds) * size, size)
        began = time.perf_counter()
        encode(rows)
        seconds.append((time.perf_counter() - began) / rows.num_rows)
    tower = encode.encoder.tower
    spec = FeatureSpec(tower.width, encode.encoder.projection, tower.num_layers if layers else 1)
    return BranchTime(start, tuple(seconds), spec)


def time_training(job: TrainingJob, batch_sizes: tuple[int, ...]) -> TrainingTime:
    """Steps of every batch size, on posts of the corpus."""
    torch.set_num_threads(job.training.cpus_per_worker)
    began = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoders, model = job.untrained(device)
    start = time.perf_counter() - began
    loss_of = make_loss(job.head.loss, torch.tensor(job.prevalence))
    context = autocast(job.training.precision, device)
    optimizer, scheduler = make_optimizer(parameter_groups(model, encoders, job.head), job.head, 10**6)

    def prepared(batch: LoadedBatch) -> MicroBatch:
        inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
        return MicroBatch(inputs, job.goals(batch.shares).to(device), batch.scale, batch.ends_step)

    def step(batches: list[MicroBatch]) -> None:
        train_epoch(model, batches, optimizer, scheduler, loss_of, max_norm=MAX_NORM, autocast=context)

    reading, training, judging = [], {}, []
    model.train()
    for batch_size in batch_sizes:
        given, taken, seconds = _some_steps(job, batch_size), 0, 0.0
        step([prepared(batch) for batch in next(given)])
        while seconds < CUT_SECONDS / len(batch_sizes):
            began = time.perf_counter()
            loaded = next(given)
            num_rows = sum(batch.num_rows for batch in loaded)
            reading.append((time.perf_counter() - began) / num_rows)
            began = time.perf_counter()
            step([prepared(batch) for batch in loaded])
            seconds += time.perf_counter() - began
            taken += num_rows
        training[batch_size] = seconds / taken
    model.eval()
    with torch.no_grad(), context():
        for batch in next(_some_steps(job, max(batch_sizes))):
            began = time.perf_counter()
            model(prepared(batch).inputs)
            judging.append((time.perf_counter() - began) / batch.num_rows)
    return TrainingTime(start, training, float(np.mean(reading)), float(np.mean(judging)))


def _some_steps(job: TrainingJob, batch_size: int) -> Iterator[list[LoadedBatch]]:
    """Steps of one worker, over and over again on the posts of one unit."""
    plan = _first_unit(job.train)
    recipe = Recipe(job.branches, job.text, len(job.prevalence), augment=(0, 1) if job.training.augment else None)
    share = Share(plan.num_rows, min(batch_size, plan.num_rows), rank=0, world_size=1)
    for epoch in itertools.count():
        held: list[LoadedBatch] = []
        for batch in read_batches(plan, share, recipe, (0, epoch), job.training.micro_batch_size):
            held.append(batch)
            if batch.ends_step:
                yield held
                held = []


def _first_unit(plan: Plan) -> Plan:
    """The plan of the first posts alone."""
    first = next(number for number, count in enumerate(plan.counts) if count)
    return replace(plan, units=plan.units[first : first + 1], counts=plan.counts[first : first + 1])


def time_search(num_posts: int, num_labels: int, num_trials: int, single_label: bool) -> float:
    """Seconds of a search of thresholds; what the posts are does not matter to it."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    train, val = (
        (rng.random((n, num_labels)) < 0.2, rng.random((n, num_labels))) for n in (num_posts, num_posts // 4 + 1)
    )
    timed = min(num_trials, SEARCHED)
    search(train, val, min(timed, FEW), 0, single_label)
    began = time.perf_counter()
    search(train, val, timed, 0, single_label)
    return (time.perf_counter() - began) * (num_trials / timed) ** GROWTH
