"""What lies under a URI: found when asked for, and read row by row, on any store that fsspec reaches."""

import contextlib
import csv
import zlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import chain
from typing import Any, BinaryIO

import pyarrow as pa

from emo import storage
from emo.config import UserError
from emo.raw.lines import decoded, json_object
from emo.raw.parquet import open_parquet

Record = tuple[int, dict[str, Any] | str]
"""A line (in Parquet a row) from 1, and its values by column, or in a few words why it has none."""

KINDS = ("csv", "tsv", "txt", "jsonl", "parquet")
ROWS_PER_BATCH = 256


class Files:
    """The files of one corpus, by names that are relative to its root and have "/" between folders.

    The root is the folder at ``uri``, or the folder of the file or glob there. Folders are listed one by one and once.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.fs, path = storage.filesystem(uri)
        self._path = path.rstrip("/")
        self._folders: dict[str, dict[str, bool]] = {}

    @cached_property
    def only(self) -> str | None:
        """The name of the one file that the URI means; None where it means a folder or a glob."""
        return self._path.rpartition("/")[2] if self.fs.isfile(self._path) else None

    @cached_property
    def root(self) -> str:
        """The root as the store names it."""
        if self.only:
            return self._path.rpartition("/")[0]
        return self._path.partition("*")[0].rpartition("/")[0] if self._is_glob else self._path

    @cached_property
    def _is_glob(self) -> bool:
        return "*" in self._path and not self.fs.exists(self._path)

    def list(self, folder: str = "") -> Sequence[str]:
        """The names in one folder, sorted and without the hidden ones; none where there is no such folder."""
        return tuple(self._list(folder))

    def exists(self, name: str) -> bool:
        folder, _, base = name.rpartition("/")
        return base in self._list(folder)

    def find(self, *patterns: str) -> Sequence[str]:
        """The names that match any of the patterns, where * stays within one folder: "*/E-c/*.txt".

        Of a URI that means a file or a glob these are only the files that it means.
        """
        found = dict.fromkeys(chain.from_iterable(map(self._match, patterns)))
        return tuple(filter(self._is_meant, found))

    def lines(self, name: str) -> Iterator[tuple[int, str]]:
        """A text file's lines without their ends, from 1; bytes that are not UTF-8 become surrogates."""
        with self._open(name) as file:
            for number, line in enumerate(_decoded(file, name), 1):
                yield number, line.rstrip("\r\n")

    def header(self, name: str) -> Sequence[str]:
        """The column names of a table; the first row where it has no header, nothing where it has no row."""
        match _kind(name):
            case "parquet":
                with self._open(name) as file:
                    return tuple(open_parquet(file, name).schema_arrow.names)
            case "jsonl":
                first = next(self.records(name), (0, ""))[1]
                return tuple(first) if isinstance(first, dict) else ()
        _, fields = next(self._fields(name), (0, None))
        return tuple(each.strip() for each in fields or ())

    def records(self, name: str, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """The rows of a table whose name says its kind: CSV, tabs without quoting (tsv, txt), JSONL, Parquet; or .gz.

        ``columns`` are those of a CSV or tab file without a header. Blank lines are passed over.
        """
        match _kind(name):
            case "parquet":
                with self._open(name) as file:
                    batches = open_parquet(file, name).iter_batches(batch_size=ROWS_PER_BATCH)
                    yield from enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), 1)
            case "jsonl":
                yield from ((number, json_object(line)) for number, line in self.lines(name) if line.strip())
            case _:
                rows = self._fields(name)
                names = columns or [each.strip() for each in next(rows, (0, None))[1] or ()]
                yield from ((number, _record(fields, names)) for number, fields in rows)

    def _fields(self, name: str) -> Iterator[tuple[int, Sequence[str] | None]]:
        """Each row's line and fields; None for a row that no CSV reader understands."""
        if _kind(name) != "csv":
            yield from ((number, line.split("\t")) for number, line in self.lines(name) if line)
            return
        with self._open(name) as file:
            reader = csv.reader(_decoded(file, name))
            while True:
                number = reader.line_num + 1
                try:
                    fields = next(reader)
                except StopIteration:
                    return
                except csv.Error:
                    yield number, None
                    continue
                if fields:
                    yield number, fields

    def _is_meant(self, name: str) -> bool:
        if not self._is_glob:
            return self.only in (None, name)
        pattern = self._path[len(self.root) + 1 :]
        return fnmatchcase(name, pattern) and ("**" in pattern or name.count("/") == pattern.count("/"))

    def _list(self, folder: str) -> dict[str, bool]:
        """The names in one folder, and whether each may be a folder itself; a link may be."""
        if folder not in self._folders:
            path = self._at(folder)
            try:
                found = {each["name"].rstrip("/"): each["type"] != "file" for each in self.fs.ls(path, detail=True)}
            except (FileNotFoundError, NotADirectoryError):
                found = {}
            except Exception as error:  # stores behind a network have errors of their own
                raise UserError(f"{self.uri} cannot be listed: {getattr(error, 'strerror', None) or error}.") from None
            names = {each.rpartition("/")[2]: found[each] for each in sorted(found) if each != path}
            self._folders[folder] = {name: is_folder for name, is_folder in names.items() if name[:1] != "."}
        return self._folders[folder]

    def _match(self, pattern: str) -> Sequence[str]:
        names = [""]
        for part in pattern.split("/"):
            names = [f"{folder}/{each}".lstrip("/") for folder in names for each in self._matching(folder, part)]
        return names

    def _matching(self, folder: str, part: str) -> Sequence[str]:
        parent, _, name = folder.rpartition("/")
        if folder and not self._list(parent).get(name):
            return ()
        listed = self._list(folder)
        if "*" not in part and "[" not in part:
            return (part,) if part in listed else ()
        return [each for each in listed if fnmatchcase(each, part)]

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/") or "/"

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        try:
            with self.fs.open(self._at(name), "rb", compression="gzip" if name.endswith(".gz") else None) as file:
                yield file
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            raise UserError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def stem(name: str) -> str:
    """A file's name without its folder, .gz and suffix."""
    return name.rpartition("/")[2].removesuffix(".gz").rpartition(".")[0]


def _kind(name: str) -> str:
    suffix = name.lower().removesuffix(".gz").rpartition(".")[2]
    if suffix not in KINDS:
        raise ValueError(f"{name} is no table: its name ends in none of {', '.join(KINDS)}")
    return suffix


def _decoded(file: BinaryIO, name: str) -> Iterator[str]:
    return (decoded(line, name, is_first=number == 0) for number, line in enumerate(file))


def _record(fields: Sequence[str] | None, columns: Sequence[str]) -> dict[str, Any] | str:
    if fields is None:
        return "not valid CSV"
    if len(fields) < len(columns) or any(each.strip() for each in fields[len(columns) :]):
        return f"wrong number of fields: {len(fields)} where there are {len(columns)} columns"
    return dict(zip(columns, fields, strict=False))
