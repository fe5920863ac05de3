"""Example posts of the best model: test posts that it reads rightly, and others."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emo import storage
from emo.posts import read_posts
from emo.tables import read_table, write_table
from emo.thresholds import decide

NUM_EXAMPLES = 12


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
