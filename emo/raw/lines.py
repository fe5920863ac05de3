"""JSONL, CSV and TSV: where each record begins, and what it says."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, BinaryIO

from emo.config import UserError

BYTES_PER_CHUNK = 32 * 2**20
MAX_LINES = 1000
"""A quoted CSV field that runs over more lines has lost its closing quote."""
SAMPLE = 100
"""A JSONL file's columns are those of its first records."""

_DELIMITERS = {"csv": ",", "tsv": "\t"}


class _Lines:
    """A binary file's lines as text, counted; bytes that are not UTF-8 stay recoverable as surrogates."""

    def __init__(self, file: BinaryIO, name: str, line: int = 1, offset: int = 0) -> None:
        self.file, self.name, self.offset, self.number, self.record = iter(file), name, offset, line - 1, line

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        raw = next(self.file)
        text = decoded(raw, self.name, is_first=self.offset == 0)
        self.offset += len(raw)
        self.number += 1
        if self.number - self.record > MAX_LINES:
            raise UserError(
                f"{self.name}:{self.record}: a quoted field runs on for over {MAX_LINES} lines; close its quote, "
                "and double the quotes inside quoted fields."
            )
        return text


def plan(file: BinaryIO, name: str, kind: str, rows_per_chunk: int) -> Iterator[dict[str, Any]]:
    """The file's chunks: columns, start and stop in bytes, the first line, and the number of rows."""
    lines = _Lines(file, name)
    records = _split(lines, kind)
    if kind == "jsonl":
        head = list(islice(records, SAMPLE))
        columns = dict.fromkeys(
            key for _, _, text in head if isinstance(value := json_object(str(text)), dict) for key in value
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
    begin: dict[str, Any] | None = None
    for line, start, _ in records:
        if begin and (begin["num_rows"] == rows_per_chunk or start - begin["start"] > BYTES_PER_CHUNK):
            yield begin | {"stop": start}
            begin = None
        begin = begin or {"columns": tuple(columns), "start": start, "line": line, "num_rows": 0}
        begin["num_rows"] += 1
    if begin:
        yield begin | {"stop": lines.offset}


def records(
    file: BinaryIO, name: str, kind: str, columns: Sequence[str], start: int, stop: int, line: int
) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """The line of each record of a chunk, and its values by column or the reason why there are none."""
    file.seek(start)
    part = io.BytesIO(file.read(stop - start))
    for number, _, content in _split(_Lines(part, name, line, start), kind):
        yield number, _record(content, columns)


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


def _record(content: str | list[str] | None, columns: Sequence[str]) -> Mapping[str, Any] | str:
    if content is None:
        return "not valid CSV"
    if isinstance(content, list):
        if len(content) != len(columns):
            return f"wrong number of fields: {len(content)} where the header has {len(columns)}"
        return dict(zip(columns, content, strict=True))
    return json_object(content)


def json_object(text: str | bytes) -> dict[str, Any] | str:
    """The object that a JSON text holds, or why there is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "not valid JSON"
    return value if isinstance(value, dict) else "not a JSON object"


def decoded(line: bytes, name: str, *, is_first: bool) -> str:
    """A line of the file ``name`` as text, without the mark of UTF-8; other bytes stay recoverable as surrogates."""
    if is_first and line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{name} is UTF-16; save it as UTF-8.")
    return (line.removeprefix(b"\xef\xbb\xbf") if is_first else line).decode("utf-8", "surrogateescape")
