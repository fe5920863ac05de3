"""The feature cache: each branch encodes each corpus once, and everything that trains reads from there."""

import tempfile
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch

from emo import storage
from emo.config import SPLITS, Targets
from emo.encode import Encode, TextVariant, count_cut, input_columns, map_posts, texts_of
from emo.encoders import Branch, EncoderSpec
from emo.encoders.pretrained import POOLING, PretrainedEncoder, resolve
from emo.encoders.tiny import build_tiny
from emo.labels import hard_targets
from emo.models import Projection
from emo.parts import gather
from emo.posts import posts_manifest, read_posts, target_shares, with_fold
from emo.prepare import plain_errors
from emo.tables import parquet_files, read_folder
from emo.train import TrainingData
from emo.work import Manifest, make_set

FORMAT = 2
"""Counts changes to what a set of features holds."""
TINY_ROWS = 5_000
"""A tiny checkpoint learns from at most this many posts."""


@dataclass(frozen=True)
class Features:
    """What one branch makes of a corpus, as it lies in the cache."""

    branch: Branch
    folder: str
    width: int
    projection: Projection | None
    reused: bool
    """Whether a former run had left them."""
    num_cut_texts: int = 0
    """Texts that were longer than the branch reads."""
    num_cut_captions: int = 0
    """Of these, those that lost words of their caption, which comes last."""


def embed(posts: str, branch: Branch, cache: str, *, text: TextVariant, refresh: bool = False) -> Features:
    """Encode every post of a prepared folder with a resolved branch, or find that a former run already did."""
    assert branch.revision, "resolve the branch first"
    key = features_key(posts, branch, text)
    folder = storage.join(cache, "features", key)

    with plain_errors(f"Features cannot be written to {folder}"):
        found, reused = make_set(
            folder, key, lambda work: _encode_posts(posts, branch, folder, work, text), refresh=refresh
        )
    return _features(branch, folder, found, reused)


def features_key(posts: str, branch: Branch, text: TextVariant) -> str:
    """The name of a feature set: it changes with the posts, the checkpoint, what is read of a post, and the pooling."""
    manifest = posts_manifest(posts)
    variant = text.key if branch.modality == "text" else None
    # a folder counts by what is in it, so that a moved checkpoint keeps its features
    checkpoint = [branch.family, branch.revision, branch.modality, POOLING[branch.family]]
    return storage.digest([FORMAT, manifest["fingerprint"], variant, checkpoint])


def _encode_posts(posts: str, branch: Branch, folder: str, work: str, text: TextVariant) -> Manifest:
    columns = ["post_id", *input_columns(branch.modality)]
    parts, data = storage.join(work, "parts"), storage.new_data_folder()
    num_posts = posts_manifest(posts)["num_posts"]
    map_posts(posts, parts, f"posts encoded ({branch.modality})", Encode, (branch, text), columns, num_posts)
    gather(parts, storage.join(folder, data), compression="none", use_dictionary=False)  # noise, to a compressor
    encoder = PretrainedEncoder(branch)
    if encoder.projection is not None:
        _write_projection(storage.join(folder, data, "projection.safetensors"), encoder.projection)
    is_text = branch.modality == "text"
    return (count_cut(storage.join(folder, data), text.read_captions()) if is_text else {}) | {
        "kind": "features",
        "data": data,
        "width": encoder.width,
        "has_projection": encoder.projection is not None,
        "family": branch.family,
        "checkpoint": branch.checkpoint,
        "revision": branch.revision,
        "modality": branch.modality,
    }


def _features(branch: Branch, folder: str, manifest: Manifest, reused: bool) -> Features:
    data = storage.join(folder, manifest["data"])
    projection = _read_projection(storage.join(data, "projection.safetensors")) if manifest["has_projection"] else None
    return Features(
        branch=branch,
        folder=data,
        width=manifest["width"],
        projection=projection,
        reused=reused,
        num_cut_texts=manifest.get("num_cut_texts", 0),
        num_cut_captions=manifest.get("num_cut_captions", 0),
    )


def _write_projection(uri: str, projection: Projection) -> None:
    from safetensors.numpy import save

    tensors = {"weight": projection.weight} | ({} if projection.bias is None else {"bias": projection.bias})
    storage.write_bytes(uri, save(tensors))


def _read_projection(uri: str) -> Projection:
    from safetensors.numpy import load

    tensors = load(storage.read_bytes(uri))
    return Projection(weight=tensors["weight"], bias=tensors.get("bias"))


