"""Thresholds and probabilities of the kept models of a sweep, one Ray task a model; the only place where test targets
are read."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
import torch

from emo import calibration, storage
from emo.bundle import Bundle
from emo.calibration import Calibrator, fit_calibrator
from emo.config import SPLITS, TRAINS_ENCODERS, Probabilities, SweepConfig
from emo.console import Progress
from emo.cross_fit import held_out_probs, train_folds
from emo.encoded import EncodedPosts
from emo.encoders import EncoderSpec
from emo.metrics import prefixed, score
from emo.pipeline import Posts
from emo.reliability import probability_scores
from emo.scores import bundle_of, kept_trials, probs_from_features, probs_from_posts, write_predictions
from emo.tables import read_table, write_table
from emo.thresholds import candidates, choose, decide
from emo.trials import read_trials

SCORES = "scores"
"""Where in a run's folder the posts lie that a kept model has read, until all are."""

THRESHOLDS, PROBABILITIES = "calibration.parquet", "probabilities.parquet"
"""A row for each kept model and rule of thresholds; and for each of its calibrators."""

Rows = list[dict[str, Any]]


class Kept(NamedTuple):
    """A model that a sweep has kept."""

    trial_id: str
    encoder: str
    rank: int
    bundle: Bundle


def calibrate(
    run: str, config: SweepConfig, posts: Posts, specs: Sequence[EncoderSpec], data: dict[str, EncodedPosts]
) -> Rows:
    """Calibrate each encoder's best trials in parallel; a row for each of them and each rule of thresholds.

    Thresholds are cross-fitted, and probs calibrated on what models say of train posts that they were not trained on,
    where classifiers are trained on cached features and decide label by label. Trained encoders are not trained five
    times more: there val is what calibrates probs.
    """
    trials, train = read_trials(run), data[specs[0].name].targets["train"]  # of the same posts for every encoder
    is_repeatable = config.mode not in TRAINS_ENCODERS and "softmax" not in config.space.loss and len(train) > 1
    folds = train_folds(train, config.seed) if is_repeatable else None
    tasks = []
    for spec in specs:
        found, shared = data[spec.name], ray.put(data[spec.name])
        for rank, trial in enumerate(kept_trials(run, trials, spec.name, config.top), start=1):
            kept = Kept(trial["trial_id"], spec.name, rank, bundle_of(run, config, trial, spec, found, posts))
            probs = None
            if config.mode in TRAINS_ENCODERS:
                probs = probs_from_posts(storage.join(run, SCORES, kept.trial_id), kept.bundle, found, posts)
            tasks.append(_calibrate_one.remote(run, kept, shared, probs, folds, config))
    thresholds, probabilities = (
        [row for rows in results for row in rows] for results in zip(*_results(tasks), strict=True)
    )
    storage.remove(storage.join(run, SCORES))
    write_table(storage.join(run, PROBABILITIES), pa.Table.from_pylist(probabilities))
    write_table(storage.join(run, THRESHOLDS), pa.Table.from_pylist(thresholds))
    return thresholds


def _results(tasks: list[ray.ObjectRef]) -> list[tuple[Rows, Rows]]:
    """What the tasks give, in their order; how many are done is shown as they end."""
    progress, waiting = Progress("models calibrated", len(tasks)), tasks
    while waiting:
        done, waiting = ray.wait(waiting)
        ray.get(done)  # so that a mistake is told at once
        progress.advance(len(done))
    progress.stop()
    return ray.get(tasks)


@ray.remote(num_cpus=1)
def _calibrate_one(
    run: str,
    kept: Kept,
    data: EncodedPosts,
    probs: dict[str, np.ndarray] | None,
    folds: np.ndarray | None,
    config: SweepConfig,
) -> tuple[Rows, Rows]:
    torch.set_num_threads(1)
    if probs is None:
        probs = probs_from_features(kept.bundle, data)
    write_predictions(run, kept.trial_id, data, probs)
    held_out = None if folds is None else _held_out(kept.bundle, data, folds)
    return (
        _by_rule(kept, data.targets, probs, held_out, config),
        _by_calibrator(kept, data.targets, probs, held_out),
    )


def _held_out(bundle: Bundle, data: EncodedPosts, folds: np.ndarray) -> np.ndarray | None:
    """Probs (N, K) of train by models that did not see the posts; None where one of these cannot be trained."""
    try:
        return held_out_probs(data.for_training(), bundle.head, folds)
    except FloatingPointError:  # the learning rate is too high for some of the posts
        return None


def _by_rule(
    kept: Kept,
    targets: dict[str, np.ndarray],
    probs: dict[str, np.ndarray],
    held_out: np.ndarray | None,
    config: SweepConfig,
) -> Rows:
    train, val = ((targets[split], probs[split]) for split in ("train", "val"))
    labels, single_label = kept.bundle.labels, kept.bundle.head.single_label
    thresholds = candidates(train, val, config.budget.calibration_trials, config.seed, single_label, held_out)
    chosen = choose(thresholds, val, single_label)
    return [
        {
            "trial_id": kept.trial_id,
            "encoder": kept.encoder,
            "rank": kept.rank,
            "rule": rule,
            "thresholds": values.tolist(),
            "single_label": single_label,
            "chosen": rule == chosen,
            **split_metrics(targets, probs, values, labels, single_label),
        }
        for rule, values in thresholds.items()
    ]


def _by_calibrator(
    kept: Kept, targets: dict[str, np.ndarray], probs: dict[str, np.ndarray], held_out: np.ndarray | None
) -> Rows:
    """Each way to calibrate probs, fitted on held-out train posts or else on val, and how good it is on test."""
    labels, single_label = kept.bundle.labels, kept.bundle.head.single_label
    fitted_on = (targets["val"], probs["val"]) if held_out is None else (targets["train"], held_out)
    kinds: tuple[Probabilities, ...] = ("raw", "temperature") if single_label else ("raw", "temperature", "isotonic")
    rows = []
    for kind in kinds:
        calibrator = fit_calibrator(kind, *fitted_on, single_label)
        written = calibrator.apply(probs["test"], single_label)
        figures: dict[str, Any] = probability_scores(targets["test"], written, labels, single_label)
        rows.append(
            {
                "trial_id": kept.trial_id,
                "encoder": kept.encoder,
                "rank": kept.rank,
                "probabilities": kind,
                "calibrator": json.dumps(calibration.to_json(calibrator)),
                "fitted_on": "val" if held_out is None else "held-out train",
                **prefixed("test", figures),
            }
        )
    return rows


def read_calibrator(run: str, trial_id: str, kind: Probabilities) -> Calibrator:
    """How a kept model's probs are calibrated in one of the ways."""
    rows = read_table(storage.join(run, PROBABILITIES)).to_pylist()
    found = next(row for row in rows if row["trial_id"] == trial_id and row["probabilities"] == kind)
    return calibration.from_json(json.loads(found["calibrator"]))


def split_metrics(
    targets: dict[str, np.ndarray],
    probs: dict[str, np.ndarray],
    thresholds: np.ndarray,
    labels: tuple[str, ...],
    single_label: bool = False,
) -> dict[str, float]:
    """Every metric on every split, as in ``test/f1/joy``."""
    metrics: dict[str, float] = {}
    for split in SPLITS:
        metrics |= prefixed(split, score(targets[split], decide(probs[split], thresholds, single_label), labels))
    return metrics
