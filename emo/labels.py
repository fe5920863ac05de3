"""Label spaces, and annotators' votes as targets: the share of annotators who chose each label."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from emo.config import PLUTCHIK, UserError

TOLERANCE = 1e-6
"""How far below the threshold a share still counts, so that 3 of 5 annotators reach 0.6 in float32."""


def parse_label_space(value: str, names_found: Iterable[str]) -> tuple[str, ...]:
    """The classes in their fixed order: plutchik, auto (``names_found`` by alphabet) or names separated by commas."""
    match value.strip().casefold():
        case "plutchik":
            return PLUTCHIK
        case "auto":
            return tuple(sorted({normal(name) for name in names_found}))
    names = tuple(normal(name) for name in value.split(","))
    if not all(names):
        raise UserError(f"--labels is {value!r}, which holds an empty name; write plutchik, auto or joy,anger,fear.")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"--labels names {twice[0]!r} twice.")
    return names


def normal(name: object) -> str:
    """A label's name as it is compared: 'Joy ' is 'joy'."""
    return str(name).strip().casefold()


def shares(labels: Any, votes: Any, annotators: Any) -> dict[str, float] | None:
    """Label name -> share in (0, 1]; None where the post is unlabelled, {} where it is labelled with nothing.

    Votes win over labels. A ValueError says in a few words why the values cannot be read.
    """
    if not is_missing(votes):
        return _vote_shares(_vote_counts(votes), annotators)
    return None if is_missing(labels) else dict.fromkeys(_label_names(labels), 1.0)


def targets_of(named: Mapping[str, float], space: Sequence[str]) -> np.ndarray:
    """Targets (K,) in the order of ``space``; a label outside it is a ValueError."""
    outside = sorted(set(named) - set(space))
    if outside:
        raise ValueError(f"label outside the label space: {outside[0]!r}")
    return np.array([named.get(name, 0.0) for name in space], dtype=np.float32)


def binarise(targets: np.ndarray, threshold: float) -> np.ndarray:
    """Which targets, of any shape, are positive: the label threshold is on shares, not on probs."""
    return np.asarray(targets) >= threshold - TOLERANCE


def is_missing(value: Any) -> bool:
    """None, NaN and blank text: what the formats write for "nothing here"."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _label_names(labels: Any) -> list[str]:
    if isinstance(labels, str):
        labels = labels.split(";")
    if isinstance(labels, (int, float)):
        labels = [labels]
    if not isinstance(labels, (list, tuple, np.ndarray)) or not all(isinstance(x, (str, int)) for x in labels):
        raise ValueError("labels are neither a list of names nor names separated by ';'")
    return [name for name in map(normal, labels) if name]


def _vote_counts(votes: Any) -> dict[str, float]:
    if isinstance(votes, str):
        try:
            votes = json.loads(votes)
        except (ValueError, RecursionError):
            raise ValueError("votes are not valid JSON") from None
    try:
        pairs = list(votes.items() if isinstance(votes, Mapping) else votes)
        counts: dict[str, float] = {}
        for name, count in pairs:
            counts[normal(name)] = counts.get(normal(name), 0.0) + (0.0 if count is None else float(count))
    except (TypeError, ValueError, AttributeError):
        raise ValueError("votes are not a mapping from label name to count") from None
    if not all(math.isfinite(count) and count >= 0 for count in counts.values()):
        raise ValueError("a vote count is negative or not a number")
    return counts


def _vote_shares(counts: dict[str, float], annotators: Any) -> dict[str, float]:
    if is_missing(annotators):
        raise ValueError("votes without annotators")
    try:
        total = float(annotators)
    except (TypeError, ValueError):
        total = math.nan
    if not (math.isfinite(total) and total > 0):
        raise ValueError("annotators is not a number above 0")
    if any(count > total for count in counts.values()):
        raise ValueError("more votes for a label than annotators")
    return {name: count / total for name, count in counts.items() if name and count > 0}
