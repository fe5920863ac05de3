"""From calibrated models to one row an encoder, next to the baselines, and how sure each is."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emo import baselines, comparison, storage
from emo.calibrate import split_metrics
from emo.encoded import EncodedPosts
from emo.encoders import EncoderSpec
from emo.metrics import METRICS, prefixed
from emo.posts import read_posts
from emo.reading import TextVariant, texts_of
from emo.scores import write_predictions
from emo.tables import read_table
from emo.thresholds import RULES, candidates, choose, decide, fixed

MODEL = ("trial_id", "thresholds", "single_label")
"""What it takes to repeat the decisions of a model from its kept probs."""
INTERVALS = ("val/macro_f1", *(f"test/{name}" for name in METRICS))
"""Those that leaderboard.csv has; leaderboard.json has them of every figure."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Decisions:
    """What the models of every row decided about the posts of one split."""

    post_ids: list[str]
    targets: np.ndarray
    """int8 (N, K), -1 where unknown."""
    predicted: dict[str, list[np.ndarray]]
    """By row, bool (N, K) of each of its models."""

    def judged(self, posts: np.ndarray) -> comparison.Judged:
        """The same, where the posts have these numbers (N,), ascending, among those that are resampled."""
        return comparison.Judged(posts, self.targets, self.predicted)


def encoder_row(spec: EncoderSpec, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean over an encoder's kept models, each with the thresholds that val chose for it."""
    chosen = [row for row in rows if row["encoder"] == spec.name and row["chosen"]]
    metrics = [name for name in chosen[0] if name.startswith(("val/", "test/"))]
    by_rule = {
        f"test/{rule}_macro_f1": _mean(
            [r["test/macro_f1"] for r in rows if r["encoder"] == spec.name and r["rule"] == rule]
        )
        for rule in RULES
    }
    return {
        "name": spec.name,
        "kind": "encoder",
        "modalities": "+".join(spec.modalities),
        "num_models": len(chosen),
        "models": [{name: row[name] for name in MODEL} for row in chosen],
        **{name: _mean([row[name] for row in chosen]) for name in metrics},
        "test/macro_f1_sd": float(np.std([row["test/macro_f1"] for row in chosen])),
        **by_rule,
    }


def baseline_rows(
    run: str,
    posts: str,
    data: EncodedPosts,
    labels: tuple[str, ...],
    *,
    text: TextVariant,
    num_trials: int,
    seed: int,
    single_label: bool = False,
) -> list[dict[str, Any]]:
    """All-positive, prior and, where there is text, TF-IDF with logistic regression; their probs are kept as those of
    the encoders' models are."""
    prior = baselines.most_frequent if single_label else baselines.prior
    decisions = {"all-positive": baselines.all_positive(data.targets), "prior": prior(data.targets)}

    def row(name: str, modalities: str, probs: baselines.Predictions, thresholds: np.ndarray, alone: bool) -> Row:
        model = {
            "trial_id": f"baseline-{name.partition(' ')[0]}",
            "thresholds": thresholds.tolist(),
            "single_label": alone,
        }
        as_floats = {split: made.astype(np.float32) for split, made in probs.items()}
        write_predictions(run, model["trial_id"], data, as_floats)
        return _baseline(name, modalities, model, split_metrics(data.targets, probs, thresholds, labels, alone))

    rows = [row(name, "–", made, fixed(len(labels)), False) for name, made in decisions.items()]
    texts = split_texts(posts, data, text)
    if (probs := baselines.tfidf_probs(texts, data.targets["train"], seed)) is not None:
        train, val = ((data.targets[split], probs[split]) for split in ("train", "val"))
        thresholds = candidates(train, val, num_trials, seed, single_label)
        chosen = thresholds[choose(thresholds, val, single_label)]
        rows.append(row("tf-idf + logistic regression", "text", probs, chosen, single_label))
    return rows


def split_texts(posts: str, data: EncodedPosts, text: TextVariant) -> dict[str, list[str]]:
    """The text of every labelled post, in the order of ``data``; "" where there is none."""
    table = read_posts(posts, ["post_id", "text", "tags"])
    text_of = dict(zip(table["post_id"].to_pylist(), texts_of(table, text.tags, text.read_captions()), strict=True))
    return {split: [text_of[post_id] or "" for post_id in ids] for split, ids in data.post_ids.items()}


def _baseline(name: str, modalities: str, model: dict[str, Any], metrics: dict[str, float]) -> Row:
    kept = {key: value for key, value in metrics.items() if not key.startswith("train/")}
    rest = dict.fromkeys(["test/macro_f1_sd", *(f"test/{rule}_macro_f1" for rule in RULES)])
    about = {"name": name, "kind": "baseline", "modalities": modalities, "num_models": 1, "models": [model]}
    return {**about, **kept, **rest}


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def best_model(rows: list[dict[str, Any]], calibrated: list[dict[str, Any]]) -> dict[str, Any]:
    """The calibration row that the bundle is made from: the best on val of the encoder whose mean on val is the best.

    A mean over trials is less a matter of luck than the best of all trials of all encoders.
    """
    encoder = max((row for row in rows if row["kind"] == "encoder"), key=lambda row: row["val/macro_f1"])["name"]
    models = [row for row in calibrated if row["chosen"] and row["encoder"] == encoder]
    return max(models, key=lambda row: (row["val/macro_f1"], row["trial_id"]))


def read_decisions(run: str, rows: Sequence[Row]) -> dict[str, Decisions]:
    """What the models of these rows decided about val and test, from the probs that the run keeps."""
    found: dict[str, Decisions] = {}
    for row in rows:
        for model in row["models"]:
            table = read_table(storage.join(run, "predictions", f"{model['trial_id']}.parquet"))
            for split in ("val", "test"):
                part = table.filter(pc.equal(table["split"], split))
                if split not in found:
                    targets = _matrix(part["targets"]).astype(np.int8)
                    found[split] = Decisions(part["post_id"].to_pylist(), targets, {row["name"]: [] for row in rows})
                decided = decide(_matrix(part["probs"]), np.array(model["thresholds"]), model["single_label"])
                found[split].predicted[row["name"]].append(decided)
    return found


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """(N, K) from a column of lists that are all as long."""
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), -1)


