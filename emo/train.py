"""Training one classifier: an epoch, an evaluation, and fit() on one process."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emo.config import HeadConfig, Targets
from emo.losses import LossOf, goals_of, is_drawn, make_loss, prevalence_of
from emo.metrics import macro_f1
from emo.models import FeatureSpec, FusionClassifier, start_at_prevalence
from emo.thresholds import decide_by_train

Context = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class MicroBatch:
    """What is held in memory at once; a step takes one of them, or adds up the gradients of several."""

    inputs: Any
    """Of B posts, as the forward pass takes them."""
    targets: Tensor
    """What the loss aims at (B, K), float, NaN where unknown."""
    scale: float
    """How much each post's loss counts: 1 by the number of posts of the step, so that a step's loss is their mean; 0
    for what only stands in where a worker has no post."""
    ends_step: bool = True


@dataclass(frozen=True)
class TrainingData:
    """What a trial learns from; test is not here, so no trial can look at it."""

    train_packed: np.ndarray
    """(N, D) packed features, as FusionClassifier reads them."""
    train_targets: np.ndarray
    """(N, K): boolean, or int8 with -1 where nobody could give the label."""
    val_packed: np.ndarray
    val_targets: np.ndarray
    specs: dict[str, FeatureSpec]
    """What the features of each modality are, in the order in which they are packed."""
    train_shares: np.ndarray | None = None
    """Shares of annotators, (N, K) float32, NaN where unknown."""
    val_shares: np.ndarray | None = None
    trains_on: Targets = "threshold"
    """soft aims at the shares; draw trains each epoch on labels that are drawn anew by them (Barsoum et al., 2016)."""

    @property
    def num_modalities(self) -> int:
        return len(self.specs)


@dataclass
class Fit:
    """A trained model, as it was at its best epoch, and how it came to be."""

    model: FusionClassifier
    best_epoch: int
    history: list[dict[str, float]] = field(default_factory=list)
    train_seconds: float = 0.0


def batches(inputs: Tensor, goals: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[MicroBatch]:
    """All rows once, in a new order; it is drawn on the CPU, and so the same on every device."""
    for rows in torch.randperm(len(inputs), generator=generator).to(inputs.device).split(batch_size):
        yield MicroBatch(inputs.index_select(0, rows), goals.index_select(0, rows), scale=1 / len(rows))


def draw(shares: Tensor, generator: torch.Generator) -> Tensor:
    """Labels that are each present as often as its share says; what is unknown, NaN, stays so."""
    drawn = torch.bernoulli(shares.nan_to_num(), generator=generator)
    return drawn.masked_fill(shares.isnan(), torch.nan)


def train_epoch(
    forward: Callable[[Any], Tensor],
    data: Iterable[MicroBatch],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    loss_of: LossOf,
    *,
    max_norm: float | None = None,
    autocast: Context = nullcontext,
    no_sync: Context = nullcontext,
    add_up: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> float:
    """One pass over ``data``; returns the mean loss of a post.

    The norm of a step's gradients is cut to ``max_norm``. The forward pass runs in ``autocast``, and micro-batches that
    do not end their step run in ``no_sync``. ``add_up`` adds the workers' sums of losses and numbers of posts, (2,)
    float64 on the CPU, so that all have the same mean. A loss that is not finite is a FloatingPointError, on every
    worker.
    """
    total: Tensor | float = 0.0
    count = 0
    for batch in data:
        with nullcontext() if batch.ends_step else no_sync():
            with autocast():
                logits = forward(batch.inputs)
            losses = loss_of(logits.float(), batch.targets)
            losses.backward(torch.full_like(losses, batch.scale))
        total += losses.detach().sum()
        count += len(losses) if batch.scale else 0
        if batch.ends_step:
            if max_norm is not None:
                nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], max_norm)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    loss, num_posts = add_up(torch.tensor([float(total), count], dtype=torch.float64)).tolist()
    return _finite(loss / num_posts, scheduler)


def _finite(loss: float, scheduler: torch.optim.lr_scheduler.LRScheduler) -> float:
    if not np.isfinite(loss):
        rates = " and ".join(f"{lr:.3g}" for lr in dict.fromkeys(scheduler.get_last_lr()))
        raise FloatingPointError(f"The loss became {loss} by step {scheduler.last_epoch} at learning rate {rates}.")
    return loss


@torch.no_grad()
def predict_logits(forward: Callable[[Tensor], Tensor], inputs: Tensor, batch_size: int = 4096) -> Tensor:
    """Logits (N, K), in the order of ``inputs``."""
    return torch.cat([forward(part) for part in inputs.split(batch_size)])


def predict_probs(model: FusionClassifier, packed: np.ndarray) -> np.ndarray:
    """Probs (N, K) of packed features (N, D)."""
    model.eval()
    inputs = torch.as_tensor(packed).to(device_of(model))
    return model.probs(predict_logits(model, inputs)).cpu().numpy()


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def build_model(specs: dict[str, FeatureSpec], num_labels: int, config: HeadConfig) -> FusionClassifier:
    """An untrained classifier; the same seed gives the same weights."""
    torch.manual_seed(config.seed)
    model = FusionClassifier(specs, num_labels, config)
    if config.mode in ("frozen", "lora"):
        model.projections.requires_grad_(False)
    return model


def fit(
    data: TrainingData,
    config: HeadConfig,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    device: str = "cpu",
) -> Fit:
    """Train a classifier on a device until its val loss no longer falls; the best epoch's weights are returned."""
    started = time.perf_counter()
    train_goals = goals_of(data.train_targets, data.train_shares, data.trains_on, config.loss)
    val_goals = goals_of(data.val_targets, data.val_shares, data.trains_on, config.loss)
    prevalence = prevalence_of(train_goals)
    loss_of = make_loss(config.loss, prevalence)
    model = build_model(data.specs, train_goals.shape[1], config)
    start_at_prevalence(model, prevalence)
    model.to(device)
    val_goals = val_goals.to(device)
    forward, train_inputs, val_inputs = _inputs(model, data, config)
    num_steps = config.max_epochs * -(-len(train_inputs) // config.batch_size)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, scheduler = make_optimizer([(trained, config.lr)], config, num_steps)
    generator = torch.Generator().manual_seed(config.seed)
    result = Fit(model=model, best_epoch=0)
    best_loss, best_state = float("inf"), model.state_dict()
    for epoch in range(1, config.max_epochs + 1):
        model.train()
        goals = draw(train_goals, generator) if is_drawn(data.trains_on, config.loss) else train_goals
        fed = batches(train_inputs, goals.to(device), config.batch_size, generator)
        train_loss = train_epoch(forward, fed, optimizer, scheduler, loss_of)
        model.eval()
        val_logits = predict_logits(forward, val_inputs)
        val_loss = loss_of(val_logits, val_goals).mean().item()
        logits = predict_logits(forward, train_inputs), val_logits
        train_probs, val_probs = (model.probs(found).cpu().numpy() for found in logits)
        predicted = decide_by_train((data.train_targets, train_probs), val_probs, model.single_label)
        scores = {"val_loss": val_loss, "val_macro_f1": macro_f1(data.val_targets, predicted)}
        result.history.append({"epoch": epoch, "train_loss": train_loss, **scores})
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
    train, val = (torch.as_tensor(packed).to(device_of(model)) for packed in (data.train_packed, data.val_packed))
    if config.mode == "frozen":
        return model.classify, predict_logits(model.project, train), predict_logits(model.project, val)
    return model, train, val


def make_optimizer(
    groups: list[tuple[list[nn.Parameter], float]], config: HeadConfig, num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with linear warm-up and linear decay to zero, over parameters that each have their highest learning rate.

    Of pretrained weights, which are those with ``config.encoder_lr``, biases and norms are not decayed. A warm-up
    longer than half of the training is cut to that.
    """
    params: list[dict[str, Any]] = []
    for parameters, lr in groups:
        kept = {p for p in parameters if lr == config.encoder_lr and p.ndim < 2}
        params.append({"params": [p for p in parameters if p not in kept], "lr": lr})
        params.append({"params": [p for p in parameters if p in kept], "lr": lr, "weight_decay": 0.0})
    params = [group for group in params if group["params"]]
    optimizer = torch.optim.AdamW(params, weight_decay=config.weight_decay, fused=True)
    warmup = min(config.warmup_steps, num_steps // 2)

    def factor(step: int) -> float:
        return (step + 1) / (warmup + 1) if step < warmup else (num_steps - step) / max(1, num_steps - warmup)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
