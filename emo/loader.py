"""Posts for training workers, each of which streams its own share of an epoch with Ray Data.

Ray Data's own splitting between workers drops rows, deals them out as they come, and starts anew after a resume. Here
every worker works out by :mod:`emo.sampler` what is its, and streams that with a dataset of its own, in two stages:
one task at a time reads and shuffles a window of posts, still as they are stored; others make tensors of them, late
and in parallel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data

from emo.batches import (
    ROWS_PER_TASK,
    Arrays,
    LoadedBatch,
    Plan,
    Recipe,
    Task,
    cut_batches,
    make_chunks,
    read_task,
    tasks_of,
)
from emo.config import UserError
from emo.encoders import Branch
from emo.errors import sentence
from emo.reading import TextVariant
from emo.sampler import Share

STORE_SHARE = 0.5
"""Of the cluster's object store, what the streams of all workers may fill."""


class PostLoader:
    """Streams one worker's share of a split, epoch by epoch; the same seed and epoch give the same batches, whatever
    was streamed before."""

    def __init__(
        self,
        plan: Plan,
        branches: Sequence[Branch],
        *,
        text: TextVariant,
        batch_size: int,
        micro_batch_size: int | None,
        rank: int,
        world_size: int,
        seed: int,
        shuffle: bool,
        augment: bool,
    ) -> None:
        self.plan = plan
        self.recipe = Recipe(tuple(branches), text, len(plan.manifest["labels"]), augment=None)
        self.share = Share(plan.num_rows, batch_size, rank, world_size)
        self.micro_batch_size = micro_batch_size
        self.seed, self.shuffle, self.augment = seed, shuffle, augment

    @property
    def num_steps(self) -> int:
        """Steps of an epoch, alike on all workers."""
        return self.share.num_steps

    def epoch(self, number: int) -> Iterator[LoadedBatch]:
        """The worker's micro-batches of an epoch; a UserError where a checkpoint cannot be read."""
        order = (self.seed, number) if self.shuffle else None
        recipe = replace(self.recipe, augment=(self.seed, number) if self.augment else None)
        chunks = self._stream(tasks_of(self.plan, self.share, order), recipe)
        return cut_batches(chunks, self.share.micro_batches(self.micro_batch_size), recipe)

    def _stream(self, tasks: list[Task], recipe: Recipe) -> Iterator[Arrays]:
        if not tasks:
            return
        try:
            for batch in self._dataset(tasks, recipe).iter_batches(batch_size=None, batch_format="numpy"):
                yield {str(name): array[0] for name, array in batch.items()}
        except Exception as error:
            if said := sentence(error):
                raise UserError(said) from error
            raise

    def _dataset(self, tasks: list[Task], recipe: Recipe) -> ray.data.Dataset:
        """Its rows are chunks of posts, so that what a task gives is neither cut nor heaped up on its way."""
        sizes = [task.part.stop - task.part.first for task in tasks]
        most = max(1, int(ray.cluster_resources().get("CPU", 1)) // self.share.world_size)
        plan = replace(self.plan, units=(), counts=())  # tasks bring their own
        with ray.data.DataContext.current(self._context()):
            given = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks))
            dataset = given.map_batches(
                partial(_read, plan=plan, columns=recipe.columns),
                batch_size=None,
                num_cpus=0,
                compute=ray.data.TaskPoolStrategy(size=1),
            ).map_batches(
                partial(_make, recipe=recipe),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=0,
                compute=ray.data.TaskPoolStrategy(size=min(most, sum(-(-size // ROWS_PER_TASK) for size in sizes))),
            )
        dataset.set_name(f"{self.plan.split} posts, worker {self.share.rank + 1} of {self.share.world_size}")
        return dataset

    def _context(self) -> ray.data.DataContext:
        context = ray.data.DataContext.get_current().copy()
        context.target_max_block_size = 1  # each row, a chunk, is a block
        context.execution_options.preserve_order = True
        store = ray.cluster_resources().get("object_store_memory", 0) * STORE_SHARE / self.share.world_size
        context.execution_options.resource_limits = ray.data.ExecutionResources(object_store_memory=store)
        return context


def _read(batch: Any, plan: Plan, columns: list[str]) -> Iterator[Any]:
    for table in read_task(batch["task"][0], plan, columns):
        yield _as_row(table)


def _make(batch: Any, recipe: Recipe) -> Iterator[Any]:
    for arrays in make_chunks(_as_table(batch), recipe):
        yield {name: array[None] for name, array in arrays.items()}


def _as_row(table: pa.Table) -> pa.Table:
    """All rows of a table as one, of lists."""
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    return pa.table({name: pa.ListArray.from_arrays([0, len(table)], column) for name, column in columns.items()})


def _as_table(row: pa.Table) -> pa.Table:
    """The table that :func:`_as_row` made one row of."""
    return pa.table({name: row[name].combine_chunks().flatten() for name in row.column_names})