def write_leaderboard(run: str, rows: list[Row], best: dict[str, Any], labels: tuple[str, ...]) -> dict[str, Any]:
    """``leaderboard.json`` and ``.csv``, the best on val first, with intervals and neighbours compared on test."""
    decisions = read_decisions(run, rows)
    found = {
        split: comparison.resampled([each.judged(np.arange(len(each.post_ids)))], len(each.post_ids), labels)
        for split, each in decisions.items()
    }
    about = {
        "labels": list(labels),
        "num_test": len(decisions["test"].post_ids),
        "best": {name: best[name] for name in ("trial_id", "encoder", "rule", "thresholds")},
    }
    return write_board(run, about, rows, found)


def write_board(
    run: str, about: dict[str, Any], rows: list[Row], found: dict[str, dict[str, comparison.Figures]]
) -> dict[str, Any]:
    """``leaderboard.json`` with ``about`` in it, and its rows as ``leaderboard.csv``, where an interval is two columns.

    Intervals and comparisons come from what was ``found``: by split and row, every metric in resamples.
    """
    rows = sorted(rows, key=lambda row: -row["val/macro_f1"])
    order = [(row["name"], row["test/macro_f1"]) for row in rows]
    board = about | {
        "num_resamples": len(found["test"][rows[0]["name"]]["macro_f1"]),
        "rows": [row | {"intervals": _intervals(row["name"], found)} for row in rows],
        "comparisons": comparison.neighbours(order, found["test"]),
    }
    storage.write_json(storage.join(run, "leaderboard.json"), board)
    flat = [
        {name: value for name, value in row.items() if not isinstance(value, list | dict)}
        | {f"{name}_{end}": row["intervals"][name][k] for name in INTERVALS for k, end in enumerate(("low", "high"))}
        for row in board["rows"]
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    storage.write_bytes(storage.join(run, "leaderboard.csv"), text.getvalue().encode())
    return board


def _intervals(row: str, found: dict[str, dict[str, comparison.Figures]]) -> dict[str, list[float]]:
    """As in ``{"test/macro_f1": [low, high]}``."""
    by_split = [prefixed(split, comparison.intervals(of_rows[row])) for split, of_rows in found.items()]
    return {name: interval for each in by_split for name, interval in each.items()}
