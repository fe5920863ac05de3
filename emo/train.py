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
    """(N, K): boolean, or int8 with -1 where nobody could give the label."""
    val_packed: np.ndarray
    val_targets: np.ndarray
    widths: dict[str, int]
    """Feature width of each modality, in the order in which they are packed."""
    projections: dict[str, Projection | None]
    train_shares: np.ndarray | None = None
    """What the loss aims at instead of the targets, (N, K) float32: shares of annotators, NaN where unknown."""
    val_shares: np.ndarray | None = None
    drawn: bool = False
    """Whether each epoch trains on labels that are drawn anew by their shares (Barsoum et al., 2016)."""


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


def draw(shares: Tensor, generator: torch.Generator) -> Tensor:
    """Labels that are each present as often as its share says; what is unknown, NaN, stays so."""
    drawn = torch.bernoulli(shares.nan_to_num(), generator=generator)
    return drawn.masked_fill(shares.isnan(), torch.nan)


def known_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean binary cross-entropy over all targets that are known, not NaN."""
    known = ~targets.isnan()
    loss = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), weight=known.float(), reduction="sum")
    return loss / known.sum().clamp(min=1)


def train_epoch(
    forward: Callable[[Tensor], Tensor],
    data: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    loss_of: Callable[[Tensor, Tensor], Tensor] = F.binary_cross_entropy_with_logits,
) -> float:
    """One pass over ``data``; returns the mean loss of a post. A loss that is not finite is a FloatingPointError."""
    total, count = torch.zeros(()), 0
    for inputs, targets in data:
        loss = loss_of(forward(inputs), targets)
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
    train_goals = _goals(data.train_targets, data.train_shares)
    val_goals = _goals(data.val_targets, data.val_shares)
    all_known = not (train_goals.isnan().any() or val_goals.isnan().any())
    loss_of = F.binary_cross_entropy_with_logits if all_known else known_loss
    model = build_model(data.widths, data.projections, train_goals.shape[1], config)
    start_at_prevalence(model, train_goals)
    forward, train_inputs, val_inputs = _inputs(model, data, config)
    num_steps = config.max_epochs * -(-len(train_inputs) // config.batch_size)
    optimizer, scheduler = _optimizer(model, config, num_steps)
    generator = torch.Generator().manual_seed(config.seed)
    result = Fit(model=model, best_epoch=0)
    best_loss, best_state = float("inf"), model.state_dict()
    for epoch in range(1, config.max_epochs + 1):
        model.train()
        goals = draw(train_goals, generator) if data.drawn else train_goals
        fed = batches(train_inputs, goals, config.batch_size, generator)
        train_loss = train_epoch(forward, fed, optimizer, scheduler, loss_of)
        model.eval()
        val_logits = predict_logits(forward, val_inputs)
        val_loss = loss_of(val_logits, val_goals).item()
        val_macro_f1 = _macro_f1(data, predict_logits(forward, train_inputs), val_logits)
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


def _goals(targets: np.ndarray, shares: np.ndarray | None) -> Tensor:
    """What the loss aims at (N, K), float32, NaN where unknown: the shares, or else the targets."""
    if shares is not None:
        return torch.tensor(shares)
    return torch.as_tensor(np.where(targets < 0, np.nan, targets).astype(np.float32))


def _macro_f1(data: TrainingData, train_logits: Tensor, val_logits: Tensor) -> float:
    """Macro F1 on val, with the thresholds that are exact on train."""
    thresholds = exact(data.train_targets, train_logits.sigmoid().numpy())
    return macro_f1(data.val_targets, decide(val_logits.sigmoid().numpy(), thresholds))
