"""How good the predictions of labelled posts are, from the Parquet files that hold both; without Ray."""

import csv
import heapq
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from emo import evaluation_page, storage
from emo.config import UserError
from emo.labels import hard_targets
from emo.metrics import bootstrap_intervals, distinct_rows, known_cells, score
from emo.posts import target_shares
from emo.tables import stream_folder

NUM_MISTAKES = 50
NONE = "none"
"""What the confusion table calls the absence of a label."""
LEAST_PROB = 1e-7
"""Probs are kept this far from 0 and 1, so that every loss is finite."""
THIRDS = ("least disagreement", "in between", "most disagreement")
FORMULA_STARTS = tuple("=+-@＝＋－＠")
"""What spreadsheets take for the beginning of a formula (OWASP, CSV Injection)."""


@dataclass(frozen=True)
class Judged:
    """Labelled posts as they are and as they were read; posts of which no label is known are not among them."""

    post_ids: pa.StringArray
    shares: np.ndarray
    """Shares of annotators, NaN where unknown: float32 (N, K)."""
    targets: np.ndarray
    """1 present, 0 absent, -1 unknown: int8 (N, K)."""
    predicted: np.ndarray
    """bool (N, K)"""
    probs: np.ndarray
    """float32 (N, K)"""


def judged_posts(predictions: str, labels: tuple[str, ...], positive_share: float) -> Iterator[Judged]:
    """The labelled posts of a folder of predictions, in batches; the columns are those that predict.py writes."""
    names = [f"prob/{label}" for label in labels]
    space = pa.array(labels, pa.string())
    for batch in stream_folder(predictions, ["post_id", "labels", "targets", *names]):
        batch = batch.filter(batch["targets"].is_valid())
        shares = target_shares(batch)
        known = ~np.isnan(shares)
        some = known.any(axis=1)
        predicted = np.zeros(shares.shape, bool)
        columns = pc.index_in(batch["labels"].flatten(), value_set=space)
        predicted[pc.list_parent_indices(batch["labels"]).to_numpy(), columns.to_numpy()] = True
        yield Judged(
            batch["post_id"].filter(pa.array(some)),
            shares[some],
            hard_targets(shares, positive_share)[some].astype(np.int8),
            predicted[some],
            np.stack([batch[name].to_numpy() for name in names], axis=1)[some],
        )


def evaluate(
    predictions: str, labels: tuple[str, ...], thresholds: np.ndarray, positive_share: float, seed: int = 0
) -> dict[str, Any]:
    """All that the labelled posts of a folder say about the predictions, as JSON takes it.

    ``thresholds`` (K,) are those that made the predictions, and are only passed on; ``positive_share`` is the lowest
    share of annotators at which a label is present. Figures that do not exist are None. A UserError where no post is
    labelled.
    """
    batches = ((b.shares, b.targets, b.predicted, b.probs) for b in judged_posts(predictions, labels, positive_share))
    shares, targets, predicted, probs = map(np.concatenate, zip(*batches, strict=True))
    if not len(targets):
        raise UserError(f"{predictions} has no labelled post to judge the predictions by.")
    intervals = bootstrap_intervals(targets, predicted, labels, seed=seed)
    return {
        "num_labelled": len(targets),
        "positive_share": positive_share,
        "metrics": score(targets, predicted, labels),
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        "labels": [
            {"label": label, "threshold": float(thresholds[k]), "interval": list(intervals[f"f1/{label}"])}
            | label_figures(targets[:, k], predicted[:, k], probs[:, k])
            for k, label in enumerate(labels)
        ],
        "confusion": {"names": [*labels, NONE], "counts": confusion(targets, predicted).tolist()},
        "agreement": by_disagreement(shares, targets, predicted, labels),
    }


def label_figures(targets: np.ndarray, predicted: np.ndarray, probs: np.ndarray) -> dict[str, Any]:
    """Counts and figures of one label (N,) over the posts that know it; None for a figure that needs other posts."""
    known = targets >= 0
    gold, given, probs = targets[known] == 1, predicted[known], probs[known]
    tp, support, num_given = int((gold & given).sum()), int(gold.sum()), int(given.sum())
    return {
        "known": len(gold),
        "support": support,
        "predicted": num_given,
        "tp": tp,
        "fp": num_given - tp,
        "fn": support - tp,
        "tn": len(gold) - support - num_given + tp,
        "precision": tp / num_given if num_given else None,
        "recall": tp / support if support else None,
        "f1": 2 * tp / max(1, support + num_given) if len(gold) else None,
        "average_precision": float(average_precision_score(gold, probs)) if support else None,
    }


