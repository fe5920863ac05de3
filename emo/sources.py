"""From what --data names to files that are all read alike; a corpus of a known layout is first written as one."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from emo import storage
from emo.config import PrepareConfig, UserError
from emo.datasets import Corpus, find_corpus, read_corpus
from emo.raw import Source, find_files

ROWS_PER_GROUP = 2048
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "text": pa.binary(),  # as it lies in the corpus, UTF-8 or not
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "tags": pa.list_(pa.string()),
        "labels": pa.list_(pa.string()),
        "votes": pa.string(),
        "annotators": pa.int32(),
        "split": pa.string(),
        "group": pa.string(),
        "source": pa.string(),
        "reject": pa.string(),
        "unknown": pa.list_(pa.string()),
    }
)
"""The columns of emo.raw.CONVERTED."""


def find_sources(data: Sequence[str], config: PrepareConfig, cache: str) -> list[Source]:
    """What each of ``data`` is: a corpus of a known layout, written to the cache as one Parquet file, or files."""
    if len(set(data)) < len(data):
        raise UserError("--data names the same place twice.")
    sources = [_source(uri, config, cache) for uri in data]
    if len(sources) == 1:
        return [replace(sources[0], prefix="")]
    stems = [source.prefix for source in sources]
    prefixes = [stem if stems.count(stem) == 1 else f"{stem}-{n}" for n, stem in enumerate(stems, start=1)]
    return [replace(source, prefix=f"{prefix}/") for source, prefix in zip(sources, prefixes, strict=True)]


def _source(uri: str, config: PrepareConfig, cache: str) -> Source:
    """The source with what would tell it from others as its prefix."""
    corpus = find_corpus(uri, config.corpus)
    if corpus is None or corpus.read is None:
        stem = uri.rstrip("/").rpartition("/")[2].partition(".")[0]
        return Source(
            name=uri if corpus is None else f"{corpus.title} ({uri})",
            files=tuple(find_files(uri)),
            root=config.images,
            labels=corpus.labels if corpus else None,
            prefix=corpus.name if corpus else stem,
        )
    fs, path = storage.filesystem(uri)
    folder = fs.unstrip_protocol(path if fs.isdir(path) else path.rpartition("/")[0])
    return Source(
        name=f"{corpus.title} ({uri})",
        files=(_converted(corpus, uri, cache),),
        root=config.images or folder,
        labels=corpus.labels,
        is_converted=True,
        prefix=corpus.name,
    )


def _converted(corpus: Corpus, uri: str, cache: str) -> str:
    """The corpus as one Parquet file; the name tells the content, so that a corpus that changed has another."""
    digest = hashlib.sha256()
    for row in read_corpus(corpus, uri):
        digest.update(json.dumps(row, sort_keys=True, default=_digest).encode("utf-8", "surrogateescape"))
    file = storage.join(cache, "corpora", f"{corpus.name}-{digest.hexdigest()[:16]}.parquet")
    if not storage.exists(file):
        with storage.writing(file) as out, pq.ParquetWriter(out, SCHEMA) as writer:
            for table in _tables(read_corpus(corpus, uri)):
                writer.write_table(table)
    fs, path = storage.filesystem(file)
    return fs.unstrip_protocol(path)


def _digest(value: Any) -> str:
    return hashlib.sha256(value).hexdigest()


def _tables(posts: Iterable[dict[str, Any]]) -> Iterator[pa.Table]:
    waiting = iter(posts)
    while rows := [_row(post) for post in islice(waiting, ROWS_PER_GROUP)]:
        yield pa.Table.from_pylist(rows, schema=SCHEMA)


def _row(post: dict[str, Any]) -> dict[str, Any]:
    text, image, votes = post.get("text"), post.get("image"), post.get("votes")
    return post | {
        "text": text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text,
        "image": image and {"bytes" if isinstance(image, bytes) else "path": image},
        "votes": None if votes is None else json.dumps(votes),
    }
