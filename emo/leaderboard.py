"""From calibrated models to one row an encoder, next to the baselines; and example posts of the best model."""

import csv
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emo import baselines, storage
from emo.calibrate import split_metrics
from emo.encoded import EncodedPosts
from emo.encoders import EncoderSpec
from emo.posts import read_posts
from emo.reading import TextVariant, texts_of
from emo.tables import read_table, write_table
from emo.thresholds import RULES, candidates, choose, decide

NUM_EXAMPLES = 12


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
        **{name: _mean([row[name] for row in chosen]) for name in metrics},
        "test/macro_f1_sd": float(np.std([row["test/macro_f1"] for row in chosen])),
        **by_rule,
    }


def baseline_rows(
    posts: str,
    data: EncodedPosts,
    labels: tuple[str, ...],
    *,
    text: TextVariant,
    num_trials: int,
    seed: int,
    single_label: bool = False,
) -> list[dict[str, Any]]:
    """All-positive, prior and, where there is text, TF-IDF with logistic regression."""
    prior = baselines.most_frequent if single_label else baselines.prior
    decisions = {"all-positive": baselines.all_positive(data.targets), "prior": prior(data.targets)}
    halves = np.full(len(labels), 0.5)
    rows = [_baseline(name, "–", split_metrics(data.targets, made, halves, labels)) for name, made in decisions.items()]
    texts = split_texts(posts, data, text)
    if (probs := baselines.tfidf_probs(texts, data.targets["train"], seed)) is not None:
        train, val = ((data.targets[split], probs[split]) for split in ("train", "val"))
        thresholds = candidates(train, val, num_trials, seed, single_label)
        chosen = thresholds[choose(thresholds, val, single_label)]
        metrics = split_metrics(data.targets, probs, chosen, labels, single_label)
        rows.append(_baseline("tf-idf + logistic regression", "text", metrics))
    return rows


def split_texts(posts: str, data: EncodedPosts, text: TextVariant) -> dict[str, list[str]]:
    """The text of every labelled post, in the order of ``data``; "" where there is none."""
    table = read_posts(posts, ["post_id", "text", "tags"])
    text_of = dict(zip(table["post_id"].to_pylist(), texts_of(table, text.tags, text.read_captions()), strict=True))
    return {split: [text_of[post_id] or "" for post_id in ids] for split, ids in data.post_ids.items()}


def _baseline(name: str, modalities: str, metrics: dict[str, float]) -> dict[str, Any]:
    kept = {key: value for key, value in metrics.items() if not key.startswith("train/")}
    rest = dict.fromkeys(["test/macro_f1_sd", *(f"test/{rule}_macro_f1" for rule in RULES)])
    return {"name": name, "kind": "baseline", "modalities": modalities, "num_models": 1, **kept, **rest}


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def best_model(rows: list[dict[str, Any]], calibrated: list[dict[str, Any]]) -> dict[str, Any]:
    """The calibration row that the bundle is made from: the best on val of the encoder whose mean on val is the best.

    A mean over trials is less a matter of luck than the best of all trials of all encoders.
    """
    encoder = max((row for row in rows if row["kind"] == "encoder"), key=lambda row: row["val/macro_f1"])["name"]
    models = [row for row in calibrated if row["chosen"] and row["encoder"] == encoder]
    return max(models, key=lambda row: (row["val/macro_f1"], row["trial_id"]))


def write_leaderboard(
    run: str, rows: list[dict[str, Any]], best: dict[str, Any], labels: tuple[str, ...], num_test: int
) -> list[dict[str, Any]]:
    """``leaderboard.json`` and ``.csv``, the best on val first."""
    rows = sorted(rows, key=lambda row: -row["val/macro_f1"])
    storage.write_json(
        storage.join(run, "leaderboard.json"),
        {
            "labels": list(labels),
            "num_test": num_test,
            "best": {name: best[name] for name in ("trial_id", "encoder", "rule", "thresholds")},
            "rows": rows,
        },
    )
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    storage.write_bytes(storage.join(run, "leaderboard.csv"), text.getvalue().encode())
    return rows


def write_examples(run: str, posts: str, best: dict[str, Any], labels: tuple[str, ...]) -> None:
    """``examples.parquet``: test posts that the best model reads rightly, and as many that it does not."""
    uri = storage.join(run, "predictions", f"{best['trial_id']}.parquet")
    table = read_table(uri)
    rows = table.filter(pc.equal(table["split"], "test")).to_pylist()
    for row in rows:
        predicted = decide(np.array(row["probs"]), np.array(best["thresholds"]), best["single_label"])
        row["predicted"] = _names(predicted, labels)
        row["gold"] = _names(np.array(row["targets"]) > 0, labels)
        known = np.array(row["targets"]) >= 0
        row["correct"] = row["gold"] == _names(predicted & known, labels)
    right = _spread([row for row in rows if row["correct"]])
    wrong = _spread([row for row in rows if not row["correct"]])
    picked = right[: NUM_EXAMPLES // 2] + wrong[: NUM_EXAMPLES // 2]
    is_picked = pc.field("post_id").isin([row["post_id"] for row in picked])
    content = read_posts(posts, ["post_id", "text", "image", "tags"], is_picked)
    by_id = {row["post_id"]: row for row in content.to_pylist()}
    columns = ["post_id", "targets", "probs", "predicted", "gold", "correct"]
    examples = [by_id[row["post_id"]] | {name: row[name] for name in columns} for row in picked]
    write_table(storage.join(run, "examples.parquet"), pa.Table.from_pylist(examples))


def _names(chosen: np.ndarray, labels: tuple[str, ...]) -> list[str]:
    return [label for label, is_in in zip(labels, chosen, strict=True) if is_in]


def _spread(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same posts, so ordered that the first show many gold labels: each label set's first, then its second."""
    seen: dict[tuple[str, ...], int] = {}
    turns = []
    for row in sorted(rows, key=lambda row: row["post_id"]):
        gold = tuple(row["gold"])
        turns.append((seen.setdefault(gold, 0), row))
        seen[gold] += 1
    return [row for _, row in sorted(turns, key=lambda turn: turn[0])]