def read_features(features: Features, post_ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) of the given posts in their order, zero where the modality is absent; (N,) where it is not."""
    result = np.zeros((len(post_ids), features.width), np.float32)
    present = np.zeros(len(post_ids), bool)
    if parquet_files(features.folder)[0]:
        table = read_folder(features.folder)
        row_of = {post_id: row for row, post_id in enumerate(post_ids)}
        rows = [row_of.get(post_id, -1) for post_id in table["post_id"].to_pylist()]
        known = np.array(rows) >= 0
        values = table["features"].combine_chunks().flatten().to_numpy().reshape(-1, features.width)
        result[np.array(rows)[known]] = values[known]
        present[np.array(rows)[known]] = True
    return result, present


@dataclass(frozen=True)
class EncodedPosts:
    """The labelled posts as one encoder sees them, split by split; arrays of one split share their order."""

    post_ids: dict[str, list[str]]
    packed: dict[str, np.ndarray]
    """(N, sum of widths + M) as FusionClassifier reads them."""
    targets: dict[str, np.ndarray]
    """(N, K): boolean, or int8 with -1 where nobody could give the label."""
    shares: dict[str, np.ndarray]
    """(N, K) float32: the share of annotators who chose each label, NaN where nobody could."""
    trains_on: Targets
    widths: dict[str, int]
    projections: dict[str, Projection | None]

    def for_training(self) -> TrainingData:
        """The same without test."""
        by_shares = self.trains_on in ("soft", "draw")
        return TrainingData(
            train_packed=self.packed["train"],
            train_targets=self.targets["train"],
            val_packed=self.packed["val"],
            val_targets=self.targets["val"],
            widths=self.widths,
            projections=self.projections,
            train_shares=self.shares["train"] if by_shares else None,
            val_shares=self.shares["val"] if by_shares else None,
            drawn=self.trains_on == "draw",
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
        packed={split: pack(branches, ids) for split, ids in post_ids.items()},
        targets={split: hard_targets(found, manifest["label_threshold"]) for split, found in shares.items()},
        shares=shares,
        trains_on=manifest["targets"],
        widths={features.branch.modality: features.width for features in branches},
        projections={features.branch.modality: features.projection for features in branches},
    )


def pack(branches: list[Features], post_ids: list[str]) -> np.ndarray:
    """Packed features (N, sum of widths + M), as FusionClassifier reads them."""
    read = [read_features(features, post_ids) for features in branches]
    present = np.stack([present for _, present in read], axis=1).astype(np.float32)
    return np.concatenate([features for features, _ in read] + [present], axis=1)


def resolve_encoders(
    specs: list[EncoderSpec], posts: str, cache: str, *, text: TextVariant, seed: int, fold: int | None = None
) -> list[EncoderSpec]:
    """The same encoders with every checkpoint at hand and its revision known; tiny ones are built from the posts."""
    build: Any = ray.remote(num_cpus=1, max_retries=0)(build_tiny_set)
    branches = {branch for spec in specs for branch in spec.branches}
    names = sorted({branch.checkpoint for branch in branches if branch.is_tiny})
    folders = ray.get([build.remote(name, posts, cache, text, seed, fold) for name in names])
    built = dict(zip(names, folders, strict=True))
    resolved = {b: resolve(replace(b, checkpoint=built.get(b.checkpoint, b.checkpoint))) for b in branches}
    return [replace(spec, branches=tuple(resolved[branch] for branch in spec.branches)) for spec in specs]


def build_tiny_set(name: str, posts: str, cache: str, text: TextVariant, seed: int, fold: int | None = None) -> str:
    """The folder of a tiny checkpoint; only posts of train and without labels are read: val and test stay unseen."""
    manifest = posts_manifest(posts)
    key = storage.digest([manifest["fingerprint"], text.key, seed, fold])
    folder = storage.join(cache, "encoders", f"{name}-{key}")

    def make(work: str) -> Manifest:
        torch.set_num_threads(1)
        splits = with_fold(read_posts(posts, ["post_id", "split", "fold"]), manifest, fold)
        free = splits.filter(pc.is_in(splits["split"], pa.array(["train", "unlabelled"])))
        chosen = free.sort_by("post_id")["post_id"][:TINY_ROWS].combine_chunks()
        table = read_posts(posts, ["post_id", "text", "image", "tags"], pc.field("post_id").isin(chosen))
        table = table.sort_by("post_id")
        found = {"kind": "encoder", "data": storage.new_data_folder(), "num_posts": table.num_rows}
        with tempfile.TemporaryDirectory() as built:
            build_tiny(name, texts_of(table, text.tags, text.read_captions()), table["image"].to_pylist(), built, seed)
            storage.put_folder(built, storage.join(folder, found["data"]))
        return found

    found, _ = make_set(folder, key, make)
    return storage.absolute(storage.join(folder, found["data"]))
