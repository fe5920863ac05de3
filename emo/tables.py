"""Arrow tables as Parquet on any store: one small file, written whole, or all the files of a data folder."""

import io
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq

from emo import storage


def write_table(uri: str, table: pa.Table) -> None:
    """Write a whole Parquet file or none."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write_bytes(uri, buffer.getvalue())


def read_table(uri: str) -> pa.Table:
    return pq.read_table(io.BytesIO(storage.read_bytes(uri)))


def parquet_files(folder: str) -> tuple[list[str], pyarrow.fs.PyFileSystem]:
    """The Parquet files of a folder in the order of their names, and the store that they are on."""
    fs, path = storage.filesystem(folder)
    return sorted(fs.glob(f"{path}/*.parquet")), pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))


def read_folder(folder: str, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
    """All rows of a folder's Parquet files, or those for which ``where`` holds."""
    return _dataset(folder).to_table(columns=None if columns is None else list(columns), filter=where)


def stream_folder(folder: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The same in batches that need little memory."""
    yield from _dataset(folder).to_batches(columns=list(columns))


def _dataset(folder: str) -> pyarrow.dataset.Dataset:
    files, fs = parquet_files(folder)
    return pyarrow.dataset.dataset(files, format="parquet", filesystem=fs)
