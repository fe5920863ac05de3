"""Work in parts: each part is a Parquet file that a worker writes whole or not at all, and the parts in their order
are gathered into the data files of a set.

A part that is there is done. So a killed stage that starts again repeats at most what was in flight, loses no row and
repeats none in its result, whatever the moment of the kill.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from emo import storage

BYTES_PER_FILE = 128 * 2**20
"""Parts are gathered until a data file has at least this size; what is left over joins a last, smaller one."""
ROWS_PER_GROUP = 256

Transform = Callable[[pa.Table], pa.Table]


def part_name(number: int) -> str:
    return f"{number:08d}.parquet"


def missing_parts(parts: str, num_parts: int) -> list[int]:
    """The numbers of the parts that are not there yet; one without content was lost with the machine's power."""
    there = storage.list_files(parts)
    return [number for number in range(num_parts) if not there.get(part_name(number))]


@contextlib.contextmanager
def writing_part(parts: str, number: int) -> Iterator[Callable[[pa.Table], None]]:
    """What is called with the rows of a part, some at a time; the part is there once all are written.

    Parts are read once and soon, so nothing is spent on making them small or safe from a loss of power.
    """
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with _writing_tables(storage.join(parts, part_name(number)), durable=False, **options) as write:
        yield write


@contextlib.contextmanager
def _writing_tables(uri: str, *, durable: bool, **options: Any) -> Iterator[Callable[..., None]]:
    """What is called with tables, and the arguments of ParquetWriter.write_table, that make up one Parquet file."""
    writer: pq.ParquetWriter | None = None
    with storage.writing(uri, durable=durable) as file:

        def write(table: pa.Table, **how: Any) -> None:
            nonlocal writer
            writer = writer or pq.ParquetWriter(file, table.schema, **options)
            writer.write_table(table, **how)

        yield write
        if writer:
            writer.close()


def gather(parts: str, data: str, transform: Transform | None = None, **options: Any) -> list[str]:
    """Write all parts, in their order and each passed through ``transform``, as the files of ``data``; their names.

    ``options`` are those of a ParquetWriter. One Ray task writes each file and holds a row group at a time.
    """
    storage.make_folder(data)
    shared = ray.put((transform, options))
    tasks = [
        _gather.remote([storage.join(parts, name) for name in names], storage.join(data, part_name(number)), shared)
        for number, names in enumerate(_grouped(storage.list_files(parts)))
    ]
    ray.get(tasks)
    return [part_name(number) for number in range(len(tasks))]


def _grouped(sizes: dict[str, int]) -> list[list[str]]:
    groups: list[list[str]] = []
    room = 0
    for name in sorted(sizes):
        if room <= 0:
            groups.append([])
            room = BYTES_PER_FILE
        groups[-1].append(name)
        room -= sizes[name]
    return groups


@ray.remote(num_cpus=1)
def _gather(parts: Sequence[str], uri: str, shared: tuple[Transform | None, dict[str, Any]]) -> None:
    transform, options = shared
    with _writing_tables(uri, durable=True, **options) as write:
        for rows in _row_groups(parts):
            write(rows if transform is None else transform(rows), row_group_size=ROWS_PER_GROUP)


def _row_groups(parts: Sequence[str]) -> Iterator[pa.Table]:
    for part in parts:
        fs, path = storage.filesystem(part)
        with fs.open(path, "rb") as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                yield parquet.read_row_group(group)
