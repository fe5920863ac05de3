"""The reference for training on streamed posts: a bare torch loop that a DataLoader with worker processes feeds.

It holds all posts in memory, as they are stored, and imports no Ray, so that its workers start fast.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from emo.encoders import Branch
from emo.encoders.load import load_reader

Batch = tuple[dict[str, Tensor], Tensor]


@functools.cache
def _reader(branch: Branch) -> Any:
    return load_reader(branch)


@dataclass(frozen=True)
class Collate:
    """Texts and images of some posts as a batch for a PostClassifier, with their targets."""

    branches: tuple[Branch, ...]

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        inputs: dict[str, Tensor] = {}
        for branch in self.branches:
            read, modality = _reader(branch), branch.modality
            found = read([row[modality] or read.blank for row in rows])
            inputs |= {f"{modality}.{name}": tensor for name, tensor in found.items()}
            inputs[f"{modality}.present"] = torch.tensor([row[modality] is not None for row in rows])
        return inputs, torch.tensor([row["targets"] for row in rows])


def make_loader(rows: list[dict[str, Any]], branches: list[Branch], batch_size: int) -> DataLoader:
    """Two worker processes, up before the clock starts."""
    loader = DataLoader(
        rows,  # type: ignore[arg-type]
        batch_size=batch_size,
        shuffle=True,
        num_workers=2,
        collate_fn=Collate(tuple(branches)),
        multiprocessing_context="spawn",  # a fork would copy Ray's locks
        persistent_workers=True,
    )
    next(iter(loader))
    return loader


def train(
    model: nn.Module, data: Iterator[Batch], optimizer: torch.optim.Optimizer, loss: Callable[..., Tensor]
) -> int:
    """One pass; the number of posts."""
    count = 0
    for inputs, targets in data:
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()
        count += len(targets)
    return count
