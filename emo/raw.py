"""Raw posts as files: planned in chunks that need nothing from each other, and read record by record."""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from emo import storage
from emo.config import Columns, UserError
from emo.labels import is_missing

KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
ROLES = tuple(field.name for field in dataclasses.fields(Columns))
ROWS_PER_CHUNK = 256
BYTES_PER_CHUNK = 32 * 2**20
MAX_LINES = 1000
"""A quoted CSV field that runs over more lines has lost its closing quote."""
SAMPLE = 100
"""A JSONL file's columns are those of its first records."""

_BROKEN = object()
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ESCAPED = re.compile(r"[\udc80-\udcff]+")


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A part of one file that holds whole records."""

    uri: str
    name: str
    """The file as places and messages name it: unique among the files read together."""
    kind: str
    columns: tuple[str, ...]
    start: int
    """Bytes from the file's beginning; rows in Parquet. So is ``stop``."""
    stop: int
    line: int
    """Where the first record begins, from 1: a line, or a row in Parquet."""
    row: int
    """How many of the file's records come before."""
    index: int
    """How many records of all files come before."""
    num_rows: int

    @property
    def folder(self) -> str:
        return self.uri.rpartition("/")[0]


def find_files(uri: str) -> list[str]:
    """The data files that a file, a folder (its own files, not its subfolders') or a glob means, sorted."""
    kinds = ", ".join(KINDS)
    fs, path = storage.filesystem(uri)
    try:
        if "*" in path and not fs.exists(path):
            found = [each for each in fs.glob(path) if fs.isfile(each)]
        elif fs.isdir(path):
            found = [each["name"] for each in fs.ls(path, detail=True) if each["type"] == "file"]
        elif fs.exists(path):
            found = [path]
        else:
            raise UserError(f"--data {uri} does not exist.")
    except OSError as error:
        raise UserError(f"--data {uri} cannot be read: {error.strerror or error}.") from None
    files = sorted(each for each in found if _kind(each) and not each.rpartition("/")[2].startswith("."))
    if not files:
        hint = f"; for files in its subfolders write '{uri.rstrip('/')}/**/*.jsonl'" if fs.isdir(path) else ""
        raise UserError(f"--data {uri} holds no {kinds} file{hint}.")
    return [fs.unstrip_protocol(each) for each in files]


def plan_chunks(files: Sequence[str]) -> list[Chunk]:
    """Every record of the files in exactly one chunk, in order."""
    chunks: list[Chunk] = []
    for uri, name in zip(files, _names(files), strict=True):
        kind = _kind(uri)
        fs, path = storage.filesystem(uri)
        try:
            with fs.open(path, "rb") as file:
                parts = list(_plan_parquet(file, name) if kind == "parquet" else _plan_lines(file, name, kind))
        except OSError as error:
            raise UserError(f"{name} cannot be read: {error.strerror or error}.") from None
        row, first = 0, chunks[-1].index + chunks[-1].num_rows if chunks else 0
        for part in parts:
            chunks.append(Chunk(uri=uri, name=name, kind=kind, row=row, index=first + row, **part))
            row += part["num_rows"]
    if not chunks:
        raise UserError(f"{', '.join(_names(files))} holds no post: the data is empty.")
    return chunks


def check_columns(columns: Columns, chunks: Iterable[Chunk]) -> None:
    """Raise the one sentence about a column that was asked for and is nowhere, or about posts with nothing in them."""
    chunks = list(chunks)
    found = sorted({name for chunk in chunks for name in chunk.columns})
    where = " and ".join(sorted({chunk.name for chunk in chunks})[:3])
    for role in ROLES:
        name = getattr(columns, role)
        if name != getattr(Columns(), role) and name not in found:
            raise UserError(f"unknown column {name!r} (--columns.{role}); {where} has: {', '.join(found)}.")
    if not {columns.text, columns.image, columns.tags} & set(found):
        raise UserError(
            f"{where} has none of the columns {columns.text!r}, {columns.image!r} and {columns.tags!r}, but: "
            f"{', '.join(found)}. Name them with --columns.text, --columns.image or --columns.tags."
        )


def read_chunk(chunk: Chunk, columns: Columns) -> Iterator[dict[str, Any]]:
    """The chunk's raw posts: a value or None for each role, with index, source, redecoded and reject (a reason).

    An image is bytes or a path; see :func:`read_images`.
    """
    stem = chunk.name.rpartition(".")[0]
    has_id = columns.id in chunk.columns
    for offset, (line, record) in enumerate(_records(chunk, columns)):
        post: dict[str, Any] = dict.fromkeys(ROLES) | {"reject": None, "redecoded": False}
        if isinstance(record, str):
            post["reject"] = record
        else:
            post |= {role: record.get(getattr(columns, role)) for role in ROLES}
            post["redecoded"] = _mend(post)
        if post["id"] is None and not has_id:
            post["id"] = f"{stem}-{chunk.row + offset + 1}"
        yield post | {"index": chunk.index + offset, "source": f"{chunk.name}:{line}"}


