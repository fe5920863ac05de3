"""The kept trials of a sweep as models, and what they make of every labelled post."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emo import storage
from emo.bundle import Bundle, load_classifier
from emo.captions import asked_for
from emo.config import SPLITS, HeadConfig, PrepareConfig, SweepConfig, from_dict
from emo.encode import map_posts
from emo.encoded import EncodedPosts
from emo.encoders import EncoderSpec
from emo.pipeline import Posts
from emo.predict import Predict
from emo.sweep import fixed_choices
from emo.tables import read_folder, write_table
from emo.thresholds import fixed
from emo.train import predict_probs
from emo.trial import chosen, weights_uri, with_weights
from emo.trials import ranked


def head_config(trial: dict[str, Any], config: SweepConfig) -> HeadConfig:
    return dataclasses.replace(fixed_choices(config), **chosen(trial))


def kept_trials(run: str, trials: list[dict[str, Any]], encoder: str, top: int) -> list[dict[str, Any]]:
    """An encoder's best finished trials whose weights the run has, the best on val first."""
    kept = with_weights(run)
    return [row for row in ranked(trials, encoder) if row["trial_id"] in kept][:top]


def bundle_of(
    run: str, config: SweepConfig, trial: dict[str, Any], spec: EncoderSpec, data: EncodedPosts, posts: Posts
) -> Bundle:
    """A trial's model, with thresholds of one half."""
    captions = None if posts.text.captions is None else storage.manifest(posts.text.captions)
    labels = tuple(posts.manifest["labels"])
    return Bundle(
        labels=labels,
        thresholds=fixed(len(labels)),
        head=head_config(trial, config),
        branches=spec.branches,
        specs=data.specs,
        lora=config.training.lora,
        prepare=from_dict(PrepareConfig, posts.manifest["config"]),
        tags=posts.text.tags,
        captions=captions and asked_for(captions),
        about={},
        weights=weights_uri(run, trial["trial_id"]),
    )


def probs_from_features(bundle: Bundle, data: EncodedPosts) -> dict[str, np.ndarray]:
    """Probs (N, K) of a trial's classifier for every split, from cached features."""
    model = load_classifier(bundle)
    return {split: predict_probs(model, data.packed[split]) for split in SPLITS}


class Score(Predict):
    """Probs and labels of the posts that carry labels; others are not read."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        return super().__call__(batch.filter(pc.not_equal(batch["split"], "unlabelled")))


def probs_from_posts(parts: str, bundle: Bundle, data: EncodedPosts, posts: Posts) -> dict[str, np.ndarray]:
    """The same of a model whose encoders were trained: all posts pass through it, into ``parts`` and on every device of
    the cluster; parts that are there already are not made again."""
    columns, num_posts = ["post_id", "text", "image", "tags", "split"], posts.manifest["num_posts"]
    map_posts(posts.folder, parts, "posts scored", Score, (bundle, posts.text), columns, num_posts)
    table = read_folder(parts)
    row_of = {post_id: row for row, post_id in enumerate(table["post_id"].to_pylist())}
    probs = np.stack([table[f"prob/{label}"].to_numpy() for label in bundle.labels], axis=1)
    return {split: probs[[row_of[post_id] for post_id in ids]] for split, ids in data.post_ids.items()}


def write_predictions(run: str, trial_id: str, data: EncodedPosts, probs: dict[str, np.ndarray]) -> None:
    """``predictions/<trial id>.parquet``: targets and probs of every labelled post."""
    parts = [
        pa.table(
            {
                "post_id": data.post_ids[split],
                "split": [split] * len(data.post_ids[split]),
                "targets": list(data.targets[split].astype(np.float32)),
                "probs": list(probs[split]),
            }
        )
        for split in SPLITS
    ]
    write_table(storage.join(run, "predictions", f"{trial_id}.parquet"), pa.concat_tables(parts))
