"""Prepared posts: their schema, and reading them at once or as a stream."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from emo import storage
from emo.config import UserError
from emo.tables import parquet_files, read_folder

if TYPE_CHECKING:
    import ray.data


def schema(labels: Sequence[str], label_threshold: float) -> pa.Schema:
    """Prepared posts; targets are shares in [0, 1] in the order of ``labels``, null where unlabelled."""
    return pa.schema(
        {
            "post_id": pa.string(),
            "text": pa.string(),
            "image": pa.binary(),
            "tags": pa.list_(pa.string()),
            "targets": pa.list_(pa.float32(), len(labels)),
            "split": pa.string(),
            "group": pa.string(),
        },
        metadata={
            "labels": json.dumps(list(labels), ensure_ascii=False),
            "label_threshold": json.dumps(label_threshold),
        },
    )


def read_posts(folder: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Prepared posts in the order of their source."""
    return read_folder(_data_folder(folder), columns)


def posts_dataset(folder: str, columns: Sequence[str] | None = None) -> "ray.data.Dataset":
    """The same as a dataset that Ray streams."""
    import ray.data  # not above: everything else here works on a machine without Ray

    files, fs = parquet_files(_data_folder(folder))
    return ray.data.read_parquet(files, filesystem=fs, columns=None if columns is None else list(columns))


def posts_manifest(folder: str) -> dict[str, Any]:
    """The manifest of a folder of prepared posts; a UserError where it is none."""
    content = storage.manifest(folder)
    if content is None or content.get("kind") != "posts":
        raise UserError(f"{folder} is not a folder of prepared posts (no finished {storage.MANIFEST} of that kind).")
    return content


def _data_folder(folder: str) -> str:
    return storage.join(folder, posts_manifest(folder)["data"])