def read_images(values: Sequence[Any], folder: str) -> list[bytes | ValueError | None]:
    """The image files' bytes, where a path counts from the data file's ``folder``; an error says why there are none."""
    fs, root = storage.filesystem(folder)
    paths = {each: f"{root.rstrip('/')}/{each}" for each in map(_path_of, values) if each and _is_inside(each)}
    if getattr(fs, "async_impl", False) and paths:  # a store behind a network: many at once
        fetched = fs.cat(list(paths.values()), on_error="return")
        fetched = fetched if isinstance(fetched, dict) else dict.fromkeys(paths.values(), fetched)
    else:
        fetched = {path: _fetch(fs, path) for path in paths.values()}
    return [_image(value, paths, fetched) for value in values]


def _kind(path: str) -> str:
    return next((kind for suffix, kind in KINDS.items() if path.lower().endswith(suffix)), "")


def _names(files: Sequence[str]) -> list[str]:
    """File names, with as many folders before them as it takes to tell them apart."""
    depth, names = 1, [each.rpartition("/")[2] for each in files]
    while len({name.rpartition(".")[0] for name in names}) < len(set(files)) and depth < 20:
        depth, names = depth + 1, ["/".join(each.split("/")[-depth - 1 :]) for each in files]
    return names


# Planning


class _Lines:
    """A binary file's lines as text, counted; bytes that are not UTF-8 stay recoverable as surrogates."""

    def __init__(self, file: BinaryIO, name: str, line: int = 1, offset: int = 0) -> None:
        self.file, self.name, self.offset, self.number, self.record = iter(file), name, offset, line - 1, line

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        raw = next(self.file)
        if self.offset == 0 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{self.name} is UTF-16; save it as UTF-8.")
        text = raw.removeprefix(b"\xef\xbb\xbf") if self.offset == 0 else raw
        self.offset += len(raw)
        self.number += 1
        if self.number - self.record > MAX_LINES:
            raise UserError(
                f"{self.name}:{self.record}: a quoted field runs on for over {MAX_LINES} lines; close its quote, "
                "and double the quotes inside quoted fields."
            )
        return text.decode("utf-8", "surrogateescape")


def _split(lines: _Lines, kind: str) -> Iterator[tuple[int, int, str | list[str] | None]]:
    """Where each record begins (line, byte), and its text or fields; None for one that no CSV reader understands."""
    csv.field_size_limit(2**31 - 1)
    reader: Iterator[Any] = lines if kind == "jsonl" else csv.reader(lines, delimiter=_DELIMITERS[kind])
    while True:
        lines.record, start = lines.number + 1, lines.offset
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            fields = None
        if fields is None or (fields if isinstance(fields, list) else fields.strip()):
            yield lines.record, start, fields


def _plan_lines(file: BinaryIO, name: str, kind: str) -> Iterator[dict[str, Any]]:
    lines = _Lines(file, name)
    records = _split(lines, kind)
    if kind == "jsonl":
        head = list(islice(records, SAMPLE))
        columns = dict.fromkeys(
            key for _, _, text in head if isinstance(value := _json(str(text)), dict) for key in value
        )
        records = chain(head, records)
    else:
        header = next(records, None)
        if header is None:
            return
        if header[2] is None:
            raise UserError(f"{name}:{header[0]}: the header cannot be read; are the lines' ends those of an old Mac?")
        columns = dict.fromkeys(each.strip() for each in header[2])
        if len(columns) < len(header[2]):
            raise UserError(f"{name}: the header names a column twice: {', '.join(header[2])}.")
    yield from _ranges(records, lines, tuple(columns))


