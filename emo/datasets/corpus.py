"""What a corpus is to ``emo``, and what its adapters share: rows to raw posts, splits by name, labels in columns."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emo.datasets.files import Files, stem
from emo.labels import is_missing

Post = dict[str, Any]
"""A raw post: id and source, and any of text, image, tags, labels, votes, annotators, split, group, unknown, reject.

``image`` is bytes, a path below the corpus's root or a URI; ``unknown`` names labels that the post may or may not have.
"""

SPLITS = {"train": "train", "training": "train", "dev": "val", "valid": "val", "validation": "val", "test": "test"}
SPLITS |= {"val": "val"}


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A published corpus, how its files are recognised, and how they become raw posts."""

    name: str
    title: str
    labels: tuple[str, ...] | None
    """In published order; None where the corpus has no fixed set."""
    num_posts: int | None
    """As published; None where that is unknown."""
    modalities: tuple[str, ...]
    licence: str
    home: str
    """Where to get it: a URL."""
    single_label: bool
    """Whether no post has more than one label."""
    layout: str
    """Which files are looked for."""
    recognises: Callable[[Files], bool]
    read: Callable[[Files], Iterator[Post]] | None
    """None where the columns are read as those of any other corpus."""


def posts(
    files: Files,
    names: Sequence[str],
    make: Callable[[str, int, dict[str, Any]], Post],
    columns: Sequence[str] | None = None,
) -> Iterator[Post]:
    """A post for every row of the named tables.

    ``make(name, row, record)`` gives its keys, with an id where one is published; a ValueError says what is wrong.
    """
    unique = len({stem(name) for name in names}) == len(names)
    for name in names:
        prefix = stem(name) if unique else name.removesuffix(".gz").rpartition(".")[0]
        for row, (line, record) in enumerate(files.records(name, columns), 1):
            yield post(f"{prefix}-{row}", f"{name}:{line}", _made, make, name, row, record)


def post(post_id: str, source: str, make: Callable[..., Post], *values: Any) -> Post:
    """What ``make`` gives of the values, with id and source; a reject where it raises a ValueError."""
    try:
        made = make(*values)
    except ValueError as error:
        return {"id": post_id, "source": source, "reject": str(error)}
    except KeyError as error:
        return {"id": post_id, "source": source, "reject": f"no column {error}"}
    kept = {key: value if key == "image" else _recoverable(value) for key, value in made.items() if value is not None}
    return {"id": post_id} | kept | {"source": source}


def readable(record: dict[str, Any] | str) -> dict[str, Any]:
    """A record's values; a ValueError where it could not be read."""
    if isinstance(record, str):
        raise ValueError(record)
    return record


def text_of(*parts: Any) -> str | None:
    """The parts that are neither missing nor said already, one a line; None where there are none."""
    return "\n".join(dict.fromkeys(str(part) for part in parts if not is_missing(part))) or None


def needed(value: str | None, what: str) -> str:
    """``value``; a ValueError where it is missing."""
    if value is None or is_missing(value):
        raise ValueError(f"no {what}")
    return value


def flags(record: Mapping[str, Any], labels: Iterable[str]) -> tuple[list[str], list[str]]:
    """The labels whose column is 1, and those that the row says nothing about: no column, blank or NONE."""
    cells = {label: record.get(label) for label in labels}
    unknown = [label for label, cell in cells.items() if is_missing(cell) or cell == "NONE"]
    known = {label: str(cell).strip() for label, cell in cells.items() if label not in unknown}
    for label, cell in known.items():
        if cell not in ("0", "1"):
            raise ValueError(f"{label} is {cell!r}, neither 0 nor 1")
    return [label for label, cell in known.items() if cell == "1"], unknown


def flagged(record: Mapping[str, Any], labels: Sequence[str]) -> Post:
    """The labels and unknown keys of a row with 0/1 columns; neither where the row is unlabelled."""
    chosen, unknown = flags(record, labels)
    return {} if len(unknown) == len(labels) else {"labels": chosen, "unknown": unknown or None}


def count(value: Any, what: str) -> int:
    """A count of votes; a ValueError where it is none."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise ValueError(f"{what} is {value!r}, not a count")
    return number


def _made(make: Callable[..., Post], name: str, row: int, record: dict[str, Any] | str) -> Post:
    return make(name, row, readable(record))


def _recoverable(value: Any) -> Any:
    """Text whose bytes were not UTF-8 as those bytes, so that whoever cleans it can tell what they meant."""
    if isinstance(value, list):
        return [_recoverable(each) for each in value]
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            try:
                return value.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:  # half an emoji out of JSON: no bytes to recover
                return value
    return value
