"""A model on disk: everything that turns a post into labels, with no pickle in it.

``bundle.json`` names labels, thresholds, what calibrates probs, configuration and encoders; ``model.safetensors`` holds
the classifier, with the adapters of encoders that have any, or with encoders that were trained whole; ``encoders/``
holds copies of checkpoints that came from a folder, and the configurations of those trained whole. Other checkpoints
are named by their commit on the hub, and fetched again where they are needed.
"""

import hashlib
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load

from emo import __version__, calibration, storage
from emo.calibration import RAW, Calibrator
from emo.config import (
    TRAINS_ENCODERS,
    HeadConfig,
    LoraConfig,
    PrepareConfig,
    TrainingConfig,
    UserError,
    from_dict,
    to_dict,
)
from emo.encoders import Branch
from emo.encoders.base import Encoder
from emo.encoders.load import load_encoder, save_untrained
from emo.finetune import assemble, load_trained
from emo.models import FeatureSpec, FusionClassifier, Projection
from emo.train import build_model

FORMAT = 4
"""Grows when an older emo could no longer read a bundle rightly."""

WEIGHTS = "model.safetensors"
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
    specs: dict[str, FeatureSpec]
    """What the features of each modality are; in a bundle that was read, a projection has its shape only. Empty where
    the encoders were trained, too."""
    lora: LoraConfig
    """The adapters of encoders that have any."""
    prepare: PrepareConfig
    tags: str
    captions: dict[str, Any] | None
    """The captioner whose captions the text branches read, and how it is asked."""
    about: dict[str, Any]
    """Where the model comes from: encoder, trial, its figures."""
    weights: str
    """Where the weights lie, in safetensors."""
    calibrator: Calibrator = RAW
    """What is done to the probs that are written; labels are decided before."""
    fingerprint: str = ""
    """Of its weights and everything else that was saved."""

    @property
    def calibrated_thresholds(self) -> np.ndarray:
        """(K,), for who compares the probs that are written."""
        return self.calibrator.thresholds(self.thresholds, self.head.single_label)


def save_bundle(folder: str, bundle: Bundle) -> None:
    """Write a bundle; ``bundle.json`` comes last, so that a half-written one is not read."""
    branches = tuple(_carried(folder, branch, bundle.head) for branch in bundle.branches)
    storage.write_bytes(storage.join(folder, WEIGHTS), storage.read_bytes(bundle.weights))
    content = {
        "format": FORMAT,
        "emo": __version__,
        "labels": list(bundle.labels),
        "thresholds": dict(zip(bundle.labels, bundle.thresholds.tolist(), strict=True)),
        "probabilities": calibration.to_json(bundle.calibrator),
        "calibrated_thresholds": dict(zip(bundle.labels, bundle.calibrated_thresholds.tolist(), strict=True)),
        "head": to_dict(bundle.head),
        "branches": [asdict(branch) for branch in branches],
        "widths": {name: spec.width for name, spec in bundle.specs.items()},
        "projection_shapes": {name: _shape(spec.projection) for name, spec in bundle.specs.items()},
        "num_layers": {name: spec.num_layers for name, spec in bundle.specs.items()},
        "lora": to_dict(bundle.lora),
        "prepare": to_dict(bundle.prepare),
        "tags": bundle.tags,
        "captions": bundle.captions,
        "about": bundle.about,
    }
    storage.write_json(storage.join(folder, "bundle.json"), content)


def _carried(folder: str, branch: Branch, head: HeadConfig) -> Branch:
    """The branch as the bundle names it, after its configuration, if it was trained whole, or else a copy of its
    checkpoint, if that came from a folder, was put there."""
    place = f"encoders/{branch.family}-{branch.revision}"
    if head.mode == "full" and branch.remote_code is None:
        with tempfile.TemporaryDirectory() as made:
            save_untrained(branch, made)
            storage.put_folder(made, storage.join(folder, place))
    elif storage.is_remote(branch.checkpoint) or Path(branch.checkpoint).is_dir():
        suffixes = CARRIED if branch.remote_code is None else (*CARRIED, ".py")
        storage.put_folder(storage.local_copy(branch.checkpoint), storage.join(folder, place), suffixes)
    else:
        return branch
    return replace(branch, checkpoint=place)


def load_bundle(folder: str, *, trust_remote_code: bool = False) -> Bundle:
    """The bundle that lies in a folder; a UserError where none does, or one of a newer emo.

    Code that came with an encoder runs only if it is trusted anew.
    """
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
    weights = storage.join(folder, WEIGHTS)
    return Bundle(
        labels=labels,
        thresholds=np.array([content["thresholds"][label] for label in labels]),
        head=from_dict(HeadConfig, content["head"]),
        branches=tuple(_located(folder, Branch(**values), trust_remote_code) for values in content["branches"]),
        specs=_specs(content),
        lora=from_dict(LoraConfig, content.get("lora", {})),
        prepare=from_dict(PrepareConfig, content["prepare"]),
        tags=content["tags"],
        captions=content.get("captions"),
        about=content["about"],
        weights=weights,
        calibrator=calibration.from_json(content["probabilities"]) if "probabilities" in content else RAW,
        fingerprint=storage.digest([content, hashlib.sha256(storage.read_bytes(weights)).hexdigest()]),
    )


def load_model(bundle: Bundle, device: str = "cpu") -> tuple[list[Encoder], FusionClassifier]:
    """The bundle's encoders on a device, and its classifier on the CPU, ready to predict."""
    head = bundle.head
    if head.mode in TRAINS_ENCODERS:
        training = TrainingConfig(lora=bundle.lora)
        encoders, model = assemble(
            bundle.branches, len(bundle.labels), head, training, device, with_weights=head.mode != "full"
        )
        load_trained(model, load(storage.read_bytes(bundle.weights)), head.mode)
        model.eval()
        return encoders, model.classifier.cpu()
    return [load_encoder(branch, device) for branch in bundle.branches], load_classifier(bundle)


def load_classifier(bundle: Bundle) -> FusionClassifier:
    """The classifier of a bundle whose encoders stayed as they were."""
    classifier = build_model(bundle.specs, len(bundle.labels), bundle.head)
    classifier.load_state_dict(load(storage.read_bytes(bundle.weights)))
    return classifier.eval()


def _shape(projection: Projection | None) -> tuple[tuple[int, ...], bool] | None:
    """(out, in) and whether there is a bias."""
    return None if projection is None else (projection.weight.shape, projection.bias is not None)


def _specs(content: dict[str, Any]) -> dict[str, FeatureSpec]:
    num_layers = content.get("num_layers", {})  # an older emo had the last layer only
    shapes = content["projection_shapes"]
    return {
        name: FeatureSpec(width, shapes[name] and _zeros(*shapes[name]), num_layers.get(name, 1))
        for name, width in content["widths"].items()
    }


def _zeros(shape: list[int], has_bias: bool) -> Projection:
    return Projection(weight=np.zeros(shape, np.float32), bias=np.zeros(shape[0], np.float32) if has_bias else None)


def _located(folder: str, branch: Branch, trust_remote_code: bool) -> Branch:
    """The branch with the place of a checkpoint that the bundle carries, and its code only where that is trusted."""
    if not trust_remote_code:
        branch = replace(branch, remote_code=None)
    if not branch.checkpoint.startswith("encoders/"):
        return branch
    return replace(branch, checkpoint=storage.absolute(storage.join(folder, branch.checkpoint)))
