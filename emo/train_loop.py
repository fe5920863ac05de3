"""What every Ray Train worker does: epochs over its share of the posts, each with its figures and a checkpoint.

A checkpoint holds weights, optimiser, schedule and history. The state of random numbers follows from seed, epoch and
worker, so a training that was interrupted ends as an undisturbed one, given as many workers.
"""

import contextlib
import functools
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from emo.batches import LoadedBatch, Plan
from emo.config import HeadConfig, Precision, Targets, TrainingConfig
from emo.encoders import Branch
from emo.encoders.base import Encoder
from emo.finetune import assemble, freeze_unused, load_trained, parameter_groups, trained_state
from emo.labels import hard_targets
from emo.loader import PostLoader
from emo.losses import goals_of, is_drawn, make_loss
from emo.metrics import prefixed, score
from emo.models import PostClassifier, start_at_prevalence
from emo.reading import TextVariant
from emo.thresholds import decide_by_train
from emo.train import Context, MicroBatch, draw, make_optimizer, train_epoch
from emo.train_state import Recent, State

RECENT_ROWS = 16_384
"""So many of the posts that an epoch trained on last tell where thresholds lie: memory must not grow with a corpus."""
MAX_NORM = 1.0
"""Longer gradients are cut: a few posts can otherwise undo pretrained weights."""
WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.pt", "state.json"


@dataclass(frozen=True)
class TrainingJob:
    """What workers are told."""

    train: Plan
    val: Plan
    branches: tuple[Branch, ...]
    text: TextVariant
    prevalence: tuple[float, ...]
    """Share of train's posts with each label (K,)."""
    label_threshold: float
    trains_on: Targets
    head: HeadConfig
    training: TrainingConfig

    @property
    def num_modalities(self) -> int:
        return len(self.branches)

    def untrained(self, device: torch.device) -> tuple[list[Encoder], PostClassifier]:
        """The encoders, and the model with a classifier upon them, as training starts."""
        encoders, model = assemble(self.branches, len(self.prevalence), self.head, self.training, str(device))
        start_at_prevalence(model.classifier, torch.tensor(self.prevalence))
        freeze_unused(model, encoders)
        if self.training.gradient_checkpointing:
            for encoder in encoders:
                encoder.tower.enable_gradient_checkpointing()
        return encoders, model

    def goals(self, shares: Tensor) -> Tensor:
        """What the loss aims at (B, K)."""
        values = shares.numpy()
        return goals_of(hard_targets(values, self.label_threshold), values, self.trains_on, self.head.loss)


