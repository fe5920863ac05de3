"""The tables that the report makes of a run: values in, values out."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from emo import figures
from emo.pages import number
from emo.report_run import Run, records
from emo.thresholds import decide

PUBLISHED: dict[str, Any] = {
    "columns": ("CLIP base", "Jina CLIP", "CLIP large", "SigLIP", "BLIP-2"),
    "rows": {
        "anger": (9.84, 0.62, 0.64, 0.59, 0.44, 0.12),
        "anticipation": (13.47, 0.37, 0.44, 0.36, 0.32, 0.12),
        "disgust": (8.29, 0.61, 0.60, 0.57, 0.53, 0.10),
        "fear": (3.89, 0.14, 0.17, 0.16, 0.09, 0.00),
        "joy": (28.50, 0.73, 0.70, 0.72, 0.74, 0.68),
        "neutral": (15.80, 0.51, 0.49, 0.48, 0.24, 0.09),
        "sadness": (6.74, 0.57, 0.54, 0.46, 0.37, 0.05),
        "surprise": (7.51, 0.02, 0.04, 0.03, 0.00, 0.02),
        "trust": (5.96, 0.08, 0.12, 0.08, 0.00, 0.00),
    },
    "averages": {"Macro avg": (0.41, 0.41, 0.38, 0.30, 0.13), "Micro avg": (0.55, 0.53, 0.52, 0.48, 0.39)},
    "num_instances": 386,
}
"""Passaro, Amadei and Bacciu, "Emotion Recognition in Multimodal Social Data", Table 1.

Support in percent of the label instances, then F1 on MM-Emo's test split."""

COLUMNS = {
    "micro_f1": "Micro F1",
    "weighted_f1": "Weighted F1",
    "subset_accuracy": "Subset accuracy",
    "jaccard": "Jaccard",
    "hamming": "Hamming loss",
    "fixed_macro_f1": "Macro F1 at 0.5",
}
"""What the leaderboard shows besides macro F1, by the metric on test."""

MAX_CURVES = 12
MIN_TRIALS = 8
"""Fewer finished trials than these say nothing about the importance of hyperparameters."""


def operating_points(run: Run) -> list[figures.Curve]:
    """Precision-recall curves of the best model on test, the labels with most positives first, at most twelve."""
    if run.predictions is None or run.leaderboard is None or run.posts is None:
        return []
    test = run.predictions[run.predictions["split"] == "test"]
    if test.empty:
        return []
    targets, probs = (np.stack(test[name].to_list()) for name in ("targets", "probs"))
    gold, known = targets >= run.posts["label_threshold"], targets >= 0
    most_frequent = np.argsort(-gold.sum(axis=0), kind="stable")[:MAX_CURVES]
    labels, thresholds = run.leaderboard["labels"], run.leaderboard["best"]["thresholds"]
    predicted = decide(probs, np.array(thresholds), run.single_label)
    return [
        figures.curve(labels[k], gold[rows, k], probs[rows, k], predicted[rows, k], thresholds[k])
        for k, rows in ((k, known[:, k]) for k in most_frequent)
    ]


def best_histories(run: Run) -> tuple[dict[str, list[dict[str, float]]], dict[str, int]]:
    """The epochs of each encoder's best trial, and the epoch whose weights it kept."""
    best = run.finished_trials.drop_duplicates("encoder")
    if "history" not in best:
        return {}, {}
    chosen = {row["encoder"]: row for row in records(best) if row["history"] and json.loads(row["history"])}
    histories = {name: json.loads(chosen[name]["history"]) for name in run.encoders if name in chosen}
    return histories, {name: int(row["best_epoch"]) for name, row in chosen.items() if row["best_epoch"] is not None}


def importances(run: Run) -> dict[str, dict[str, float]]:
    """By encoder, each hyperparameter's share of the spread of val macro F1 (fANOVA)."""
    space = run.config["config"]["space"]
    trials = {name: run.finished_trials[run.finished_trials["encoder"] == name] for name in run.encoders}
    return {
        f"{name}  (n = {len(group)})": figures.importance(group, space)
        for name, group in trials.items()
        if _unexplained(name, group) is None
    }


def unexplained(run: Run) -> list[str]:
    """Why an encoder has no importances, a sentence for each that has none."""
    trials = run.finished_trials
    sentences = [_unexplained(name, trials[trials["encoder"] == name]) for name in run.encoders]
    return [sentence for sentence in sentences if sentence is not None]


def _unexplained(encoder: str, trials: pd.DataFrame) -> str | None:
    if len(trials) < MIN_TRIALS:
        return f"{encoder} has {len(trials)} finished trials; importance needs at least {MIN_TRIALS}."
    if trials["val/macro_f1"].nunique() == 1:
        return f"All trials of {encoder} have the same val macro F1, so nothing explains it."
    return None


