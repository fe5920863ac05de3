"""Training one classifier: an epoch, an evaluation, and fit() on one process."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emo.config import HeadConfig
from emo.metrics import macro_f1
from emo.models import FusionClassifier, Projection, start_at_prevalence
from emo.thresholds import decide, exact

Batch = tuple[Tensor, Tensor]
"""Inputs (B, D) and targets (B, K)."""


@dataclass(frozen=True)
class TrainingData:
    """What a trial learns from; test is not here, so no trial can look at it."""

    train_packed: np.ndarray
    """(N, D) packed features, as FusionClassifier reads them."""
    train_targets: np.ndarray
    """(N, K) boolean."""
    val_packed: np.ndarray
    val_targets: np.ndarray
    widths: dict[str, int]
    """Feature width of each modality, in the order in which they are packed."""
    projections: dict[str, Projection | None]


@dataclass
class Fit:
    """A trained model, as it was at its best epoch, and how it came to be."""

    model: FusionClassifier
    best_epoch: int
    history: list[dict[str, float]] = field(default_factory=list)
    train_seconds: float = 0.0


def batches(inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
    """All rows once, in a new order."""
    for rows in torch.randperm(len(inputs), generator=generator).split(batch_size):
        yield inputs[rows], targets[rows]


def train_epoch(
    forward: Callable[[Tensor], Tensor],
    data: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """One pass over ``data``; returns the mean loss of a post. A loss that is not finite is a FloatingPointError."""
    total, count = torch.zeros(()), 0
    for inputs, targets in data:
        loss = F.binary_cross_entropy_with_logits(forward(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.detach() * len(inputs)
        count += len(inputs)
    if not torch.isfinite(total):
        lr = scheduler.get_last_lr()[0]
        raise FloatingPointError(
            f"The loss became {total.item()} by step {scheduler.last_epoch} at learning rate {lr:.3g}."
        )
    return total.item() / count


@torch.no_grad()
def predict_logits(forward: Callable[[Tensor], Tensor], inputs: Tensor, batch_size: int = 4096) -> Tensor:
    """Logits (N, K), in the order of ``inputs``."""
    return torch.cat([forward(part) for part in inputs.split(batch_size)])


def predict_probs(model: FusionClassifier, packed: np.ndarray) -> np.ndarray:
    """Probs (N, K) of packed features (N, D)."""
    model.eval()
    return predict_logits(model, torch.as_tensor(packed)).sigmoid().numpy()


def build_model(
    widths: dict[str, int], projections: dict[str, Projection | None], num_labels: int, config: HeadConfig
) -> FusionClassifier:
    """An untrained classifier; the same seed gives the same weights."""
    torch.manual_seed(config.seed)
    model = FusionClassifier(widths, projections, num_labels, config)
    if config.mode == "frozen":
        model.projections.requires_grad_(False)
    return model


def fit(data: TrainingData, config: HeadConfig, on_epoch: Callable[[dict[str, float]], None] | None = None) -> Fit:
    """Train a classifier until its val loss no longer falls; the best epoch's weights are returned."""
    started = time.perf_counter()
    train_targets, val_targets = torch.as_tensor(data.train_targets), torch.as_tensor(data.val_targets)
    model = build_model(data.widths, data.projections, train_targets.shape[1], config)
    start_at_prevalence(model, train_targets.float())
    forward, train_inputs, val_inputs = _inputs(model, data, config)
    num_steps = config.max_epochs * -(-len(train_inputs) // config.batch_size)
    optimizer, scheduler = _optimizer(model, config, num_steps)
    generator = torch.Generator().manual_seed(config.seed)
    result = Fit(model=model, best_epoch=0)
    best_loss, best_state = float("inf"), model.state_dict()
    for epoch in range(1, config.max_epochs + 1):
        model.train()
        train_loss = train_epoch(
            forward, batches(train_inputs, train_targets.float(), config.batch_size, generator), optimizer, scheduler
        )
        model.eval()
        val_loss, val_macro_f1 = _evaluate(forward, (train_inputs, train_targets), (val_inputs, val_targets))
        result.history.append(
            {"epoch": epoch, "train_loss": train_loss, "val_loss": val_loss, "val_macro_f1": val_macro_f1}
        )
        if on_epoch:
            on_epoch(result.history[-1])
        if val_loss < best_loss:
            best_loss, result.best_epoch = val_loss, epoch
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
        elif epoch - result.best_epoch >= config.patience:
            break
    model.load_state_dict(best_state)
    result.train_seconds = time.perf_counter() - started
    return result


def _inputs(
    model: FusionClassifier, data: TrainingData, config: HeadConfig
) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """What is trained, and what feeds it: with frozen projections their output is computed once, not at every epoch."""
    train, val = torch.as_tensor(data.train_packed), torch.as_tensor(data.val_packed)
    if config.mode == "frozen":
        return model.mlp, predict_logits(model.fuse, train), predict_logits(model.fuse, val)
    return model, train, val


def _optimizer(
    model: FusionClassifier, config: HeadConfig, num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with linear warm-up and linear decay to zero. A warm-up longer than half of the training is cut to that."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    warmup = min(config.warmup_steps, num_steps // 2)

    def factor(step: int) -> float:
        return (step + 1) / (warmup + 1) if step < warmup else (num_steps - step) / max(1, num_steps - warmup)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _evaluate(forward: Callable[[Tensor], Tensor], train: Batch, val: Batch) -> tuple[float, float]:
    """Loss and macro F1 on val, with the thresholds that are exact on train."""
    logits = predict_logits(forward, val[0])
    loss = F.binary_cross_entropy_with_logits(logits, val[1].float()).item()
    thresholds = exact(train[1].numpy(), predict_logits(forward, train[0]).sigmoid().numpy())
    return loss, macro_f1(val[1].numpy(), decide(logits.sigmoid().numpy(), thresholds))
