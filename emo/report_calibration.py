"""What the report says of thresholds and probabilities: values in, tables and curves out."""

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from emo.calibration import from_json
from emo.figures_calibration import Reliability
from emo.reliability import binned
from emo.report_run import Run, records

RULES = {"fixed": "Fixed 0.5", "optuna": "Optuna", "exact": "Exact on train", "cross-fitted": "Cross-fitted"}
KINDS = {"raw": "Raw", "temperature": "Temperature", "isotonic": "Isotonic"}
WRITTEN = {"raw": "raw", "temperature": "temperature-scaled", "isotonic": "isotonically calibrated"}
MAX_LABELS = 11
"""With all labels together, as many panels as fill four rows."""
LABEL_BINS = 5
"""Fewer than for all labels, for a label has fewer posts."""
SCORES = ("val/macro_f1", "test/macro_f1")


def rules(run: Run) -> list[dict[str, Any]]:
    """By rule, over all kept models: macro F1 on val and test, how often val chose it and how often test would have."""
    table = run.calibration
    if table is None:
        return []
    best = table.loc[table.groupby("trial_id")["test/macro_f1"].idxmax()]
    chosen, right = Counter(table[table["chosen"]]["rule"]), Counter(best["rule"])
    lines = []
    for rule, group in table.groupby("rule"):
        val, test = (float(group[name].mean()) for name in SCORES)
        line = {"rule": RULES[str(rule)], "num_models": len(group), "val": val, "test": test, "gap": val - test}
        lines.append(line | {"chosen": chosen[rule], "best": right[rule]})
    return sorted(lines, key=lambda line: list(RULES.values()).index(line["rule"]))


def encoders(run: Run) -> list[dict[str, Any]]:
    """By encoder: mean test macro F1 under each rule there is, how often val chose it, and what the choice gained."""
    if run.calibration is None:
        return []
    lines, present = [], [rule for rule in RULES if rule in set(run.calibration["rule"])]
    for name in [e for e in run.encoders if e in set(run.calibration["encoder"])]:
        table = run.calibration[run.calibration["encoder"] == name]
        chosen, means = table[table["chosen"]], table.groupby("rule")["test/macro_f1"].mean()
        counts = [f"{RULES[rule]} {count}" for rule, count in Counter(chosen["rule"]).most_common()]
        test = [float(means.get(rule, math.nan)) for rule in present]
        gain = float(chosen["test/macro_f1"].mean() - means.get("fixed", math.nan))
        lines.append({"encoder": name, "test": test, "chosen": ", ".join(counts), "gain": gain})
    return lines


def labels(run: Run) -> list[dict[str, Any]]:
    """By label of the best model: its threshold, on raw probs and on calibrated ones where the model writes these, and
    F1 on test at one half and there."""
    best = run.best_model
    if best is None or run.calibration is None or run.leaderboard is None:
        return []
    table = run.calibration[run.calibration["trial_id"] == best["trial_id"]].set_index("rule")
    positives = (run.posts or {}).get("splits", {}).get("train", {}).get("positives")
    calibrators, kind = _calibrators(run), _written(run)
    written = None
    if kind != "raw" and calibrators is not None:
        calibrator = from_json(json.loads(str(calibrators.loc[kind, "calibrator"])))
        written = calibrator.thresholds(np.array(best["thresholds"]), run.single_label)
    lines = []
    for k, label in enumerate(run.leaderboard["labels"]):
        before, after = float(table.loc["fixed", f"test/f1/{label}"]), float(best[f"test/f1/{label}"])
        line = {"label": label, "positives": positives[k] if positives else None, "gain": after - before}
        line["written"] = None if written is None else float(written[k])
        lines.append(line | {"threshold": float(best["thresholds"][k]), "before": before, "after": after})
    return lines


def probabilities(run: Run) -> dict[str, Any] | None:
    """Calibration error and Brier score on test of the best model, raw and calibrated: over all labels and for each;
    besides, the means over all kept models."""
    best = _calibrators(run)
    if best is None or run.probabilities is None or run.leaderboard is None:
        return None
    kinds = list(best.index)
    means = run.probabilities.groupby("probabilities")[["test/ece", "test/brier", "test/log_loss"]].mean().loc[kinds]
    num_models = run.probabilities["trial_id"].nunique()
    lines = [_line("All labels", best, ""), _line(f"All labels, mean of {num_models} models", means, "")]
    lines += [_line(label, best, f"/{label}") for label in run.leaderboard["labels"]]
    return {
        "kinds": [KINDS[str(kind)] for kind in kinds],
        "lines": lines,
        "log_losses": [float(value) for value in best["test/log_loss"]],
        "fitted_on": best["fitted_on"].iloc[0],
        "temperature": json.loads(str(best.loc["temperature", "calibrator"]))["temperature"],
        "written": WRITTEN[_written(run)],
    }


def _line(name: str, table: pd.DataFrame, suffix: str) -> dict[str, Any]:
    """The lowest of each measure, to the digits that are shown, are the best."""
    measures = []
    for measure in ("ece", "brier"):
        values = [float(value) for value in table[f"test/{measure}{suffix}"]]
        measures += [(value, round(value, 3) == round(min(values), 3)) for value in values]
    return {"name": name, "cells": measures}


def reliability(run: Run) -> list[Reliability]:
    """What the best model's probs on test say and what is so: of all labels together, then of the most frequent."""
    best = _calibrators(run)
    if best is None or run.predictions is None or run.posts is None or run.leaderboard is None:
        return []
    test = run.predictions[run.predictions["split"] == "test"]
    shares, raw = (np.stack(test[name].to_list()) for name in ("targets", "probs"))
    targets = np.where(shares < 0, -1, shares >= run.posts["label_threshold"]).astype(np.int8)
    probs = {
        KINDS[str(row["probabilities"])]: from_json(json.loads(row["calibrator"])).apply(raw, run.single_label)
        for row in records(best.reset_index())
    }
    names, counts = run.leaderboard["labels"], (targets == 1).sum(axis=0)
    most_frequent = [k for k in np.argsort(-counts, kind="stable")[:MAX_LABELS] if counts[k]]
    curves = [Reliability("All labels", {kind: binned(targets, p) for kind, p in probs.items()})]
    return curves + [
        Reliability(
            f"{names[k]}  (n = {counts[k]})",
            {kind: binned(targets[:, k], p[:, k], LABEL_BINS) for kind, p in probs.items()},
        )
        for k in most_frequent
    ]


def _written(run: Run) -> str:
    """What probs the model writes."""
    return str(run.config["config"].get("probabilities", "raw"))


def _calibrators(run: Run) -> pd.DataFrame | None:
    """The ways to calibrate the best model's probs, by name and in their order."""
    if run.probabilities is None or run.leaderboard is None:
        return None
    best = run.leaderboard["best"]["trial_id"]
    table = run.probabilities[run.probabilities["trial_id"] == best].set_index("probabilities")
    return table.loc[[kind for kind in KINDS if kind in table.index]] if len(table) else None
