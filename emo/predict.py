"""A bundle over new posts, streamed: each actor holds the encoders and the classifier."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emo import storage
from emo.bundle import Bundle, load_bundle
from emo.config import UserError
from emo.encode import actor_device, encoder_inputs, map_with_actors
from emo.encoders.pretrained import PretrainedEncoder
from emo.errors import sentence
from emo.posts import posts_dataset, posts_manifest
from emo.tables import read_folder
from emo.thresholds import decide
from emo.train import predict_probs


class Predict:
    """The Ray Data actor that turns batches of prepared posts into probs and labels."""

    def __init__(self, model: str) -> None:
        device = actor_device()
        self.bundle, self.model = load_bundle(model)
        self.encoders = [PretrainedEncoder(branch, device) for branch in self.bundle.branches]

    def __call__(self, batch: pa.Table) -> pa.Table:
        packed = pack_batch(batch, self.encoders, self.bundle)
        return prediction_table(batch["post_id"], predict_probs(self.model, packed), self.bundle)


def pack_batch(batch: pa.Table, encoders: list[PretrainedEncoder], bundle: Bundle) -> np.ndarray:
    """Packed features (B, sum of widths + M) of prepared posts, zero where a post lacks a modality."""
    columns, present = [], np.zeros((batch.num_rows, len(encoders)), np.float32)
    for m, encoder in enumerate(encoders):
        inputs = encoder_inputs(batch, encoder.modality, bundle.tags)
        rows = [i for i, value in enumerate(inputs) if value is not None]
        features = np.zeros((batch.num_rows, bundle.widths[encoder.modality]), np.float32)
        if rows:
            features[rows] = encoder.encode([inputs[i] for i in rows])
            present[rows, m] = 1
        columns.append(features)
    return np.concatenate([*columns, present], axis=1)


def prediction_table(post_ids: pa.ChunkedArray, probs: np.ndarray, bundle: Bundle) -> pa.Table:
    """``post_id``, ``labels`` (the names that reach their thresholds), and ``prob/<label>`` for each label."""
    names = np.array(bundle.labels)
    labels = [names[row].tolist() for row in decide(probs, bundle.thresholds)]
    columns: dict[str, Any] = {"post_id": post_ids, "labels": pa.array(labels, pa.list_(pa.string()))}
    return pa.table(columns | {f"prob/{name}": probs[:, k] for k, name in enumerate(bundle.labels)})


def predict(posts: str, model: str, output: str) -> dict[str, Any]:
    """Predict every post of a prepared folder into Parquet under ``output``; returns the manifest, written last."""
    bundle, _ = load_bundle(model)
    prepared = posts_manifest(posts)
    data = "predictions"
    fs, path = storage.filesystem(storage.join(output, data))
    try:
        dataset = posts_dataset(posts, ["post_id", "text", "image", "tags"])
        map_with_actors(dataset, prepared["num_posts"], Predict, (model,)).write_parquet(path, filesystem=fs)
    except Exception as error:
        if said := sentence(error, f"--output {output} cannot be written"):
            raise UserError(said) from None
        raise
    content = {
        "kind": "predictions",
        "data": data,
        "model": model,
        "labels": list(bundle.labels),
        "num_read": prepared["num_read"],
        "num_predicted": prepared["num_posts"],
        "num_rejects": prepared["num_rejects"],
        "reject_reasons": prepared["reject_reasons"],
        "label_counts": label_counts(storage.join(output, data), bundle.labels),
    }
    storage.finish(output, content)
    return content


def label_counts(folder: str, labels: tuple[str, ...]) -> dict[str, int]:
    """How often each label was predicted."""
    column = read_folder(folder, ["labels"])["labels"]
    counted = {row["values"]: row["counts"] for row in pc.value_counts(pc.list_flatten(column)).to_pylist()}
    return {label: counted.get(label, 0) for label in labels}
