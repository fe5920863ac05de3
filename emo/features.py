"""The feature cache: each branch encodes each corpus once, and everything that trains reads from there."""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch

from emo import storage
from emo.encode import Encode, map_posts
from emo.encoders import FAMILIES, SCRATCH, Branch, EncoderSpec
from emo.encoders.hub import resolve
from emo.encoders.load import load_encoder
from emo.encoders.scratch import build_scratch
from emo.models import Projection
from emo.monitoring import count
from emo.parts import gather
from emo.posts import data_folder, posts_manifest, read_posts, with_fold
from emo.prepare import plain_errors
from emo.reading import Cut, TextVariant, count_cut, encoder_inputs, input_columns, texts_of
from emo.tables import stream_folder
from emo.work import Manifest, make_set

NOTHING_CUT = Cut()
FORMAT = 4
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
    cut: Cut = NOTHING_CUT
    """What was longer than the branch reads."""
    num_layers: int = 1
    """Layers that stand side by side, (L * D), for --mode layer-mix."""


def embed(
    posts: str, branch: Branch, cache: str, *, text: TextVariant, layers: bool = False, refresh: bool = False
) -> Features:
    """Encode every post of a prepared folder with a resolved branch, by its last layer or by all of its ``layers``, or
    find that a former run already did."""
    assert branch.revision, "resolve the branch first"
    key = features_key(posts, branch, text, layers=layers)
    folder = storage.join(cache, "features", key)

    with plain_errors(f"Features cannot be written to {folder}"):
        found, reused = make_set(
            folder, key, lambda work: _encode_posts(posts, branch, folder, work, text, layers), refresh=refresh
        )
    return _features(branch, folder, found, reused)


def features_key(posts: str, branch: Branch, text: TextVariant, *, layers: bool = False) -> str:
    """The name of a feature set: it changes with the posts, the checkpoint, what is read of a post, and the layers."""
    manifest = posts_manifest(posts)
    variant = text.of(branch).key if branch.modality == "text" else None
    # a folder counts by what is in it, so that a moved checkpoint keeps its features
    checkpoint = [branch.family, branch.revision, branch.remote_code, branch.modality]
    return storage.digest([FORMAT, manifest["fingerprint"], variant, checkpoint, layers])


def _encode_posts(posts: str, branch: Branch, folder: str, work: str, text: TextVariant, layers: bool) -> Manifest:
    columns = ["post_id", *input_columns(branch.modality)]
    parts, data = storage.join(work, "parts"), storage.new_data_folder()
    num_posts = posts_manifest(posts)["num_posts"]
    what, arguments = f"posts encoded ({branch.family}, {branch.modality})", (branch, text, layers)
    done = partial(count, "emo_posts_embedded_total", checkpoint=branch.checkpoint, modality=branch.modality)
    map_posts(posts, parts, what, Encode, arguments, columns, num_posts, done=done)
    gather(parts, storage.join(folder, data), compression="none", use_dictionary=False)  # noise, to a compressor
    encoder = load_encoder(branch)
    if encoder.projection is not None:
        _write_projection(storage.join(folder, data, "projection.safetensors"), encoder.projection)
    captions = text.read_captions() if branch.modality == "text" else None
    cut = NOTHING_CUT if branch.modality == "image" else count_cut(storage.join(folder, data), captions)
    return {
        "kind": "features",
        "cut": asdict(cut),
        "data": data,
        "width": encoder.tower.width,
        "num_layers": encoder.tower.num_layers if layers else 1,
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
        cut=Cut(**manifest["cut"]),
        num_layers=manifest["num_layers"],
    )


def _write_projection(uri: str, projection: Projection) -> None:
    from safetensors.numpy import save

    tensors = {"weight": projection.weight} | ({} if projection.bias is None else {"bias": projection.bias})
    storage.write_bytes(uri, save(tensors))


