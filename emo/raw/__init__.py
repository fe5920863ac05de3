"""Raw posts as files: planned in chunks that need nothing from each other, and read record by record."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from emo import storage
from emo.config import Columns, UserError
from emo.raw import lines, parquet, webdataset

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".tar": "webdataset",
}
ROLES = tuple(field.name for field in dataclasses.fields(Columns))
CONVERTED = (*ROLES, "source", "reject", "unknown")
"""The columns of a file that was made from a corpus of a known layout: unknown names the labels that nobody could
give to the post."""
ROWS_PER_CHUNK = 256
MANY_BYTES = 64 * 2**20
ROWS_PER_LARGE_CHUNK = 2048
"""Rows in a chunk where the corpus has more than MANY_BYTES."""

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ESCAPED = re.compile(r"[\udc80-\udcff]+")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One corpus among those that are read together."""

    name: str
    """What a person calls it: the path that was named, or the corpus's own name."""
    files: tuple[str, ...]
    root: str | None = None
    """The folder that image paths count from; that of each file where it is None."""
    labels: tuple[str, ...] | None = None
    """The labels that its annotators could give; None where they are those that it is seen to use."""
    is_converted: bool = False
    """Whether its columns are CONVERTED, whatever names the user's own columns have."""
    prefix: str = ""
    """Put before ids and groups, so that those of different corpora never meet."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A part of one file that holds whole records."""

    uri: str
    name: str
    """The file as places and messages name it: unique among the files read together."""
    kind: str
    source: int
    """Which of the sources it belongs to, from 0."""
    columns: tuple[str, ...]
    types: dict[str, pa.DataType] = field(default_factory=dict)
    """The columns' types, where the format has any."""
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


def plan_chunks(sources: Sequence[Source]) -> list[Chunk]:
    """Every record of the sources' files in exactly one chunk, in order."""
    files = [(number, uri) for number, source in enumerate(sources) for uri in source.files]
    names = _names([uri for _, uri in files])
    is_large = sum(_size(uri) for _, uri in files) > MANY_BYTES
    rows_per_chunk = ROWS_PER_LARGE_CHUNK if is_large else ROWS_PER_CHUNK
    chunks: list[Chunk] = []
    for (source, uri), name in zip(files, names, strict=True):
        row, first = 0, chunks[-1].index + chunks[-1].num_rows if chunks else 0
        for part in _plan(uri, name, rows_per_chunk):
            chunks.append(Chunk(uri=uri, name=name, kind=_kind(uri), source=source, row=row, index=first + row, **part))
            row += part["num_rows"]
    if not chunks:
        raise UserError(f"{', '.join(names)} holds no post: the data is empty.")
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


def read_chunk(chunk: Chunk, source: Source, columns: Columns, keep: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """The chunk's raw posts: a value or None for each of CONVERTED, with index, redecoded, and the columns to keep.

    An image is bytes, a path or a URI; see :func:`emo.raw.images.read_images`.
    """
    columns = Columns() if source.is_converted else columns
    stem = chunk.name.rpartition(".")[0]
    has_id = columns.id in chunk.columns
    wanted = {getattr(columns, role) for role in ROLES} | set(CONVERTED if source.is_converted else ()) | set(keep)
    for offset, (line, record) in enumerate(_records(chunk, wanted)):
        post: dict[str, Any] = dict.fromkeys(CONVERTED) | {"redecoded": False, "source": f"{chunk.name}:{line}"}
        if isinstance(record, str):
            post |= {"reject": record, "kept": {}}
        else:
            post |= {role: record.get(getattr(columns, role)) for role in ROLES}
            if source.is_converted:
                post |= {name: record[name] for name in ("source", "reject", "unknown")}
            post["redecoded"] = _mend(post)
            post["kept"] = {name: record.get(name) for name in keep}
        if post["id"] is None and not has_id:
            post["id"] = f"{stem}-{chunk.row + offset + 1}"
        yield post | {"index": chunk.index + offset}


def _size(uri: str) -> int:
    fs, path = storage.filesystem(uri)
    return int(fs.size(path) or 0)


def _kind(path: str) -> str:
    return next((kind for suffix, kind in KINDS.items() if path.lower().endswith(suffix)), "")


def _names(files: Sequence[str]) -> list[str]:
    """File names, with as many folders before them as it takes to tell them apart."""
    depth, names = 1, [each.rpartition("/")[2] for each in files]
    while len({name.rpartition(".")[0] for name in names}) < len(set(files)) and depth < 20:
        depth, names = depth + 1, ["/".join(each.split("/")[-depth - 1 :]) for each in files]
    return names


def _plan(uri: str, name: str, rows_per_chunk: int) -> list[dict[str, Any]]:
    fs, path = storage.filesystem(uri)
    try:
        with fs.open(path, "rb") as file:
            match _kind(uri):
                case "parquet":
                    return list(parquet.plan(file, name, rows_per_chunk))
                case "webdataset":
                    return list(webdataset.plan(file, name, rows_per_chunk))
                case kind:
                    return list(lines.plan(file, name, kind, rows_per_chunk))
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}.") from None


def _records(chunk: Chunk, wanted: set[str]) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Where each record begins, and its values by column or the reason why there are none."""
    fs, path = storage.filesystem(chunk.uri)
    span = (chunk.start, chunk.stop)
    try:
        with fs.open(path, "rb") as file:
            match chunk.kind:
                case "parquet":
                    yield from parquet.records(file, [name for name in chunk.columns if name in wanted], *span)
                case "webdataset":
                    yield from webdataset.records(file, *span, chunk.line)
                case kind:
                    yield from lines.records(file, chunk.name, kind, chunk.columns, *span, chunk.line)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{chunk.name} cannot be read: {error}.") from None


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
