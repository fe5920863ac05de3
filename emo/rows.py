"""What every Ray worker does with posts: rows out of raw posts, and prepared posts out of rows.

Apart from :mod:`emo.prepare` so that workers start without the libraries that only the driver needs.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from emo import labels
from emo.config import ALL_SPLITS, PrepareConfig
from emo.duplicates import IMAGE_SIGNATURE, TEXT_SIGNATURE, image_signature, text_signature
from emo.image import prepare_image
from emo.parts import writing_part
from emo.raw import Chunk, Source, read_chunk
from emo.raw.images import read_images
from emo.text import clean

SPLIT_NAMES = {"dev": "val", "valid": "val", "validation": "val", "training": "train", "testing": "test"}
ROWS_AT_ONCE = 256
"""So many posts are in a worker's memory, with their images, and so many images are asked for at once."""
SMALL = {
    "index": pa.int64(),
    "corpus": pa.int16(),
    "source": pa.string(),
    "post_id": pa.string(),
    "group": pa.string(),
    "names": pa.list_(pa.string()),
    "shares": pa.list_(pa.float32()),
    "annotators": pa.float32(),
    "unknown": pa.list_(pa.string()),
    "given": pa.string(),
    "text_hash": pa.int64(),
    "image_hash": pa.int64(),
    "text_signature": TEXT_SIGNATURE,
    "image_signature": IMAGE_SIGNATURE,
    "has_tags": pa.bool_(),
    "redecoded": pa.bool_(),
    "reason": pa.string(),
}
"""The columns that the driver sees of every post."""
LARGE = {"text": pa.string(), "image": pa.binary(), "tags": pa.list_(pa.string())}
KEPT = "kept/"
"""Before the name of a column of the data that is kept as it is."""


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What every worker is told of a corpus."""

    chunks: list[Chunk]
    sources: list[Source]
    config: PrepareConfig
    labelled: bool
    """Whether labels are read at all."""
    renames: dict[str, str] = field(default_factory=dict)
    """Label name -> what it is read as, "" where it is left out."""
    kept: dict[str, pa.DataType] = field(default_factory=dict)
    """The columns of the data that are kept, and their types."""


def clean_chunk(number: int, task: Cleaning, parts: str) -> int:
    """Write the part of one chunk: every record as a row of SMALL and LARGE; returns how many."""
    chunk = task.chunks[number]
    source = task.sources[chunk.source]
    waiting = read_chunk(chunk, source, task.config.columns, tuple(task.kept))
    num_rows = 0
    with writing_part(parts, number) as write:
        while raws := list(islice(waiting, ROWS_AT_ONCE)):
            images = read_images(
                [raw["image"] for raw in raws],
                source.root or chunk.folder,
                task.config.fetch,
                fetching=task.config.fetch_images,
            )
            rows = [
                prepare_row(raw, image, task, prefix=source.prefix) | {"corpus": chunk.source}
                for raw, image in zip(raws, images, strict=True)
            ]
            write(_table(rows, task.kept))
            num_rows += len(rows)
    return num_rows


def _table(rows: list[dict[str, Any]], kept: dict[str, pa.DataType]) -> pa.Table:
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in (SMALL | LARGE).items()}
    for name, kind in kept.items():
        columns[KEPT + name] = pa.array([_as(kind, row["kept"].get(name)) for row in rows], kind)
    return pa.table(columns)


def _as(kind: pa.DataType, value: Any) -> Any:
    """A value as its column's type takes it: what is no text, in a column of texts, as JSON."""
    if value is None or not pa.types.is_string(kind) or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Turns a part's rows into prepared posts, by what was decided about all of them."""

    schema: pa.Schema
    splits: np.ndarray
    """An index into ALL_SPLITS for each row, -1 where it is rejected: int8 (N,)."""
    targets: np.ndarray
    """Shares, NaN where nobody could give the label: float32 (N, K)."""
    folds: np.ndarray
    """The fold of each row in every repeat, -1 where it is in none: int8 (N, R)."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        index = rows["index"].to_numpy()
        kept = self.splits[index] >= 0
        if not kept.all():
            rows, index = rows.filter(pa.array(kept)), index[kept]
        codes, folds = self.splits[index], self.folds[index]
        made = {
            "targets": _target_column(codes, self.targets[index]),
            "split": pa.array(ALL_SPLITS).take(pa.array(codes)),
            "fold": _fold_column(folds),
        }
        return pa.table([made[name] if name in made else rows[name] for name in self.schema.names], schema=self.schema)


def _target_column(codes: np.ndarray, targets: np.ndarray) -> pa.Array:
    if targets.shape[1] == 0:  # an empty label space, which Arrow reads but does not build
        return pa.nulls(len(targets), pa.list_(pa.float32(), 0))
    unlabelled = pa.array(codes == ALL_SPLITS.index("unlabelled"))
    return pa.FixedSizeListArray.from_arrays(pa.array(targets.ravel()), targets.shape[1], mask=unlabelled)


def _fold_column(folds: np.ndarray) -> pa.Array:
    """Lists of R folds; null where a post is in none."""
    starts = pa.array(np.arange(len(folds) + 1, dtype=np.int32) * folds.shape[1])
    return pa.ListArray.from_arrays(starts, pa.array(folds.ravel()), mask=pa.array((folds < 0).any(axis=1)))


# One post


def prepare_row(
    raw: dict[str, Any], image: bytes | ValueError | None, task: Cleaning, *, prefix: str = ""
) -> dict[str, Any]:
    """A raw post as a row of SMALL and LARGE; whatever is wrong with it becomes its reason."""
    row: dict[str, Any] = dict.fromkeys((*SMALL, *LARGE)) | {
        "index": raw["index"],
        "source": raw["source"],
        "redecoded": raw["redecoded"],
        "has_tags": False,
        "kept": raw["kept"],
    }
    try:
        if (post_id := _plain_text(raw["id"], "id")) is not None:
            row["post_id"] = prefix + post_id
        row |= _content(raw, image, task.config) if raw["reject"] is None else {"reason": raw["reject"]}
        if row["reason"] is None:
            row |= _belonging(raw, task, prefix)
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
    picture, pixels = _picture(image, config) or (None, None)
    tags = [tag for each in _tags(raw["tags"]) if (tag := clean(each, config.emoji))]
    if not (text or picture or tags):
        raise ValueError("no text, image or tags")
    content: dict[str, Any] = {
        "text": text or None,
        "image": picture,
        "tags": tags or None,
        "text_hash": _hash(text.casefold().encode()) if text else None,
        "image_hash": _hash(picture) if picture else None,
        "has_tags": bool(tags),
    }
    if config.near_duplicates == "together":
        content["text_signature"] = text_signature(text) if text else None
        content["image_signature"] = image_signature(pixels) if pixels else None
    return content


def _belonging(raw: dict[str, Any], task: Cleaning, prefix: str) -> dict[str, Any]:
    """The post's group, given split and shares."""
    group = _plain_text(raw["group"], "group")
    belonging: dict[str, Any] = {"group": None if group is None else prefix + group}
    if not task.labelled:
        return belonging
    given = (_plain_text(raw["split"], "split") or "").casefold()
    given = SPLIT_NAMES.get(given, given)
    if given and given not in ALL_SPLITS:
        raise ValueError(f"unknown split: {given!r}")
    shares = labels.shares(raw["labels"], raw["votes"], raw["annotators"]) if given != "unlabelled" else None
    if shares is None:
        return belonging
    shares = labels.renamed(shares, task.renames)
    return belonging | {
        "given": given or None,
        "names": list(shares),
        "shares": list(shares.values()),
        "annotators": None if labels.is_missing(raw["votes"]) else float(raw["annotators"]),
        "unknown": raw["unknown"],
    }


def _picture(image: bytes | ValueError | None, config: PrepareConfig) -> tuple[bytes, Image.Image] | None:
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


def _tags(value: Any) -> Sequence[str]:
    if value is None or labels.is_missing(value):
        return []
    if isinstance(value, str):
        value = value.split(";")
    if not isinstance(value, list) or not all(each is None or isinstance(each, (str, int)) for each in value):
        raise ValueError("tags are neither a list of words nor words separated by ';'")
    return [str(each) for each in value if each is not None]


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), signed=True)
