"""What became of a corpus's posts, counted, as the manifest of the prepared set has it."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emo import labels
from emo.config import ALL_SPLITS, SPLITS, to_dict
from emo.rows import Cleaning
from emo.verdict import Verdict


def describe(rows: pa.Table, verdict: Verdict, task: Cleaning) -> dict[str, Any]:
    """The manifest's counts; rejects are counted by what their reasons have in common."""
    kept = rows.filter(pa.array(verdict.splits >= 0))
    positives = labels.binarise(verdict.targets, verdict.positive_share)
    known = ~np.isnan(verdict.targets)
    counts = {name: _counted(verdict.splits == code, positives, known) for code, name in enumerate(ALL_SPLITS)}
    reasons = Counter(reason.partition(":")[0] for reason in verdict.reasons if reason is not None)
    num_folds = int(verdict.folds.max(initial=-1)) + 1
    return {
        "labels": list(verdict.space),
        "label_threshold": verdict.positive_share,
        "targets": task.config.targets,
        "num_read": rows.num_rows,
        "num_posts": kept.num_rows,
        "num_rejects": rows.num_rows - kept.num_rows,
        "reject_reasons": dict(reasons.most_common()),
        "num_redecoded_texts": pc.sum(kept["redecoded"]).as_py(),
        "modalities": {
            "text": pc.count(kept["text_hash"]).as_py(),
            "image": pc.count(kept["image_hash"]).as_py(),
            "tags": pc.sum(kept["has_tags"]).as_py(),
        },
        "corpora": _corpora(kept, task),
        "splits": counts,
        "folds": [_counted(deal == fold, positives, known) for deal in verdict.folds.T for fold in range(num_folds)],
        "fold_repeats": verdict.folds.shape[1],
        "disagreement": verdict.disagreement,
        "splits_made": list(verdict.splits_made),
        "num_duplicates_across_splits": verdict.num_across,
        "num_near_duplicates": verdict.num_near,
        "warnings": _warnings(verdict, counts),
        "config": to_dict(task.config),
    }


def _counted(mask: np.ndarray, positives: np.ndarray, known: np.ndarray) -> dict[str, Any]:
    """Posts, and for each label those that have it and, where that is not all, those of which it is known."""
    counts = {"num_posts": int(mask.sum()), "positives": positives[mask].sum(axis=0).tolist()}
    return counts if known[mask].all() else counts | {"known": known[mask].sum(axis=0).tolist()}


def _corpora(kept: pa.Table, task: Cleaning) -> list[dict[str, Any]]:
    number = kept["corpus"].to_numpy()
    return [
        {"name": source.name, "num_posts": int((number == n).sum()), "labels": source.labels and list(source.labels)}
        for n, source in enumerate(task.sources)
    ]


def _warnings(verdict: Verdict, counts: dict[str, dict[str, Any]]) -> list[str]:
    warnings = []
    for name in SPLITS if verdict.space else ():
        none = [label for label, num in zip(verdict.space, counts[name]["positives"], strict=True) if not num]
        if none and counts[name]["num_posts"]:
            effect = "cannot be learned" if name == "train" else f"cannot be judged on {name}"
            warnings.append(f"No {name} post has {', '.join(none)}: what no post shows {effect}.")
    if verdict.num_across:
        warnings.append(
            f"{verdict.num_across} posts share their group, or nearly their text or image, with one of another given "
            "split: scores on these are too good."
        )
    if verdict.num_alike:
        warnings.append(
            f"{verdict.num_alike} posts are so much like many others that they were taken for a template: they may "
            "stand in several splits."
        )
    return warnings
