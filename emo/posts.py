"""Prepared posts: their schema, and reading them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emo import storage
from emo.config import UserError
from emo.tables import read_folder

FORMAT = 3
"""Counts changes to what is written, so that a set made by other code is not taken for this one's."""


def schema(labels: Sequence[str], label_threshold: float, kept: Mapping[str, pa.DataType]) -> pa.Schema:
    """Prepared posts; targets are shares in [0, 1] in the order of ``labels``, NaN where nobody could give the label,
    and null where the post is unlabelled. ``fold`` has the post's fold in each repeat of the deal, null where it is in
    none. ``kept`` are further columns, as they were in the data."""
    return pa.schema(
        {
            "post_id": pa.string(),
            "text": pa.string(),
            "image": pa.binary(),
            "tags": pa.list_(pa.string()),
            "targets": pa.list_(pa.float32(), len(labels)),
            "split": pa.string(),
            "fold": pa.list_(pa.int8()),
            "group": pa.string(),
            **kept,
        },
        metadata={
            "labels": json.dumps(list(labels), ensure_ascii=False),
            "label_threshold": json.dumps(label_threshold),
        },
    )


def read_posts(folder: str, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
    """Prepared posts in the order of their source; with ``where``, only those for which it holds."""
    return read_folder(data_folder(folder), columns, where)


def target_shares(table: pa.Table | pa.RecordBatch) -> np.ndarray:
    """(N, K) float32 from the ``targets`` of posts, none of which may be null; NaN where unknown."""
    column = table["targets"]
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)


def posts_manifest(folder: str) -> dict[str, Any]:
    """The manifest of a folder of prepared posts; a UserError where it is none."""
    content = storage.manifest(folder)
    if content is None or content.get("kind") != "posts":
        raise UserError(f"{folder} is not a folder of prepared posts (no finished {storage.MANIFEST} of that kind).")
    if content.get("format") != FORMAT:
        raise UserError(f"{folder} was prepared by another version of emo; prepare the posts again.")
    return content


def data_folder(folder: str) -> str:
    """Where the files of a folder of prepared posts lie."""
    return storage.join(folder, posts_manifest(folder)["data"])


def with_fold(table: pa.Table, manifest: dict[str, Any], fold: int | None) -> pa.Table:
    """The table with ``split`` as of one of the ``fold``s: it is test, the next one of its deal val, and the others of
    its deal train."""
    if fold is None:
        return table
    repeat, test, val = _dealt(manifest, fold)
    folds = pc.list_element(table["fold"], repeat)
    is_test, is_val = pc.equal(folds, test), pc.equal(folds, val)
    names = pc.if_else(is_test, "test", pc.if_else(is_val, "val", "train"))
    column = pc.coalesce(names, table["split"])  # posts without labels are in no fold
    return table.set_column(table.column_names.index("split"), "split", column)


def folded(manifest: dict[str, Any], fold: int | None) -> dict[str, Any]:
    """The manifest with the splits' counts as of one of the folds; a UserError where there is no such fold."""
    if fold is None:
        return manifest
    folds = manifest["folds"]
    if not 0 <= fold < len(folds):
        has = f"has folds 0 to {len(folds) - 1}" if folds else "has no folds; deal them with --folds"
        raise UserError(f"--fold is {fold}, but the corpus {has}.")
    repeat, test, val = _dealt(manifest, fold)
    size = num_folds(manifest)
    deal = folds[repeat * size : (repeat + 1) * size]
    counts = {"test": _summed([deal[test]]), "val": _summed([deal[val]])}
    counts["train"] = _summed([each for number, each in enumerate(deal) if number not in (test, val)])
    return manifest | {"splits": manifest["splits"] | counts, "splits_made": list(counts)}


def num_folds(manifest: dict[str, Any]) -> int:
    """The folds of one deal; a manifest counts those of the first, then those of the second, and so on."""
    return len(manifest["folds"]) // manifest["fold_repeats"]


def _dealt(manifest: dict[str, Any], fold: int) -> tuple[int, int, int]:
    """Of a fold counted through all repeats: the repeat, its number there, and that of the fold to choose on."""
    size = num_folds(manifest)
    repeat, test = divmod(fold, size)
    return repeat, test, (test + 1) % size


def _summed(counts: list[dict[str, Any]]) -> dict[str, Any]:
    num_labels = len(counts[0]["positives"])
    known = [each.get("known", [each["num_posts"]] * num_labels) for each in counts]
    return {
        "num_posts": sum(each["num_posts"] for each in counts),
        "positives": [sum(column) for column in zip(*(each["positives"] for each in counts), strict=True)],
        "known": [sum(column) for column in zip(*known, strict=True)],
    }
