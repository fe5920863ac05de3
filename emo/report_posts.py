"""The tables about a run's posts, made of its ``posts.json``, the manifest of prepared posts: values in, values out."""

from collections.abc import Mapping, Sequence
from typing import Any

from emo.config import SPLITS

Posts = Mapping[str, Any]


def prevalences(posts: Posts | None) -> list[dict[str, Any]]:
    """For each label, the share of each split's posts that have it, and how far annotators disagree on it.

    A post in which the label is unknown does not count. The disagreement is the chance that two
    annotators of a post do not agree on the label; None where nothing is known of it.
    """
    if posts is None:
        return []
    splits = [posts["splits"][name] for name in SPLITS]
    disagreement = posts.get("disagreement") or [None] * len(posts["labels"])
    return [
        {"label": label, "shares": _shares(splits, k), "disagreement": disagreement[k]}
        for k, label in enumerate(posts["labels"])
    ]


def fold_prevalences(posts: Posts | None) -> list[dict[str, Any]]:
    """For each label, the share of each fold's posts that have it; none without folds."""
    if posts is None or not posts.get("folds"):
        return []
    return [{"label": label, "shares": _shares(posts["folds"], k)} for k, label in enumerate(posts["labels"])]


def corpora(posts: Posts | None) -> list[dict[str, Any]]:
    """What the posts were mixed from: name, number of posts, and the labels that each corpus knows, if it says so.

    Empty for a single corpus, which the page names anyway.
    """
    found = (posts or {}).get("corpora") or []
    return list(found) if len(found) > 1 else []


def positive_rule(posts: Posts) -> str:
    """When a label counts as positive, in words."""
    match posts.get("targets"):
        case "majority":
            return "positive where more than half of the annotators agree"
        case "any":
            return "positive where any annotator chose it"
    return f"positive where at least {100 * posts['label_threshold']:g} % of the annotators agree"


def _shares(parts: Sequence[Mapping[str, Any]], k: int) -> list[dict[str, Any]]:
    """Of each part: the share of label k among the posts that know it (None without any), the number that
    have it, and the number that know it (None where all do)."""
    return [
        _share(part["positives"][k], part["num_posts"], part["known"][k] if "known" in part else None) for part in parts
    ]


def _share(count: int, num_posts: int, known: int | None) -> dict[str, Any]:
    judged = num_posts if known is None else known
    return {"share": count / judged if judged else None, "count": count, "known": known}