def _ranges(records: Iterator[Any], lines: _Lines, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    begin: dict[str, Any] | None = None
    for line, start, _ in records:
        if begin and (begin["num_rows"] == ROWS_PER_CHUNK or start - begin["start"] > BYTES_PER_CHUNK):
            yield begin | {"stop": start}
            begin = None
        begin = begin or {"columns": columns, "start": start, "line": line, "num_rows": 0}
        begin["num_rows"] += 1
    if begin:
        yield begin | {"stop": lines.offset}


def _plan_parquet(file: BinaryIO, name: str) -> Iterator[dict[str, Any]]:
    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowInvalid:
        raise UserError(f"{name} is not a whole Parquet file.") from None
    columns, start = tuple(parquet.schema_arrow.names), 0
    for group in range(parquet.num_row_groups):
        num_rows = parquet.metadata.row_group(group).num_rows
        step = max(ROWS_PER_CHUNK, -(-num_rows // 8))  # every chunk reads its row group from the beginning
        for first in range(start, start + num_rows, step):
            stop = min(first + step, start + num_rows)
            yield {"columns": columns, "start": first, "stop": stop, "line": first + 1, "num_rows": stop - first}
        start += num_rows


# Reading


def _records(chunk: Chunk, columns: Columns) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Where each record begins, and its values by column or the reason why there are none."""
    fs, path = storage.filesystem(chunk.uri)
    try:
        with fs.open(path, "rb") as file:
            if chunk.kind == "parquet":
                yield from _parquet_rows(file, chunk, columns)
                return
            file.seek(chunk.start)
            part = io.BytesIO(file.read(chunk.stop - chunk.start))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{chunk.name} cannot be read: {error}.") from None
    for line, _, content in _split(_Lines(part, chunk.name, chunk.line, chunk.start), chunk.kind):
        yield line, _record(content, chunk.columns)


def _parquet_rows(file: BinaryIO, chunk: Chunk, columns: Columns) -> Iterator[tuple[int, Mapping[str, Any]]]:
    parquet = pq.ParquetFile(file)
    wanted = [name for name in chunk.columns if name in {getattr(columns, role) for role in ROLES}]
    row = 0
    for group in range(parquet.num_row_groups):
        num_rows = parquet.metadata.row_group(group).num_rows
        if row + num_rows <= chunk.start or row >= chunk.stop:
            row += num_rows
            continue
        for batch in parquet.iter_batches(batch_size=ROWS_PER_CHUNK, row_groups=[group], columns=wanted):
            low, high = max(chunk.start - row, 0), min(chunk.stop - row, batch.num_rows)
            for offset, record in enumerate(batch.slice(low, high - low).to_pylist() if low < high else []):
                yield row + low + offset + 1, record
            row += batch.num_rows


def _record(content: str | list[str] | None, columns: Sequence[str]) -> Mapping[str, Any] | str:
    if content is None:
        return "not valid CSV"
    if isinstance(content, list):
        if len(content) != len(columns):
            return f"wrong number of fields: {len(content)} where the header has {len(columns)}"
        return dict(zip(columns, content, strict=True))
    value = _json(content)
    if isinstance(value, dict):
        return value
    return "not valid JSON" if value is _BROKEN else "not a JSON object"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _BROKEN


def _mend(post: dict[str, Any]) -> bool:
    """Replace bytes that were not UTF-8 by what they mean in Windows-1252; whether the text had any."""
    text = post["text"]
    for role in ROLES:
        if role != "image":  # file names may be any bytes
            post[role] = _mended(post[role])
    if isinstance(text, bytes):
        return _ESCAPED.search(text.decode("utf-8", "surrogateescape")) is not None
    return isinstance(text, str) and _ESCAPED.search(text) is not None


def _mended(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str) and _SURROGATE.search(value):
        value = _ESCAPED.sub(
            lambda run: run.group().encode("utf-8", "surrogateescape").decode("cp1252", "replace"), value
        )
        return _SURROGATE.sub("", value)
    if isinstance(value, (list, tuple)):
        return [_mended(each) for each in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(each) for key, each in value.items()}
    return value


def _path_of(value: Any) -> str:
    if isinstance(value, dict) and not value.get("bytes"):
        value = value.get("path")
    return value if isinstance(value, str) else ""


def _is_inside(path: str) -> bool:
    """A corpus from elsewhere must not read the user's other files."""
    return not path.startswith(("/", "\\")) and "://" not in path and ".." not in re.split(r"[/\\]", path)


def _fetch(fs: Any, path: str) -> bytes | Exception:
    try:
        return bytes(fs.cat_file(path))
    except (OSError, ValueError) as error:
        return error


def _image(value: Any, paths: Mapping[str, str], fetched: Mapping[str, Any]) -> bytes | ValueError | None:
    if isinstance(value, dict):  # the image type of Hugging Face datasets
        value = value.get("bytes") or value.get("path")
    if is_missing(value) or value == b"":
        return None
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        return ValueError("image is neither bytes nor a path")
    if value not in paths:
        return ValueError("image path leads out of the data file's folder")
    content = fetched[paths[value]]
    if isinstance(content, bytes):
        return content
    return ValueError("image file not found" if isinstance(content, FileNotFoundError) else "image file cannot be read")