def _read_projection(uri: str) -> Projection:
    from safetensors.numpy import load

    tensors = load(storage.read_bytes(uri))
    return Projection(weight=tensors["weight"], bias=tensors.get("bias"))


def resolve_encoders(
    specs: list[EncoderSpec], posts: str, cache: str, *, text: TextVariant, seed: int, fold: int | None = None
) -> list[EncoderSpec]:
    """The same encoders with every checkpoint at hand and its revision known; what is made of the posts is built."""
    build: Any = ray.remote(num_cpus=1, max_retries=0)(build_set)
    branches = {branch for spec in specs for branch in spec.branches}
    wanted = list(dict.fromkeys(_made_from(branch, text) for branch in branches if branch.is_built))
    folders = ray.get([build.remote(name, posts, cache, variant, seed, fold) for name, variant in wanted])
    built = dict(zip(wanted, folders, strict=True))
    resolved = {
        branch: resolve(replace(branch, checkpoint=built.get(_made_from(branch, text), branch.checkpoint)))
        for branch in branches
    }
    return [replace(spec, branches=tuple(resolved[branch] for branch in spec.branches)) for spec in specs]


def _made_from(branch: Branch, text: TextVariant) -> tuple[str, TextVariant]:
    """What a built set depends on: its name, and what is read of a post. All branches of a tiny checkpoint share it."""
    return branch.checkpoint, text.of(branch) if branch.family in SCRATCH else text


def build_set(name: str, posts: str, cache: str, text: TextVariant, seed: int, fold: int | None = None) -> str:
    """The folder of a tiny checkpoint, or of what an encoder from scratch needs before training; posts of val and test
    stay unseen."""
    manifest = posts_manifest(posts)
    key = storage.digest([FORMAT, manifest["fingerprint"], text.key, seed, fold])
    folder = storage.join(cache, "encoders", f"{name}-{key}")

    def make(work: str) -> Manifest:
        torch.set_num_threads(1)
        found = {"kind": "encoder", "data": storage.new_data_folder()}
        with tempfile.TemporaryDirectory() as built:
            if name in SCRATCH:
                build_scratch(name, _train_values(FAMILIES[name][0], posts, manifest, text, fold), built)
            else:
                _build_tiny(name, posts, manifest, text, seed, fold, built)
            storage.put_folder(built, storage.join(folder, found["data"]))
        return found

    found, _ = make_set(folder, key, make)
    return storage.absolute(storage.join(folder, found["data"]))


def _build_tiny(
    name: str, posts: str, manifest: Manifest, text: TextVariant, seed: int, fold: int | None, folder: str
) -> None:
    """Pretrain a tiny checkpoint on some posts of train and without labels."""
    splits = with_fold(read_posts(posts, ["post_id", "split", "fold"]), manifest, fold)
    free = splits.filter(pc.is_in(splits["split"], pa.array(["train", "unlabelled"])))
    chosen = free.sort_by("post_id")["post_id"][:TINY_ROWS].combine_chunks()
    table = read_posts(posts, ["post_id", "text", "image", "tags"], pc.field("post_id").isin(chosen))
    table = table.sort_by("post_id")
    texts = texts_of(table, text.tags, text.read_captions())
    from emo.encoders.tiny import build_tiny  # brings transformers along, for which --help should not wait

    build_tiny(name, texts, table["image"].to_pylist(), folder, seed)


def _train_values(
    modality: str, posts: str, manifest: Manifest, text: TextVariant, fold: int | None
) -> Iterator[str | list[str] | None]:
    """The texts, or lists of tags, of all posts of train; images are not read, since nothing is learnt of them."""
    if modality == "image":
        return
    captions = text.read_captions()
    for batch in stream_folder(data_folder(posts), ["post_id", "text", "tags", "split", "fold"]):
        table = with_fold(pa.Table.from_batches([batch]), manifest, fold)
        train = table.filter(pc.equal(table["split"], "train"))
        yield from encoder_inputs(train, modality, text.tags, captions)
