"""A model on disk: everything that turns a post into labels, with no pickle in it.

``bundle.json`` names labels, thresholds, configuration and encoders; ``model.safetensors`` holds the classifier;
``encoders/`` holds copies of checkpoints that came from a folder. Those that came from the hub are named by their
commit, and fetched again where they are needed.
"""

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load

from emo import __version__, storage
from emo.config import HeadConfig, PrepareConfig, UserError, from_dict, to_dict
from emo.encoders import Branch
from emo.models import FusionClassifier, Projection
from emo.train import build_model

FORMAT = 2
"""Grows when an older emo could no longer read a bundle rightly."""

CARRIED = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""The files of a checkpoint that a bundle copies: weights, configuration, tokenizer."""


@dataclass(frozen=True)
class Bundle:
    """A classifier and what it needs to read posts as it did in training."""

    labels: tuple[str, ...]
    thresholds: np.ndarray
    """(K,)"""
    head: HeadConfig
    branches: tuple[Branch, ...]
    widths: dict[str, int]
    projection_shapes: dict[str, tuple[tuple[int, int], bool] | None]
    """Modality -> (out, in) and whether there is a bias; None without a projection."""
    prepare: PrepareConfig
    tags: str
    captions: dict[str, Any] | None
    """The captioner whose captions the text branches read, and how it is asked."""
    about: dict[str, Any]
    """Where the model comes from: encoder, trial, its figures."""
    fingerprint: str = ""
    """Of its weights and everything else that was saved."""


def projection_shapes(projections: dict[str, Projection | None]) -> dict[str, tuple[tuple[int, int], bool] | None]:
    return {
        name: None if p is None else ((p.weight.shape[0], p.weight.shape[1]), p.bias is not None)
        for name, p in projections.items()
    }


def save_bundle(folder: str, bundle: Bundle, weights: bytes) -> None:
    """Write a bundle; ``bundle.json`` comes last, so that a half-written one is not read."""
    local = [b for b in bundle.branches if storage.is_remote(b.checkpoint) or Path(b.checkpoint).is_dir()]
    for branch in {branch.checkpoint: branch for branch in local}.values():
        copy = storage.local_copy(branch.checkpoint)
        storage.put_folder(copy, storage.join(folder, _place(branch)), CARRIED)
    branches = [replace(b, checkpoint=_place(b)) if b in local else b for b in bundle.branches]
    storage.write_bytes(storage.join(folder, "model.safetensors"), weights)
    content = {
        "format": FORMAT,
        "emo": __version__,
        "labels": list(bundle.labels),
        "thresholds": dict(zip(bundle.labels, bundle.thresholds.tolist(), strict=True)),
        "head": to_dict(bundle.head),
        "branches": [asdict(branch) for branch in branches],
        "widths": bundle.widths,
        "projection_shapes": bundle.projection_shapes,
        "prepare": to_dict(bundle.prepare),
        "tags": bundle.tags,
        "captions": bundle.captions,
        "about": bundle.about,
    }
    storage.write_json(storage.join(folder, "bundle.json"), content)


def _place(branch: Branch) -> str:
    """Where in the bundle the copy of a checkpoint lies."""
    return f"encoders/{branch.family}-{branch.revision}"


def load_bundle(folder: str) -> tuple[Bundle, FusionClassifier]:
    """The bundle and its classifier, ready to predict."""
    uri = storage.join(folder, "bundle.json")
    if not folder or not storage.exists(uri):
        raise UserError(
            f"--model {folder or '(nothing)'} holds no bundle.json; name the model/ folder of a finished run."
        )
    content = storage.read_json(uri)
    if content["format"] > FORMAT:
        raise UserError(
            f"--model {folder} was written by a newer emo ({content['emo']}; this is {__version__}); update emo."
        )
    labels = tuple(content["labels"])
    weights = storage.read_bytes(storage.join(folder, "model.safetensors"))
    bundle = Bundle(
        labels=labels,
        thresholds=np.array([content["thresholds"][label] for label in labels]),
        head=from_dict(HeadConfig, content["head"]),
        branches=tuple(_located(folder, Branch(**values)) for values in content["branches"]),
        widths=content["widths"],
        projection_shapes=content["projection_shapes"],
        prepare=from_dict(PrepareConfig, content["prepare"]),
        tags=content["tags"],
        captions=content.get("captions"),
        about=content["about"],
        fingerprint=storage.digest([content, hashlib.sha256(weights).hexdigest()]),
    )
    model = empty_model(bundle)
    model.load_state_dict(load(weights))
    return bundle, model.eval()


def empty_model(bundle: Bundle) -> FusionClassifier:
    """A classifier of the bundle's shape, whose weights are still to be loaded."""
    projections = {name: None if s is None else _zeros(*s) for name, s in bundle.projection_shapes.items()}
    return build_model(bundle.widths, projections, len(bundle.labels), bundle.head)


def _zeros(shape: tuple[int, int], has_bias: bool) -> Projection:
    return Projection(weight=np.zeros(shape, np.float32), bias=np.zeros(shape[0], np.float32) if has_bias else None)


def _located(folder: str, branch: Branch) -> Branch:
    """The branch with the place of a checkpoint that the bundle carries."""
    if not branch.checkpoint.startswith("encoders/"):
        return branch
    return replace(branch, checkpoint=storage.absolute(storage.join(folder, branch.checkpoint)))
