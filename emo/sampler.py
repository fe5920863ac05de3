"""Which posts each worker trains on, in which order and in which steps: arithmetic alone.

Every worker does the same sums, so they agree without asking each other, and each post comes exactly once an epoch,
however many workers there are. An epoch's order puts units (row groups of some hundred posts) in a random order, then
shuffles the rows of a window, some units at a time; all of it follows from the seed and the epoch's number. A worker's
rows lie side by side in that order, so that hardly any unit is read by two.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from emo.config import UserError

ROWS_PER_WINDOW = 1024


@dataclass(frozen=True)
class Window:
    """Units whose rows are read, and shuffled, together."""

    units: tuple[int, ...]
    start: int
    """The position of its first row in the epoch's order."""
    num_rows: int
    seed: tuple[int, ...] | None
    """Of the order of its rows; None where that is the corpus's own."""

    def order(self) -> np.ndarray:
        """(num_rows,): the rows, counted through its units, in the order in which they come."""
        rows = np.arange(self.num_rows)
        return rows if self.seed is None else np.random.default_rng(self.seed).permutation(rows)


@dataclass(frozen=True)
class Part:
    """The rows of a window, from ``first`` to ``stop`` in its order, that one worker trains on."""

    window: Window
    first: int
    stop: int


@dataclass(frozen=True)
class MicroBatch:
    """How many posts a worker holds at once, and what their losses count for."""

    num_rows: int
    """0 where a step leaves nothing to this worker."""
    scale: float
    """Of the sum of the losses, so that the mean over workers is, over a step, the mean over its posts."""
    ends_step: bool


def windows(counts: Sequence[int], seed: tuple[int, int] | None) -> list[Window]:
    """All rows of units with so many rows each, in the order of (seed, epoch) or, without it, of the corpus."""
    units = np.flatnonzero(counts)
    if seed is not None:
        units = np.random.default_rng((*seed, 1)).permutation(units)
    ends = np.cumsum(np.asarray(counts, np.int64)[units])
    found: list[Window] = []
    first, start = 0, 0
    while first < len(units):
        stop = max(first + 1, int(np.searchsorted(ends, start + ROWS_PER_WINDOW, side="right")))
        own = None if seed is None else (*seed, 2, len(found))
        found.append(Window(tuple(units[first:stop].tolist()), start, int(ends[stop - 1]) - start, own))
        first, start = stop, int(ends[stop - 1])
    return found


def parts(of: Sequence[Window], start: int, stop: int) -> list[Part]:
    """Where the rows at the positions from ``start`` to ``stop`` of an epoch's order are."""
    cut = [Part(each, max(0, start - each.start), min(each.num_rows, stop - each.start)) for each in of]
    return [part for part in cut if part.first < part.stop]


@dataclass(frozen=True)
class Share:
    """What one of ``world_size`` workers does of an epoch of ``num_rows`` posts, in steps of ``batch_size`` posts of
    all workers together; the last step takes what is left. A batch size below the number of workers is a UserError."""

    num_rows: int
    batch_size: int
    rank: int
    world_size: int

    def __post_init__(self) -> None:
        if self.batch_size < self.world_size:
            raise UserError(
                f"--batch-size is {self.batch_size}, but --num-workers is {self.world_size}; "
                "give each worker at least one post of a batch."
            )

    @property
    def num_steps(self) -> int:
        """Alike on all workers."""
        return -(-self.num_rows // self.batch_size)

    @property
    def bounds(self) -> tuple[int, int]:
        """The positions of this worker's rows in an epoch's order: the first, and the first that is no longer its."""
        full, last = divmod(self.num_rows, self.batch_size)
        start, stop = (full * self._before(self.batch_size, r) + self._before(last, r) for r in self._ranks)
        return start, stop

    def micro_batches(self, most: int | None) -> Iterator[MicroBatch]:
        """Those of this worker in an epoch, of ``most`` posts at most; every step ends with one, if an empty one."""
        for step in range(self.num_steps):
            together = min(self.batch_size, self.num_rows - step * self.batch_size)
            before, after = (self._before(together, rank) for rank in self._ranks)
            own = after - before
            sizes = [min(most or own, own - done) for done in range(0, own, most or own)] if own else [0]
            for number, size in enumerate(sizes, start=1):
                yield MicroBatch(size, self.world_size / together if size else 0.0, number == len(sizes))

    @property
    def _ranks(self) -> tuple[int, int]:
        return self.rank, self.rank + 1

    def _before(self, num_rows: int, rank: int) -> int:
        """How many of a step's rows belong to the workers before ``rank``: all have as many, or the first one more."""
        each, more = divmod(num_rows, self.world_size)
        return rank * each + min(rank, more)
