"""The posts of a split as micro-batches of tensors, made in one process; :mod:`emo.loader` does it on many."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from emo.encode import Unit, plan_units
from emo.encoders import Branch
from emo.encoders.base import Reader
from emo.encoders.load import load_reader
from emo.posts import data_folder, posts_manifest, target_shares, with_fold
from emo.reading import TextVariant, encoder_inputs, input_columns
from emo.sampler import MicroBatch, Part, Share, parts, windows
from emo.tables import stream_folder

ROWS_PER_CHUNK = 64
"""Posts that are turned into tensors together, and handed on while the same task makes the next."""
ROWS_PER_TASK = 256
"""Posts that one task turns into tensors. Ray Data looks for finished tasks ten times a second and gives their cores
new ones only then, so a task has to last."""

Arrays = dict[str, np.ndarray]
"""Tensors of some posts as arrays, by the names that LoadedBatch gives them, with ``shares`` and ``index``."""


@dataclass(frozen=True)
class Plan:
    """Where the posts of a split are: a number for each of its row groups, so it is small and goes to every worker."""

    manifest: dict[str, Any]
    split: str
    fold: int | None
    units: tuple[Unit, ...]
    counts: tuple[int, ...]
    """Posts of the split in each unit."""

    @property
    def num_rows(self) -> int:
        return sum(self.counts)

    def of_split(self, table: pa.Table) -> pa.Table:
        """The rows of the split."""
        return table.filter(pc.equal(with_fold(table, self.manifest, self.fold)["split"], self.split))


def read_plan(posts: str, split: str, fold: int | None = None) -> Plan:
    """The plan of one split of a folder of prepared posts; reads nothing of a post but its split."""
    manifest = posts_manifest(posts)
    units = plan_units(posts, num_posts=0)
    plan = Plan(manifest, split, fold, tuple(units), ())
    columns = ["split"] if fold is None else ["split", "fold"]
    tables = (pa.Table.from_batches([batch]) for batch in stream_folder(data_folder(posts), columns))
    found = [pc.equal(with_fold(table, manifest, fold)["split"], split).to_numpy() for table in tables]
    until = np.concatenate([[0], np.cumsum(np.concatenate(found))])
    bounds = np.cumsum([0, *(unit.num_rows for unit in units)])
    return replace(plan, counts=tuple(np.diff(until[bounds]).tolist()))


@dataclass(frozen=True)
class LoadedBatch:
    """Up to a micro-batch of posts, on the CPU."""

    inputs: dict[str, Tensor]
    """What towers read, as ``modality.name``, and ``modality.present`` (B,) bool; an absent value is a blank."""
    shares: Tensor
    """(B, K) float32, NaN where unknown."""
    index: Tensor
    """(B,) int64: the place of each post in the split, in the order of the corpus."""
    scale: float
    """Of the sum of the losses; see MicroBatch."""
    ends_step: bool
    num_rows: int
    """0 where the one row stands for no post, so that this worker takes part in the step all the same."""


@dataclass(frozen=True)
class Recipe:
    """How posts become arrays; small, since it goes to every task."""

    branches: tuple[Branch, ...]
    text: TextVariant
    num_labels: int
    augment: tuple[int, int] | None
    """Seed and epoch of random changes to images; None for none."""

    @property
    def columns(self) -> list[str]:
        inputs = [column for branch in self.branches for column in input_columns(branch.modality)]
        return list(dict.fromkeys(["post_id", "targets", "split", "fold", *inputs]))

    @property
    def padding(self) -> dict[str, dict[str, int]]:
        """By modality, what fills up arrays whose rows have not all one size."""
        padding = {branch.modality: reader(branch).padding for branch in self.branches}
        return {m: {f"{m}.{name}": fill for name, fill in of.items()} for m, of in padding.items() if of}


@functools.cache
def reader(branch: Branch) -> Reader:
    """The branch's reader, loaded once in a process."""
    return load_reader(branch)


@functools.cache
def _captions(text: TextVariant) -> dict[str, str] | None:
    return text.read_captions()


@dataclass(frozen=True)
class Task:
    """What is read at once: units of a window, with the place of the first post of each in the split."""

    part: Part
    units: tuple[Unit, ...]
    offsets: tuple[int, ...]


def tasks_of(plan: Plan, share: Share, seed: tuple[int, int] | None) -> list[Task]:
    """What a worker reads in an epoch, in order."""
    offsets = np.cumsum([0, *plan.counts])
    own = parts(windows(plan.counts, seed), *share.bounds)
    return [
        Task(
            part,
            tuple(plan.units[unit] for unit in part.window.units),
            tuple(int(offsets[unit]) for unit in part.window.units),
        )
        for part in own
    ]


