"""What every Ray worker does with posts: rows out of raw posts, and prepared posts out of rows.

Apart from :mod:`emo.prepare` so that workers start without the libraries that only the driver needs.
"""

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from emo import labels
from emo.config import ALL_SPLITS, PrepareConfig
from emo.image import prepare_image
from emo.raw import Chunk, read_chunk, read_images
from emo.text import clean

SPLIT_NAMES = {"dev": "val", "valid": "val", "validation": "val", "training": "train", "testing": "test"}
BYTES_PER_BLOCK = 64 * 2**20
SMALL = {
    "index": pa.int64(),
    "source": pa.string(),
    "post_id": pa.string(),
    "group": pa.string(),
    "names": pa.list_(pa.string()),
    "shares": pa.list_(pa.float32()),
    "given": pa.string(),
    "text_hash": pa.int64(),
    "image_hash": pa.int64(),
    "has_tags": pa.bool_(),
    "redecoded": pa.bool_(),
    "reason": pa.string(),
}
"""The columns that the driver sees of every post."""
LARGE = {"text": pa.string(), "image": pa.binary(), "tags": pa.list_(pa.string())}


def clean_chunks(block: Any, chunks: ray.ObjectRef, config: PrepareConfig, labelled: bool) -> Iterator[pa.Table]:
    planned = ray.get(chunks)
    for number in block["chunk"].to_pylist():
        yield from _clean_chunk(planned[number], config, labelled)


def _clean_chunk(chunk: Chunk, config: PrepareConfig, labelled: bool) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    size = 0
    waiting = read_chunk(chunk, config.columns)
    while raws := list(islice(waiting, 32)):
        images = read_images([raw["image"] for raw in raws], chunk.folder)
        for raw, image in zip(raws, images, strict=True):
            rows.append(prepare_row(raw, image, config, labelled))
            size += len(rows[-1]["image"] or b"")
        if size > BYTES_PER_BLOCK or len(rows) >= 8192:
            yield _table(rows)
            rows, size = [], 0
    if rows:
        yield _table(rows)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in (SMALL | LARGE).items()})


def finished(block: Any, schema: pa.Schema, verdict: ray.ObjectRef) -> pa.Table:
    """The block's kept rows with targets and split."""
    codes, targets = ray.get(verdict)
    index = block["index"].to_numpy()
    kept = codes[index] >= 0
    if not kept.all():
        block, index = block.filter(pa.array(kept)), index[kept]
    codes, targets = codes[index], targets[index]
    columns = {"targets": _target_column(codes, targets), "split": pa.array(ALL_SPLITS).take(pa.array(codes))}
    return pa.table(
        [columns.get(name, block[name] if name in block.column_names else None) for name in schema.names], schema=schema
    )


def _target_column(codes: np.ndarray, targets: np.ndarray) -> pa.Array:
    if targets.shape[1] == 0:  # an empty label space, which Arrow reads but does not build
        return pa.nulls(len(targets), pa.list_(pa.float32(), 0))
    unlabelled = pa.array(codes == ALL_SPLITS.index("unlabelled"))
    return pa.FixedSizeListArray.from_arrays(pa.array(targets.ravel()), targets.shape[1], mask=unlabelled)


# One post


def prepare_row(
    raw: dict[str, Any], image: bytes | ValueError | None, config: PrepareConfig, labelled: bool
) -> dict[str, Any]:
    """A raw post as a row of SMALL and LARGE; whatever is wrong with it becomes its reason."""
    row: dict[str, Any] = dict.fromkeys((*SMALL, *LARGE)) | {
        "index": raw["index"],
        "source": raw["source"],
        "redecoded": raw["redecoded"],
        "has_tags": False,
    }
    try:
        row["post_id"] = _plain_text(raw["id"], "id")
        row |= _content(raw, image, config) if raw["reject"] is None else {"reason": raw["reject"]}
        if row["reason"] is None:
            row |= _belonging(raw, labelled)
    except ValueError as error:
        row["reason"] = str(error)
    return row


def _content(raw: dict[str, Any], image: bytes | ValueError | None, config: PrepareConfig) -> dict[str, Any]:
    if raw["id"] is None or labels.is_missing(raw["id"]):
        raise ValueError("no id")
    text = _plain_text(raw["text"], "text") or ""
    if len(text) > config.max_characters:
        raise ValueError(f"text has more than {config.max_characters} characters")
    text = clean(text, config.emoji)
    picture = _picture(image, config)
    tags = [tag for each in _tags(raw["tags"]) if (tag := clean(each, config.emoji))]
    if not (text or picture or tags):
        raise ValueError("no text, image or tags")
    return {
        "text": text or None,
        "image": picture,
        "tags": tags or None,
        "text_hash": _hash(text.casefold().encode()) if text else None,
        "image_hash": _hash(picture) if picture else None,
        "has_tags": bool(tags),
    }


def _belonging(raw: dict[str, Any], labelled: bool) -> dict[str, Any]:
    """The post's group, given split and shares."""
    group = _plain_text(raw["group"], "group")
    if not labelled:
        return {"group": group}
    given = (_plain_text(raw["split"], "split") or "").casefold()
    given = SPLIT_NAMES.get(given, given)
    if given and given not in ALL_SPLITS:
        raise ValueError(f"unknown split: {given!r}")
    shares = labels.shares(raw["labels"], raw["votes"], raw["annotators"]) if given != "unlabelled" else None
    if shares is None:
        return {"group": group}
    return {"group": group, "given": given or None, "names": list(shares), "shares": list(shares.values())}


def _picture(image: bytes | ValueError | None, config: PrepareConfig) -> bytes | None:
    try:
        if isinstance(image, ValueError):
            raise image
        return None if image is None else prepare_image(image, config.image_size, config.max_image_pixels)
    except ValueError:
        if config.bad_images == "reject":
            raise
        return None


def _plain_text(value: Any, role: str) -> str | None:
    if value is None or labels.is_missing(value):
        return None
    if isinstance(value, float) and value.is_integer():  # how integers with gaps arrive from pandas
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{role} is neither text nor a number")
    return str(value) if role == "text" else str(value).strip()


def _tags(value: Any) -> list[str]:
    if value is None or labels.is_missing(value):
        return []
    if isinstance(value, str):
        value = value.split(";")
    if not isinstance(value, list) or not all(each is None or isinstance(each, (str, int)) for each in value):
        raise ValueError("tags are neither a list of words nor words separated by ';'")
    return [str(each) for each in value if each is not None]


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), signed=True)