class Worker:
    """One Ray Train worker: its model, its share of the posts, and how far they have come."""

    def __init__(self, job: TrainingJob) -> None:
        context = ray.train.get_context()
        self.job, self.rank, self.world_size = job, context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        torch.set_num_threads(job.training.cpus_per_worker)
        encoders, self.model = job.untrained(self.device)
        self.wrapped = ray.train.torch.prepare_model(self.model)
        self.train, self.val = self._loader(job.train, shuffle=True), self._loader(job.val, shuffle=False)
        self.loss_of = make_loss(job.head.loss, torch.tensor(job.prevalence))
        self.autocast = autocast(job.training.precision, self.device)
        groups = parameter_groups(self.model, encoders, job.head)
        self.optimizer, self.scheduler = make_optimizer(groups, job.head, job.head.max_epochs * self.train.num_steps)
        self.state = State()

    def _loader(self, plan: Plan, *, shuffle: bool) -> PostLoader:
        job = self.job
        return PostLoader(
            plan,
            job.branches,
            text=job.text,
            batch_size=job.head.batch_size if shuffle else max(job.head.batch_size, self.world_size),
            micro_batch_size=job.training.micro_batch_size,
            rank=self.rank,
            world_size=self.world_size,
            seed=job.head.seed,
            shuffle=shuffle,
            augment=shuffle and job.training.augment,
        )

    def run_epoch(self) -> None:
        """Train on every post once, then judge val."""
        started = time.perf_counter()
        epoch = self.state.epoch + 1
        seed = np.random.SeedSequence([self.job.head.seed, epoch, self.rank]).generate_state(1)[0]
        torch.manual_seed(int(seed))
        recent = Recent(RECENT_ROWS // self.world_size)
        self.wrapped.train()
        no_sync = self.wrapped.no_sync if isinstance(self.wrapped, DistributedDataParallel) else contextlib.nullcontext
        train_loss = train_epoch(
            lambda inputs: recent.logits(self.wrapped(inputs)),
            self._micro_batches(epoch, recent),
            self.optimizer,
            self.scheduler,
            self.loss_of,
            max_norm=MAX_NORM,
            autocast=self.autocast,
            no_sync=no_sync,
            add_up=added_up,
        )
        trained = time.perf_counter() - started
        val_loss, scores = self.evaluate(recent)
        self.state.seconds += time.perf_counter() - started
        rate = self.job.train.num_rows / trained
        self.state.add({"train_loss": train_loss, "val_loss": val_loss, "posts_per_second": round(rate, 2)}, scores)

    def _micro_batches(self, epoch: int, recent: "Recent") -> Iterator[MicroBatch]:
        generator = torch.Generator().manual_seed(torch.initial_seed())
        for batch in self.train.epoch(epoch):
            goals = self.job.goals(batch.shares)
            if is_drawn(self.job.trains_on, self.job.head.loss):
                goals = draw(goals, generator)
            if batch.num_rows:
                recent.shares(batch.shares)
            else:
                recent.skip()
            yield MicroBatch(self.moved(batch), goals.to(self.device), batch.scale, batch.ends_step)

    def moved(self, batch: LoadedBatch) -> dict[str, Tensor]:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.inputs.items()}

    @torch.no_grad()
    def evaluate(self, recent: "Recent") -> tuple[float, dict[str, float]]:
        """Loss and metrics on val, of which every worker reads its share and then knows all."""
        self.model.eval()
        index, logits, shares = [], [], []
        for batch in self.val.epoch(0):
            with self.autocast():
                found = self.model(self.moved(batch)).float().cpu()
            index.append(batch.index[: batch.num_rows])
            logits.append(found[: batch.num_rows])
            shares.append(batch.shares[: batch.num_rows])
        order = gathered(torch.cat(index)).argsort()
        val_logits, val_shares = gathered(torch.cat(logits))[order], gathered(torch.cat(shares))[order]
        val_loss = self.loss_of(val_logits, self.job.goals(val_shares)).mean().item()
        if not math.isfinite(val_loss):
            raise FloatingPointError(f"The val loss became {val_loss} after epoch {self.state.epoch + 1}.")
        train_logits, train_shares = (gathered(rows) for rows in recent.rows())
        train_targets, val_targets = (
            hard_targets(found.numpy(), self.job.label_threshold) for found in (train_shares, val_shares)
        )
        probs = self.model.classifier.probs
        train = train_targets, probs(train_logits).numpy()
        predicted = decide_by_train(train, probs(val_logits).numpy(), self.model.classifier.single_label)
        return val_loss, prefixed("val", score(val_targets, predicted))

    def report(self) -> None:
        """Tell the figures, and save a checkpoint."""
        with tempfile.TemporaryDirectory() as folder:
            if self.rank == 0:
                self.save(folder)
            checkpoint = ray.train.Checkpoint.from_directory(folder) if self.rank == 0 else None
            ray.train.report(self.state.metrics(), checkpoint)

    def save(self, folder: str) -> None:
        save_file(trained_state(self.model, self.job.head.mode), os.path.join(folder, WEIGHTS))
        steps = {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
        torch.save(steps, os.path.join(folder, OPTIMIZER))
        with open(os.path.join(folder, STATE), "w", encoding="utf-8") as file:
            json.dump(asdict(self.state), file)

    def restore(self, folder: str) -> None:
        load_trained(self.model, load_file(os.path.join(folder, WEIGHTS)), self.job.head.mode)
        steps = torch.load(os.path.join(folder, OPTIMIZER), map_location=self.device, weights_only=True)
        self.optimizer.load_state_dict(steps["optimizer"])
        self.scheduler.load_state_dict(steps["scheduler"])
        with open(os.path.join(folder, STATE), encoding="utf-8") as file:
            self.state = State(**json.load(file))


def train_loop(config: dict[str, Any]) -> None:
    """Train until val loss no longer falls, from the last checkpoint on where there is one."""
    worker = Worker(config["job"])
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            worker.restore(folder)
    while not worker.state.is_over(worker.job.head):
        try:
            worker.run_epoch()
        except FloatingPointError as error:  # on all workers alike; training it again would end the same
            worker.state.error = str(error)
        worker.report()


def autocast(precision: Precision, device: torch.device) -> Context:
    """What the forward pass computes in: bfloat16 where that is wanted, or the GPU has it."""
    has_it = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision == "bf16" or (precision == "auto" and has_it):
        return functools.partial(torch.autocast, device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext


def added_up(sums: Tensor) -> Tensor:
    """The sum over all workers of a small tensor on the CPU."""
    return torch.stack(_of_all(sums)).sum(dim=0)


def gathered(rows: Tensor) -> Tensor:
    """All workers' rows (N, ...), in the order of the workers."""
    return torch.cat(_of_all(rows))


def _of_all(value: Tensor) -> list[Tensor]:
    if not torch.distributed.is_initialized():
        return [value]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found
