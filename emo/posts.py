"""Prepared posts: their schema, and reading them at once or as a stream."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs

from emo import storage
from emo.config import UserError

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
    uri = _data_folder(folder)
    fs, path = storage.filesystem(uri)
    arrow_fs = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))
    dataset = pyarrow.dataset.dataset(sorted(fs.glob(f"{path}/*.parquet")), format="parquet", filesystem=arrow_fs)
    return dataset.to_table(columns=None if columns is None else list(columns))


def posts_dataset(folder: str, columns: Sequence[str] | None = None) -> "ray.data.Dataset":
    """The same as a dataset that Ray streams."""
    import ray.data  # not above: everything else here works on a machine without Ray

    uri = _data_folder(folder)
    fs, path = storage.filesystem(uri)
    arrow_fs = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))
    paths = sorted(fs.glob(f"{path}/*.parquet"))
    return ray.data.read_parquet(paths, filesystem=arrow_fs, columns=None if columns is None else list(columns))


def _data_folder(folder: str) -> str:
    content = storage.manifest(folder)
    if content is None or content.get("kind") != "posts":
        raise UserError(f"{folder} is not a folder of prepared posts (no finished {storage.MANIFEST} of that kind).")
    return storage.join(folder, content["data"])
