"""Parquet: row ranges of row groups."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from emo.config import UserError

ROWS_PER_BATCH = 256
MAX_PARTS = 8
"""Every chunk reads its row group from the beginning, so that a group is cut into at most so many."""


def plan(file: BinaryIO, name: str, rows_per_chunk: int) -> Iterator[dict[str, Any]]:
    """The file's chunks: columns and their types, start and stop in rows, and the number of rows."""
    parquet = open_parquet(file, name)
    schema, start = parquet.schema_arrow, 0
    shared = {"columns": tuple(schema.names), "types": dict(zip(schema.names, schema.types, strict=True))}
    for group in range(parquet.num_row_groups):
        num_rows = parquet.metadata.row_group(group).num_rows
        step = max(rows_per_chunk, -(-num_rows // MAX_PARTS))
        for first in range(start, start + num_rows, step):
            stop = min(first + step, start + num_rows)
            yield shared | {"start": first, "stop": stop, "line": first + 1, "num_rows": stop - first}
        start += num_rows


def open_parquet(file: BinaryIO, name: str) -> pq.ParquetFile:
    """The file ``name``; a UserError where it is no Parquet, or was cut off."""
    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid:
        raise UserError(f"{name} is not a whole Parquet file.") from None


def records(file: BinaryIO, wanted: Collection[str], start: int, stop: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The number of each row of a chunk, from 1, and its values by column."""
    parquet = pq.ParquetFile(file)
    row = 0
    for group in range(parquet.num_row_groups):
        num_rows = parquet.metadata.row_group(group).num_rows
        if row + num_rows <= start or row >= stop:
            row += num_rows
            continue
        for batch in parquet.iter_batches(batch_size=ROWS_PER_BATCH, row_groups=[group], columns=list(wanted)):
            low, high = max(start - row, 0), min(stop - row, batch.num_rows)
            for offset, record in enumerate(batch.slice(low, high - low).to_pylist() if low < high else []):
                yield row + low + offset + 1, record
            row += batch.num_rows
