"""The labelled posts as one encoder sees them: its cached features and the posts' targets, split by split."""

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from emo.config import SPLITS, Targets
from emo.features import Features
from emo.labels import hard_targets
from emo.models import FeatureSpec
from emo.posts import posts_manifest, read_posts, target_shares, with_fold
from emo.tables import parquet_files, read_folder
from emo.train import TrainingData

NO_FEATURES = np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class EncodedPosts:
    """The labelled posts as one encoder sees them, split by split; arrays of one split share their order."""

    post_ids: dict[str, list[str]]
    packed: dict[str, np.ndarray]
    """(N, sum of widths + M) as FusionClassifier reads them; none where the encoders are trained, too."""
    targets: dict[str, np.ndarray]
    """(N, K): boolean, or int8 with -1 where nobody could give the label."""
    shares: dict[str, np.ndarray]
    """(N, K) float32: the share of annotators who chose each label, NaN where nobody could."""
    trains_on: Targets
    specs: dict[str, FeatureSpec]
    """What the features of each modality are, in the order in which they are packed."""

    def for_training(self) -> TrainingData:
        """The same without test."""
        return TrainingData(
            train_packed=self.packed.get("train", NO_FEATURES),
            train_targets=self.targets["train"],
            val_packed=self.packed.get("val", NO_FEATURES),
            val_targets=self.targets["val"],
            specs=self.specs,
            train_shares=self.shares["train"],
            val_shares=self.shares["val"],
            trains_on=self.trains_on,
        )


def encoded_posts(posts: str, branches: list[Features], fold: int | None = None) -> EncodedPosts:
    """Features and targets of a prepared corpus, in the order of the post ids; with ``fold``, split by its folds."""
    manifest = posts_manifest(posts)
    table = with_fold(read_posts(posts, ["post_id", "targets", "split", "fold"]), manifest, fold).sort_by("post_id")
    tables = {split: table.filter(pc.equal(table["split"], split)) for split in SPLITS}
    post_ids = {split: part["post_id"].to_pylist() for split, part in tables.items()}
    shares = {split: target_shares(part) for split, part in tables.items()}
    return EncodedPosts(
        post_ids=post_ids,
        packed={split: pack(branches, ids) for split, ids in post_ids.items()} if branches else {},
        targets={split: hard_targets(found, manifest["label_threshold"]) for split, found in shares.items()},
        shares=shares,
        trains_on=manifest["targets"],
        specs={f.branch.modality: FeatureSpec(f.width, f.projection, f.num_layers) for f in branches},
    )


def pack(branches: list[Features], post_ids: list[str]) -> np.ndarray:
    """Packed features (N, sum of widths + M), as FusionClassifier reads them; float16 where they are of all layers."""
    read = [read_features(features, post_ids) for features in branches]
    present = np.stack([present for _, present in read], axis=1).astype(read[0][0].dtype)
    return np.concatenate([features for features, _ in read] + [present], axis=1)


def read_features(features: Features, post_ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, L * D) of the given posts in their order, zero where the modality is absent; (N,) where it is not.

    They are float32, or float16 where there are several layers.
    """
    width = features.num_layers * features.width
    result = np.zeros((len(post_ids), width), np.float16 if features.num_layers > 1 else np.float32)
    present = np.zeros(len(post_ids), bool)
    if parquet_files(features.folder)[0]:
        table = read_folder(features.folder)
        row_of = {post_id: row for row, post_id in enumerate(post_ids)}
        rows = [row_of.get(post_id, -1) for post_id in table["post_id"].to_pylist()]
        known = np.array(rows) >= 0
        values = table["features"].combine_chunks().flatten().to_numpy().reshape(-1, width)
        result[np.array(rows)[known]] = values[known]
        present[np.array(rows)[known]] = True
    return result, present
