"""Train, val and test: stratified over all labels at once, and no group of posts in two of them."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from emo.config import UserError

MIN_POSTS = 10


def make_splits(
    targets: np.ndarray, given: Sequence[str | None], groups: np.ndarray, val_share: float, test_share: float, seed: int
) -> list[str]:
    """A split for each labelled post, from positives ``targets`` (N, K), the splits ``given`` and ``groups`` (N,).

    Given splits stay. A missing test or val is drawn from train and the posts without a split; the
    shares are of these. Posts that are not drawn are train.
    """
    if len(targets) < MIN_POSTS:
        raise UserError(
            f"--data has {len(targets)} labelled posts; at least {MIN_POSTS} are needed to train, choose and test."
        )
    splits = np.array([split or "train" for split in given], dtype=object)
    missing = [name for name in ("test", "val") if name not in splits]
    free, asked = 1.0, {"val": val_share, "test": test_share}
    for name in missing:
        pool = np.flatnonzero(splits == "train")
        drawn = _draw(targets[pool], groups[pool], asked[name] / free, seed)
        splits[pool[drawn]] = name
        free -= asked[name]
    if "train" not in splits:
        raise UserError("--data gives every labelled post to val or test, which leaves nothing to train on.")
    return splits.tolist()


def group_ids(group: Sequence[str | None], text_hash: Sequence[Any], image_hash: Sequence[Any]) -> np.ndarray:
    """A number (N,) that posts share where, directly or through others, they share a group, a text or an image."""
    rows, nodes, num_nodes = [], [], len(group)
    for values in (group, text_hash, image_hash):
        codes, found = pd.factorize(pd.Series(values, dtype=object))  # -1 where the value is missing
        present = np.flatnonzero(codes >= 0)
        rows.append(present)
        nodes.append(codes[present] + num_nodes)
        num_nodes += len(found)
    row, node = np.concatenate(rows), np.concatenate(nodes)
    links = coo_matrix((np.ones(len(row), dtype=np.int8), (row, node)), shape=(num_nodes, num_nodes))
    return connected_components(links, directed=False)[1][: len(group)]


def count_across(splits: Sequence[str], groups: np.ndarray) -> int:
    """How many posts have a group that more than one split holds."""
    pairs = set(zip(groups.tolist(), splits, strict=True))
    num_splits = Counter(group for group, _ in pairs)
    return sum(num_splits[group] > 1 for group in groups.tolist())


def _draw(targets: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A mask (N,) of whole groups that hold about ``share`` of the posts and of every label."""
    _, unit = np.unique(groups, return_inverse=True)
    num_units = int(unit.max()) + 1 if len(unit) else 0
    if num_units < 2:
        raise UserError(
            "The labelled posts form too few groups (of one group, text or image) to be split into train, val and test."
        )
    positives = np.zeros((num_units, targets.shape[1]), dtype=bool)
    np.logical_or.at(positives, unit, targets)
    positives = np.column_stack([positives, ~positives.any(axis=1)])  # posts without any label are spread too
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    chosen = np.zeros(num_units, dtype=bool)
    chosen[next(splitter.split(positives, positives))[1]] = True
    if chosen.all() or not chosen.any():  # the stratifier may round a tiny split away
        order = np.random.default_rng(seed).permutation(num_units)
        chosen[:] = False
        chosen[order[: min(max(1, round(share * num_units)), num_units - 1)]] = True
    return chosen[unit]
