"""An evaluation as one self-contained page: figures, labels, confusions, the worst mistakes."""

from collections.abc import Mapping, Sequence
from typing import Any

from emo import pages

METRICS = {
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "weighted_f1": "Weighted F1",
    "subset_accuracy": "Subset accuracy",
    "jaccard": "Jaccard index",
    "hamming": "Hamming loss",
}


def page(evaluation: Mapping[str, Any], mistakes: Sequence[Mapping[str, Any]]) -> str:
    """The whole page."""
    return pages.render(
        "evaluation.html.jinja",
        evaluation=evaluation,
        names=METRICS,
        partly_known=any(each["known"] < evaluation["num_labelled"] for each in evaluation["labels"]),
        confusion=confusion_rows(evaluation["confusion"]),
        mistakes=[
            pages.post_card(row, row["probs"], row["unknown"], note=f"loss {row['loss']:.2f}") for row in mistakes
        ],
    )


def confusion_rows(confusion: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each row's name and its cells: the count, its share of the row, and whether it lies on the diagonal."""
    names, counts = confusion["names"], confusion["counts"]
    return [
        {
            "name": name,
            "cells": [
                {"instead": names[p], "count": count, "share": count / max(1, sum(row)), "hit": p == g}
                for p, count in enumerate(row)
            ],
        }
        for g, (name, row) in enumerate(zip(names, counts, strict=True))
    ]
