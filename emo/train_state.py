"""How far a training has come, and what the posts that it saw last tell of thresholds."""

import json
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from emo.config import HeadConfig


@dataclass
class State:
    """How far a training has come."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    best_scores: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None
    """Why it cannot go on."""

    def is_over(self, head: HeadConfig) -> bool:
        patient = self.epoch - self.best_epoch < head.patience
        return self.error is not None or self.epoch >= head.max_epochs or not patient

    def add(self, figures: dict[str, float], scores: dict[str, float]) -> None:
        """Take an epoch's losses and val metrics into account."""
        self.epoch += 1
        self.history.append({"epoch": self.epoch, **figures, "val_macro_f1": scores["val/macro_f1"]})
        if figures["val_loss"] < self.best_loss:
            self.best_epoch, self.best_loss, self.best_scores = self.epoch, figures["val_loss"], scores

    def metrics(self) -> dict[str, Any]:
        """What is reported: the val metrics of the best epoch so far, as the model will be that epoch's."""
        last = self.history[-1] if self.history else {}
        return {
            **self.best_scores,
            **{name: value for name, value in last.items() if name != "val_macro_f1"},
            "epoch": self.epoch,
            "val_loss": last.get("val_loss", math.inf),
            "num_epochs": self.epoch,
            "best_epoch": self.best_epoch,
            "train_seconds": self.seconds,
            "history": json.dumps(self.history),
            "last": last,
            "error": self.error,
        }


class Recent:
    """Logits and shares (N, K) of the posts that were trained on last, ``most`` of them or a few more."""

    def __init__(self, most: int) -> None:
        self.most, self.num_rows = most, 0
        self.kept: deque[tuple[Tensor, Tensor]] = deque()
        self.waiting: Tensor | None = None

    def shares(self, shares: Tensor) -> None:
        """Those of the micro-batch whose logits come next."""
        self.waiting = shares

    def skip(self) -> None:
        """The next logits are of no post."""
        self.waiting = None

    def logits(self, logits: Tensor) -> Tensor:
        """Keep a micro-batch, and give its logits back."""
        if self.waiting is not None:
            self.kept.append((logits.detach().float().cpu(), self.waiting))
            self.num_rows += len(logits)
        while self.kept and self.num_rows - len(self.kept[0][0]) >= self.most:
            self.num_rows -= len(self.kept.popleft()[0])
        return logits

    def rows(self) -> tuple[Tensor, Tensor]:
        logits, shares = zip(*self.kept, strict=True)
        return torch.cat(logits), torch.cat(shares)