def read_task(task: Task, plan: Plan, columns: list[str]) -> Iterator[pa.Table]:
    """The posts of a task in their order, some at a time, with their ``index``; images are as they are stored."""
    tables = []
    for unit, offset in zip(task.units, task.offsets, strict=True):
        table = plan.of_split(unit.read(columns))
        tables.append(table.append_column("index", pa.array(offset + np.arange(table.num_rows))))
    rows = pa.concat_tables(tables).combine_chunks()  # else each take would do that
    order = task.part.window.order()[task.part.first : task.part.stop]
    for start in range(0, len(order), ROWS_PER_TASK):
        yield rows.take(pa.array(order[start : start + ROWS_PER_TASK]))


def make_chunks(table: pa.Table, recipe: Recipe) -> Iterator[Arrays]:
    """The arrays of posts as they were read, some posts at a time."""
    for start in range(0, table.num_rows, ROWS_PER_CHUNK):
        yield _arrays(table.slice(start, ROWS_PER_CHUNK), recipe)


def _arrays(table: pa.Table, recipe: Recipe) -> Arrays:
    index = table["index"].to_numpy()
    arrays: Arrays = {"index": index, "shares": target_shares(table)}
    for branch in recipe.branches:
        captions = _captions(recipe.text) if branch.modality == "text" else None
        values = encoder_inputs(table, branch.modality, recipe.text.of(branch).tags, captions)
        rng = None if recipe.augment is None else np.random.default_rng((*recipe.augment, 3, int(index[0])))
        arrays |= _encoded(branch, values, rng)
    return arrays


def _encoded(branch: Branch, values: list[Any], rng: np.random.Generator | None = None) -> Arrays:
    read = reader(branch)
    tensors = read([read.blank if value is None else value for value in values], rng)
    arrays = {f"{branch.modality}.{name}": tensor.numpy() for name, tensor in tensors.items()}
    return arrays | {f"{branch.modality}.present": np.array([value is not None for value in values])}


def no_post(recipe: Recipe) -> Arrays:
    """One row that is no post: all is absent, and all of its labels are unknown."""
    arrays: Arrays = {"index": np.array([-1]), "shares": np.full((1, recipe.num_labels), np.nan, np.float32)}
    for branch in recipe.branches:
        arrays |= _encoded(branch, [None])
    return arrays


def cut_batches(chunks: Iterator[Arrays], wanted: Iterable[MicroBatch], recipe: Recipe) -> Iterator[LoadedBatch]:
    """The rows of ``chunks``, of any sizes, as the micro-batches that are ``wanted``."""
    padding, waiting = recipe.padding, _Rows(chunks)
    for each in wanted:
        pieces = waiting.take(each.num_rows) if each.num_rows else [no_post(recipe)]
        tensors = {name: torch.from_numpy(array) for name, array in joined(pieces, padding).items()}
        shares, index = tensors.pop("shares"), tensors.pop("index")
        yield LoadedBatch(tensors, shares, index, each.scale, each.ends_step, each.num_rows)


class _Rows:
    """Rows that are taken from chunks, as many at a time as are asked for."""

    def __init__(self, chunks: Iterator[Arrays]) -> None:
        self.chunks = chunks
        self.rest: Arrays = {"index": np.empty(0)}

    def take(self, num_rows: int) -> list[Arrays]:
        pieces = []
        while num_rows:
            if not len(self.rest["index"]):
                self.rest = next(self.chunks)
            pieces.append({name: array[:num_rows] for name, array in self.rest.items()})
            self.rest = {name: array[num_rows:] for name, array in self.rest.items()}
            num_rows -= len(pieces[-1]["index"])
        return pieces


def joined(pieces: Sequence[Arrays], padding: dict[str, dict[str, int]]) -> Arrays:
    """The rows of all pieces in arrays of their own, each modality as long as its longest row."""
    fills = {name: fill for of in padding.values() for name, fill in of.items()}
    arrays = {name: _stacked([piece[name] for piece in pieces], fills.get(name)) for name in pieces[0]}
    for of in padding.values():
        used = np.any([(arrays[name] != fill).any(axis=0) for name, fill in of.items()], axis=0)
        length = max(1, len(used) - int(used[::-1].argmax())) if used.any() else 1
        arrays |= {name: arrays[name][:, :length] for name in of}
    return arrays


def _stacked(arrays: Sequence[np.ndarray], fill: int | None) -> np.ndarray:
    if fill is None:
        return np.concatenate(arrays)
    longest = max(array.shape[1] for array in arrays)
    widened = (np.pad(a, ((0, 0), (0, longest - a.shape[1])), constant_values=fill) for a in arrays)
    return np.concatenate(list(widened))


def read_batches(
    plan: Plan, share: Share, recipe: Recipe, order: tuple[int, int] | None, most: int | None
) -> Iterator[LoadedBatch]:
    """What PostLoader gives in an epoch with that order (seed, epoch), made in this process, without Ray."""
    tables = (table for task in tasks_of(plan, share, order) for table in read_task(task, plan, recipe.columns))
    chunks = (chunk for table in tables for chunk in make_chunks(table, recipe))
    return cut_batches(chunks, share.micro_batches(most), recipe)