CHOICES = ("loss", "fusion")


def choices(run: Run) -> list[dict[str, Any]]:
    """By encoder, what val macro F1 its finished trials have with each loss and fusion, where they tried several."""
    trials = run.finished_trials
    groups = [(name, trials[trials["encoder"] == name], what) for name in run.encoders for what in CHOICES]
    return [
        {"encoder": name, "option": f"{figures.PARAMS[what]} {option}", "num_trials": len(scores)}
        | {"best": float(scores.max()), "mean": float(scores.mean())}
        for name, group, what in groups
        if what in group and group[what].nunique() > 1
        for option, scores in group.groupby(what)["val/macro_f1"]
    ]


def outcome(run: Run) -> str:
    """The result in one sentence, measured against the trivial models."""
    best = run.best_row
    if best is None or run.leaderboard is None:
        return "There is no result yet: the test split has not been read."
    baselines = sorted(
        (row for row in run.rows if row["kind"] == "baseline"), key=lambda row: row["test/macro_f1"] or 0
    )
    against = [f"{number(row['test/macro_f1'])} for {row['name']}" for row in baselines if row["name"] != "prior"]
    spread = f" ± {number(best['test/macro_f1_sd'])}" if best.get("test/macro_f1_sd") is not None else ""
    score = f"{best['name']} reaches a macro F1 of {number(best['test/macro_f1'])}{spread}"
    on = f"on {run.leaderboard['num_test']:,} test posts"
    return f"{score} {on}, against {' and '.join(against)}." if against else f"{score} {on}."


def cautions(run: Run) -> list[str]:
    """What a reader must know before trusting the outcome."""
    found, best = [], run.best_row
    for row in run.rows:
        if best and row["kind"] == "baseline" and (row["test/macro_f1"] or 0) >= (best["test/macro_f1"] or 0):
            found.append(f"{best['name']}, which the chosen model builds on, is no better on test than {row['name']}.")
    return found


STATUSES = ("done", "pruned", "failed", "running")


def progress(run: Run) -> dict[str, int]:
    """Trials by status, and how many the sweep plans."""
    counts = {} if run.trials is None else run.trials["status"].value_counts().to_dict()
    planned = run.budget.total_trials(len(run.config["encoders"]))
    return {"planned": planned} | {status: int(counts.get(status, 0)) for status in STATUSES}


def failures(run: Run) -> list[tuple[str, int]]:
    """The errors of failed trials, most frequent first."""
    if run.trials is None or "error" not in run.trials:
        return []
    return [
        (str(error)[:300], int(count)) for error, count in run.trials["error"].dropna().value_counts().head(5).items()
    ]


def provisional(run: Run) -> list[dict[str, Any]]:
    """Each encoder's best trial so far, for a run without a leaderboard."""
    best = records(run.finished_trials.drop_duplicates("encoder"))
    counts = run.finished_trials["encoder"].value_counts()
    return [{**row, "num_trials": int(counts[row["encoder"]])} for row in best]


def per_label(run: Run) -> dict[str, Any] | None:
    """F1 on test by label and model in the form of Table 1 of Passaro et al."""
    if run.leaderboard is None or run.posts is None:
        return None
    rows = sorted(run.rows, key=lambda row: row["kind"] == "baseline")
    counts = run.posts["splits"]["test"]["positives"]
    total = sum(counts)
    lines = [
        _line(label.capitalize(), f"{100 * count / max(1, total):.2f} %", [row.get(f"test/f1/{label}") for row in rows])
        for label, count in zip(run.leaderboard["labels"], counts, strict=True)
    ]
    for name, metric in (("Macro avg", "test/macro_f1"), ("Micro avg", "test/micro_f1")):
        lines.append(_line(name, f"{total:,}", [row.get(metric) for row in rows], average=True))
    return {"columns": rows, "lines": lines}


def published() -> dict[str, Any]:
    """:data:`PUBLISHED` in the form that :func:`per_label` has."""
    lines = [
        _line(label.capitalize(), f"{support:.2f} %", values) for label, (support, *values) in PUBLISHED["rows"].items()
    ]
    lines += [
        _line(name, f"{PUBLISHED['num_instances']}", values, average=True)
        for name, values in PUBLISHED["averages"].items()
    ]
    return {"columns": [{"name": name, "kind": "encoder"} for name in PUBLISHED["columns"]], "lines": lines}


def _line(name: str, support: str, values: Sequence[float | None], average: bool = False) -> dict[str, Any]:
    """A row of F1 values, of which the highest at the printed precision are the best."""
    shown = [number(value, 2) for value in values]
    highest = max((text for text in shown if text != "–"), default=None)
    return {"name": name, "support": support, "average": average, "cells": [(text, text == highest) for text in shown]}
