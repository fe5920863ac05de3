"""WebDataset: tar files in which the files of one sample follow each other and share their name up to the first dot."""

import contextlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, BinaryIO

from emo.config import UserError
from emo.raw.lines import json_object

BYTES_PER_CHUNK = 32 * 2**20
SAMPLE = 100
"""A file's columns are those of its first samples."""
IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
COLUMNS = {"txt": "text", "text": "text", "cls": "labels", "labels": "labels"} | dict.fromkeys(IMAGES, "image")
"""What a member's extension says it is; the fields of a json member are columns of their own."""


def plan(file: BinaryIO, name: str, rows_per_chunk: int) -> Iterator[dict[str, Any]]:
    """The file's chunks: columns, start and stop in bytes, the first sample's number from 1, and the number of rows."""
    columns: dict[str, None] = {"id": None}
    starts: list[int] = []
    number = end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for _, members in _samples(tar):
                first, *_ = members
                if starts and (len(starts) == rows_per_chunk or first.offset - starts[0] > BYTES_PER_CHUNK):
                    yield _chunk(columns, starts, first.offset, number)
                    number, starts = number + len(starts), []
                starts.append(first.offset)
                if number == 0 and len(starts) <= SAMPLE:
                    with contextlib.suppress(ValueError):  # a reject, in time
                        columns |= dict.fromkeys(_record(tar, "", members))
                end = max(each.offset_data + -(-each.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE for each in members)
    except tarfile.TarError as error:
        raise UserError(f"{name} is not a whole tar file: {error}.") from None
    if starts:
        yield _chunk(columns, starts, end, number)


def _chunk(columns: Mapping[str, None], starts: list[int], stop: int, number: int) -> dict[str, Any]:
    return {
        "columns": tuple(columns),
        "start": starts[0],
        "stop": stop,
        "line": number + 1,
        "num_rows": len(starts),
    }


def records(file: BinaryIO, start: int, stop: int, line: int) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """The number of each sample of a chunk, from 1, and its values by column or the reason why there are none."""
    file.seek(start)
    with tarfile.open(fileobj=io.BytesIO(file.read(stop - start)), mode="r:") as tar:
        for number, (key, members) in enumerate(_samples(tar), start=line):
            try:
                yield number, _record(tar, key, members)
            except ValueError as error:
                yield number, str(error)


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, list[tarfile.TarInfo]]]:
    files = (member for member in tar if member.isfile())
    for key, members in groupby(files, key=lambda member: _split(member.name)[0]):
        yield key, list(members)


def _split(name: str) -> tuple[str, str]:
    """A member's key, folders included, and its extension in lower case."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _record(tar: tarfile.TarFile, key: str, members: list[tarfile.TarInfo]) -> dict[str, Any]:
    record: dict[str, Any] = {"id": key}
    for member in members:
        extension = _split(member.name)[1].rpartition(".")[2]
        content = tar.extractfile(member)
        assert content is not None, "only files are members of a sample"
        data = content.read()
        if extension == "json":
            record |= _fields(data)
        elif column := COLUMNS.get(extension):
            record[column] = data if column == "image" else data.decode("utf-8", "surrogateescape")
    return record


def _fields(data: bytes) -> dict[str, Any]:
    fields = json_object(data)
    if isinstance(fields, str):
        raise ValueError(fields)
    return fields
