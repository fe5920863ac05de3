"""Label spaces, and annotators' votes as targets: the share of annotators who chose each label."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emo.config import PLUTCHIK, Targets, UserError

TOLERANCE = 1e-6
"""How far below the threshold a share still counts, so that 3 of 5 annotators reach 0.6 in float32."""


SYNONYMS = {
    "happiness": "joy",
    "happy": "joy",
    "joyful": "joy",
    "sad": "sadness",
    "angry": "anger",
    "afraid": "fear",
    "fearful": "fear",
    "scared": "fear",
    "disgusted": "disgust",
    "surprised": "surprise",
    "trustful": "trust",
    "no emotion": "neutral",
}
"""What corpora call the emotions that others know by Plutchik's names."""


def named_space(value: str) -> tuple[str, ...]:
    """The label space that ``plutchik`` or names separated by commas stand for."""
    if value.strip().casefold() == "plutchik":
        return PLUTCHIK
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


def renames(pairs: Sequence[str], space: Sequence[str] | None, *, mixing: bool) -> dict[str, str]:
    """Label name -> the name it is read as, "" where it is left out: ``pairs`` as in happiness=joy, and SYNONYMS.

    A synonym is read as another label only where that is needed: where ``space`` knows the other name alone, or
    where several corpora, each with words of its own, are read as one.
    """
    if space is not None:
        known = {name: other for name, other in SYNONYMS.items() if other in space and name not in space}
    else:
        known = SYNONYMS if mixing else {}
    split = (pair.split("=") for pair in pairs)
    return known | {normal(name): normal(other) for name, other in split}


def renamed(named: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    """Shares under their new names; labels that become one add up, to 1 at most."""
    result: dict[str, float] = {}
    for name, share in named.items():
        if other := names.get(name, name):
            result[other] = min(1.0, result.get(other, 0.0) + share)
    return result


def positive_share(targets: Targets, label_threshold: float) -> float:
    """The lowest share at which a label counts as positive."""
    match targets:
        case "majority":
            return 0.5 + 10 * TOLERANCE  # more than half
        case "any":
            return 2 * TOLERANCE
    return label_threshold


def binarise(targets: np.ndarray, threshold: float) -> np.ndarray:
    """Which targets, of any shape, are positive: the threshold is on shares, not on probs, and unknown ones, NaN, are
    not."""
    return np.asarray(targets) >= threshold - TOLERANCE


def hard_targets(shares: np.ndarray, threshold: float) -> np.ndarray:
    """Which labels are present, of shares (N, K): boolean, or int8 with -1 where that is unknown."""
    present, unknown = binarise(shares, threshold), np.isnan(shares)
    return np.where(unknown, -1, present).astype(np.int8) if unknown.any() else present


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
