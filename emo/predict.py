"""A bundle over new posts, part by part: each actor holds the encoders and the classifier."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emo import storage
from emo.bundle import Bundle, load_model
from emo.encode import actor_device, map_posts
from emo.encoders.base import Encoder
from emo.evaluation import evaluate, worst_mistakes, write_evaluation
from emo.models import FeatureSpec
from emo.parts import gather
from emo.posts import read_posts
from emo.prepare import plain_errors
from emo.reading import TextVariant, encoder_inputs
from emo.rows import KEPT
from emo.tables import stream_folder
from emo.thresholds import decide
from emo.train import predict_probs
from emo.work import Manifest, make_set

DATA = "predictions"


class Predict:
    """Turns batches of prepared posts into probs and labels."""

    def __init__(self, bundle: Bundle, text: TextVariant) -> None:
        self.bundle, self.captions = bundle, text.read_captions()
        self.encoders, self.model = load_model(bundle, actor_device())

    def __call__(self, batch: pa.Table) -> pa.Table:
        packed = pack_batch(batch, self.encoders, self.bundle, self.captions)
        return prediction_table(batch, predict_probs(self.model, packed), self.bundle)


def pack_batch(
    batch: pa.Table, encoders: list[Encoder], bundle: Bundle, captions: Mapping[str, str] | None = None
) -> np.ndarray:
    """Packed features (B, sum of L * D + M) of prepared posts, zero where a post lacks a modality."""
    columns, present = [], np.zeros((batch.num_rows, len(encoders)), np.float32)
    for m, encoder in enumerate(encoders):
        modality, tags_mode = encoder.branch.modality, TextVariant(bundle.tags).of(encoder.branch).tags
        inputs = encoder_inputs(batch, modality, tags_mode, captions)
        rows = [i for i, value in enumerate(inputs) if value is not None]
        spec = bundle.specs.get(modality) or FeatureSpec(encoder.tower.width)
        features = np.zeros((batch.num_rows, spec.num_layers * spec.width), np.float32)
        if rows:
            features[rows] = encoder.encode([inputs[i] for i in rows], layers=spec.num_layers > 1)
            present[rows, m] = 1
        columns.append(features)
    return np.concatenate([*columns, present], axis=1)


def prediction_table(posts: pa.Table, probs: np.ndarray, bundle: Bundle) -> pa.Table:
    """``post_id``, ``labels`` (the names that reach their thresholds) and ``prob/<label>``, calibrated, for each label;
    then the posts' targets, where they have any, and the columns that they kept."""
    names = np.array(bundle.labels)
    decided = decide(probs, bundle.thresholds, single_label=bundle.head.single_label)
    labels = [names[row].tolist() for row in decided]
    table = pa.table({"post_id": posts["post_id"], "labels": pa.array(labels, pa.list_(pa.string()))})
    written = bundle.calibrator.apply(probs, bundle.head.single_label)
    for k, name in enumerate(bundle.labels):
        table = table.append_column(f"prob/{name}", pa.array(written[:, k]))
    for name in posts.column_names:
        if name == "targets" or name.startswith(KEPT):
            plain = name.removeprefix(KEPT)
            table = table.append_column(name if plain in table.column_names else plain, posts[name])
    return table


def predict(
    posts: str, prepared: Manifest, model: str, bundle: Bundle, output: str, captions: str | None = None
) -> Manifest:
    """Predict every post of a prepared folder into Parquet under ``output``; returns the manifest, written last.

    ``bundle`` is what lies at ``model``; ``captions`` is the folder of a set of their captions, for a model that reads
    any. Predictions that a killed process left unfinished there are gone on with.
    """
    is_labelled = bool(prepared["labels"])
    columns = ["post_id", "text", "image", "tags", *(["targets"] if is_labelled else []), *prepared["kept"]]
    key = storage.digest([prepared["fingerprint"], bundle.fingerprint])

    def make(work: str) -> Manifest:
        parts = storage.join(work, "parts")
        arguments = (bundle, TextVariant(bundle.tags, captions))
        rate = map_posts(posts, parts, "posts read", Predict, arguments, columns, prepared["num_posts"])
        gather(parts, storage.join(output, DATA))
        return {
            "kind": "predictions",
            "data": DATA,
            "model": model,
            "labels": list(bundle.labels),
            "num_read": prepared["num_read"],
            "num_predicted": prepared["num_posts"],
            "num_rejects": prepared["num_rejects"],
            "reject_reasons": prepared["reject_reasons"],
            "label_counts": label_counts(storage.join(output, DATA), bundle.labels),
            "posts_per_second": round(rate, 1),
        }

    with plain_errors(f"--output {output} cannot be written"):
        return make_set(output, key, make)[0]


def label_counts(folder: str, labels: tuple[str, ...]) -> dict[str, int]:
    """How often each label was predicted."""
    counted: Counter[str] = Counter()
    for batch in stream_folder(folder, ["labels"]):
        counts = pc.list_flatten(batch["labels"]).value_counts().to_pylist()
        counted.update({each["values"]: each["counts"] for each in counts})
    return {label: counted[label] for label in labels}


def judge(posts: str, prepared: Manifest, bundle: Bundle, output: str) -> dict[str, Any]:
    """Compare finished predictions with the labels that the posts carry, into files under ``output``."""
    data, share = storage.join(output, DATA), prepared["label_threshold"]
    evaluation = evaluate(data, bundle.labels, bundle.calibrated_thresholds, share)
    mistakes = worst_mistakes(data, bundle.labels, share)
    is_one = pc.field("post_id").isin([row["post_id"] for row in mistakes])
    content = read_posts(posts, ["post_id", "text", "tags", "image"], is_one).to_pylist()
    by_id = {row["post_id"]: row for row in content}
    write_evaluation(output, evaluation, [row | by_id[row["post_id"]] for row in mistakes])
    return evaluation
