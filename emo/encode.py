"""The actors that hold encoders, and how prepared posts pass through them part by part.

Apart from :mod:`emo.features` so that an actor starts without the libraries that only training needs.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
import torch

from emo import storage
from emo.console import Progress
from emo.encoders import Branch
from emo.encoders.load import load_encoder
from emo.parts import missing_parts, writing_part
from emo.posts import data_folder
from emo.reading import TextVariant, encoder_inputs
from emo.room import capacity, has_gpus
from emo.tables import parquet_files

ROWS_PER_PART = 256
ROWS_PER_LARGE_PART = 2048
NUM_PARTS = 512
"""Above so many parts they grow, up to ROWS_PER_LARGE_PART: a kill then costs the same share of the work."""
ROWS_PER_ACTOR = 2048
"""An actor takes seconds to start, in which another encodes about this many small posts."""
BATCH_SIZE = 64


def actor_device() -> str:
    """The GPU that an actor was given, or one core: actors share the machine by cores, not by threads."""
    torch.set_num_threads(1)
    return "cuda" if torch.cuda.is_available() else "cpu"


class Encode:
    """Holds one branch and encodes batches of posts, by its last layer (D) or by all of its ``layers`` (L * D); posts
    without its modality fall away.

    A branch of text or tags also tells whose it ``cut``.
    """

    def __init__(self, branch: Branch, text: TextVariant, layers: bool = False) -> None:
        self.encoder = load_encoder(branch, actor_device())
        self.modality, self.layers = branch.modality, layers
        self.tags_mode = text.of(branch).tags
        self.captions = text.read_captions() if branch.modality == "text" else None

    def __call__(self, batch: pa.Table) -> pa.Table:
        inputs = encoder_inputs(batch, self.modality, self.tags_mode, self.captions)
        rows = [i for i, value in enumerate(inputs) if value is not None]
        values = [inputs[i] for i in rows]
        features = self.encoder.encode(values, layers=self.layers) if rows else self._none()
        column = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
        made = pa.table({"post_id": batch["post_id"].take(pa.array(rows, pa.int64())), "features": column})
        if self.modality != "image":
            made = made.append_column("cut", pa.array(self.encoder.reader.is_cut(values), pa.bool_()))
        return made

    def _none(self) -> np.ndarray:
        """Features of no post."""
        tower = self.encoder.tower
        return (
            np.empty((0, tower.width * tower.num_layers), np.float16)
            if self.layers
            else np.empty((0, tower.width), np.float32)
        )


@dataclass(frozen=True)
class Unit:
    """Row groups of a file of prepared posts that one part is made of."""

    number: int
    file: str
    first: int
    stop: int
    """The first row group, and the first that is no longer in it."""
    num_rows: int

    def read(self, columns: list[str]) -> pa.Table:
        fs, path = storage.filesystem(self.file)
        with fs.open(path, "rb") as file:
            return pq.ParquetFile(file).read_row_groups(range(self.first, self.stop), columns=columns)


def plan_units(posts: str, num_posts: int) -> list[Unit]:
    """Every row of a prepared folder in exactly one unit, in order."""
    rows_per_part = min(max(ROWS_PER_PART, num_posts // NUM_PARTS), ROWS_PER_LARGE_PART)
    fs, _ = storage.filesystem(posts)
    units: list[Unit] = []
    for path in parquet_files(data_folder(posts))[0]:
        with fs.open(path, "rb") as file:
            metadata = pq.ParquetFile(file).metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        first = 0
        while first < len(sizes):
            stop = first + 1
            while stop < len(sizes) and sum(sizes[first : stop + 1]) <= rows_per_part:
                stop += 1
            units.append(Unit(len(units), fs.unstrip_protocol(path), first, stop, sum(sizes[first:stop])))
            first = stop
    return units


class _Worker:
    """The Ray Data actor: it reads units, passes them through what it holds in batches, and writes their parts."""

    def __init__(self, kind: type, arguments: tuple[Any, ...], columns: list[str], parts: str) -> None:
        self.kind, self.arguments = kind, arguments
        self.columns, self.parts = columns, parts
        self.reader = ThreadPoolExecutor(1)

    @cached_property
    def transform(self) -> Callable[[pa.Table], pa.Table]:
        """What it holds, made at the first unit: Ray Data tells an error of then as it is, and one of the start not."""
        return self.kind(*self.arguments)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"num_rows": np.array([self._write(unit, table) for unit, table in self._read(list(batch["unit"]))])}

    def _read(self, units: list[Unit]) -> Iterator[tuple[Unit, pa.Table]]:
        """Each unit with its posts; the next one's are read meanwhile."""
        waiting = [self.reader.submit(units[0].read, self.columns)]
        for number, unit in enumerate(units, start=1):
            table = waiting.pop().result()
            if number < len(units):
                waiting.append(self.reader.submit(units[number].read, self.columns))
            yield unit, table

    def _write(self, unit: Unit, table: pa.Table) -> int:
        made = [self.transform(table.slice(start, BATCH_SIZE)) for start in range(0, table.num_rows, BATCH_SIZE)]
        with writing_part(self.parts, unit.number) as write:
            write(pa.concat_tables(made))
        return table.num_rows


def map_posts(
    posts: str,
    parts: str,
    what: str,
    kind: type,
    arguments: tuple[Any, ...],
    columns: list[str],
    num_posts: int,
    num_actors: int | None = None,
    done: Callable[[int], None] | None = None,
) -> float:
    """Write a part for every unit of a prepared folder that has none yet; returns the posts of a second.

    ``kind(*arguments)`` is what an actor holds: called with ``columns`` of some posts it gives rows of the part.
    There is an actor on every GPU, or else on every core, as far as there are posts enough to be worth its start,
    or there are ``num_actors``. ``done`` is told the posts of every part that is written.
    """
    units = plan_units(posts, num_posts)
    todo = [units[number] for number in missing_parts(parts, len(units))]
    storage.make_folder(parts)
    num_todo = sum(unit.num_rows for unit in todo)
    progress = Progress(what, num_posts, num_posts - num_todo)
    if todo:
        device = "GPU" if has_gpus() else "CPU"
        most = num_actors or max(1, int(capacity()[device]))
        size = min(most, len(todo) if num_actors else -(-num_todo // ROWS_PER_ACTOR))
        together = 4 if len(todo) >= 16 * size else 1
        given = ray.data.from_items([{"unit": unit} for unit in todo], override_num_blocks=-(-len(todo) // together))
        reserved: dict[str, Any] = {"num_gpus": 1} if device == "GPU" else {"num_cpus": 1}
        made = given.map_batches(
            _Worker,
            fn_constructor_args=(kind, arguments, columns, parts),
            batch_size=together,  # Ray Data refuses none where there are GPUs
            compute=ray.data.ActorPoolStrategy(size=size),
            **reserved,
        )
        made.set_name(what)
        for row in made.iter_rows():
            progress.advance(row["num_rows"])
            if done:
                done(row["num_rows"])
    progress.stop()
    return progress.rate
