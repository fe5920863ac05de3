"""The Ray Data actors that hold encoders, and what encoders read of a post.

Apart from :mod:`emo.features` so that an actor starts without the libraries that only training needs.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from emo.encoders import Branch
from emo.encoders.pretrained import PretrainedEncoder

ROWS_PER_TASK = 256
ROWS_PER_ACTOR = 2048
"""An actor takes seconds to start, in which another encodes about this many small posts."""
BATCH_SIZE = 64


def text_for_encoder(text: str | None, tags: list[str] | None, tags_mode: str) -> str | None:
    """What a text branch reads of a post: its text, then its tags where they are appended; None without either."""
    words = [text] if text else []
    if tags_mode == "append" and tags:
        words += tags
    return " ".join(words) or None


def texts_of(table: pa.Table, tags_mode: str) -> list[str | None]:
    """:func:`text_for_encoder` of every row of a table with ``text`` and ``tags``."""
    rows = zip(table["text"].to_pylist(), table["tags"].to_pylist(), strict=True)
    return [text_for_encoder(text, tags, tags_mode) for text, tags in rows]


def encoder_inputs(table: pa.Table, modality: str, tags_mode: str) -> list[Any]:
    """What a branch reads of every row (a text, image bytes, or None where the post lacks it)."""
    return texts_of(table, tags_mode) if modality == "text" else table["image"].to_pylist()


def input_columns(modality: str) -> list[str]:
    return ["text", "tags"] if modality == "text" else ["image"]


def actor_device() -> str:
    """The GPU that an actor was given, or one core: actors share the machine by cores, not by threads."""
    torch.set_num_threads(1)
    return "cuda" if torch.cuda.is_available() else "cpu"


class Encode:
    """The Ray Data actor that holds one branch and encodes batches of posts; posts without its modality fall away."""

    def __init__(self, branch: Branch, tags_mode: str) -> None:
        self.encoder = PretrainedEncoder(branch, actor_device())
        self.tags_mode = tags_mode

    def __call__(self, batch: pa.Table) -> pa.Table:
        inputs = encoder_inputs(batch, self.encoder.modality, self.tags_mode)
        rows = [i for i, value in enumerate(inputs) if value is not None]
        features = (
            self.encoder.encode([inputs[i] for i in rows]) if rows else np.empty((0, self.encoder.width), np.float32)
        )
        column = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
        return pa.table({"post_id": batch["post_id"].take(pa.array(rows, pa.int64())), "features": column})


def map_with_actors(
    dataset: ray.data.Dataset, num_posts: int, actor: type, arguments: tuple[Any, ...]
) -> ray.data.Dataset:
    """Pass posts in Arrow batches through actors that hold encoders: one on every GPU, or else on every core, as far
    as there are posts enough to be worth an actor's start.

    Without GPUs an actor reserves half of a core, since reading and writing must find room beside actors that
    would hold every core.
    """
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    reserved: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 0.5}
    return dataset.repartition(target_num_rows_per_block=ROWS_PER_TASK).map_batches(
        actor,
        fn_constructor_args=arguments,
        batch_format="pyarrow",
        batch_size=BATCH_SIZE,
        compute=ray.data.ActorPoolStrategy(size=min(gpus or max(1, cpus), -(-num_posts // ROWS_PER_ACTOR))),
        **reserved,
    )