def confusion(targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """What was predicted instead of what: counts of posts (K + 1, K + 1), int64, the last row and column for "none".

    The diagonal counts hits. Row g, column p: label g was missed while label p was wrongly predicted; where nothing
    was wrongly predicted, the column is "none". Row "none": label p was wrongly predicted though no label was missed;
    its last cell counts the posts without any label that were given none. A post that misses several labels, or is
    given several wrong ones, counts once for each pair of them.
    """
    kinds, counts = distinct_rows(targets, predicted)
    gold, given, known = known_cells(targets[kinds], predicted[kinds])
    missed, wrong = _or_none(gold & ~given), _or_none(given & ~gold)
    table = missed.T.astype(np.int64) @ (wrong * counts[:, None])
    hits = (gold & given).T @ counts
    table[np.diag_indices_from(table)] = [*hits, counts[known.any(axis=1) & ~(gold | given).any(axis=1)].sum()]
    return table


def _or_none(chosen: np.ndarray) -> np.ndarray:
    """(N, K + 1): the last column is True where no other is."""
    return np.column_stack([chosen, ~chosen.any(axis=1)])


def by_disagreement(
    shares: np.ndarray, targets: np.ndarray, predicted: np.ndarray, labels: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The metrics of the posts on which annotators agree most, of those in between, and of the rest.

    A post's disagreement is the mean over its known labels of 2 s (1 - s), how likely two people would differ if a
    share s of all chose the label. Posts that disagree alike stay together, so that thirds may differ in size and some
    be empty; without fractional shares, or where all posts are alike, there is nothing to tell.
    """
    spread = np.nanmean(2 * shares.astype(np.float64) * (1 - shares), axis=1).round(6)
    third = (3 * (rankdata(spread) - 0.5) / len(spread)).astype(np.int64)
    parts = [(name, third == place) for place, name in enumerate(THIRDS) if (third == place).any()]
    if len(parts) < 2:
        return []
    return [
        {
            "name": name,
            "num_posts": int(part.sum()),
            "disagreement": [float(spread[part].min()), float(spread[part].max())],
            "metrics": score(targets[part], predicted[part], labels),
        }
        for name, part in parts
    ]


def worst_mistakes(
    predictions: str, labels: tuple[str, ...], positive_share: float, num_mistakes: int = NUM_MISTAKES
) -> list[dict[str, Any]]:
    """The wrongly read posts whose labels the model found least likely, the worst first.

    The loss is the mean binary cross-entropy over the labels that are known of a post.
    """
    worst: list[dict[str, Any]] = []
    for batch in judged_posts(predictions, labels, positive_share):
        gold, given, known = known_cells(batch.targets, batch.predicted)
        likely = np.clip(np.where(gold, batch.probs, 1 - batch.probs).astype(np.float64), LEAST_PROB, 1)
        loss = np.where(known, -np.log(likely), 0).sum(axis=1) / known.sum(axis=1)
        wrong = np.flatnonzero((gold != given).any(axis=1))
        rows = wrong[np.argsort(-loss[wrong], kind="stable")[:num_mistakes]]
        mistakes = (
            {
                "post_id": batch.post_ids[i].as_py(),
                "gold": _names(labels, gold[i]),
                "predicted": _names(labels, batch.predicted[i]),
                "unknown": _names(labels, ~known[i]),
                "loss": float(loss[i]),
                "probs": dict(zip(labels, batch.probs[i].tolist(), strict=True)),
            }
            for i in rows
        )
        worst = heapq.nlargest(num_mistakes, itertools.chain(worst, mistakes), key=lambda row: row["loss"])
    return worst


def _names(labels: tuple[str, ...], chosen: np.ndarray) -> list[str]:
    return list(itertools.compress(labels, chosen))


def write_evaluation(
    folder: str, evaluation: Mapping[str, Any], mistakes_with_text: Sequence[Mapping[str, Any]]
) -> None:
    """Write ``evaluation.json``, ``mistakes.csv`` and ``evaluation.html`` into a folder.

    The mistakes are rows of :func:`worst_mistakes`, which may have ``text``, ``tags`` and ``image`` besides.
    """
    storage.write_json(storage.join(folder, "evaluation.json"), evaluation)
    table = mistakes_csv(mistakes_with_text, [each["label"] for each in evaluation["labels"]])
    storage.write_bytes(storage.join(folder, "mistakes.csv"), table.encode())
    page = evaluation_page.page(evaluation, mistakes_with_text)
    storage.write_bytes(storage.join(folder, "evaluation.html"), page.encode())


def mistakes_csv(mistakes: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
    """A row a mistake, with a column ``prob/<label>`` for each label."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["post_id", "loss", "gold", "predicted", "text", "tags", *(f"prob/{label}" for label in labels)])
    for row in mistakes:
        lists = (";".join(row[name]) for name in ("gold", "predicted"))
        words = (row.get("text") or "", ";".join(row.get("tags") or ()))
        probs = (round(row["probs"][label], 4) for label in labels)
        cells = [row["post_id"], round(row["loss"], 4), *lists, *words, *probs]
        writer.writerow([plain_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue()


def plain_cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula: where it could, an apostrophe comes first."""
    return f"'{text}" if text.lstrip().startswith(FORMULA_STARTS) or text[:1] in ("\t", "\r", "\n") else text
