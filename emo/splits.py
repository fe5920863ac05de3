"""Train, val and test, or folds: stratified over all labels at once, and no group of posts in two of them."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold, MultilabelStratifiedShuffleSplit
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from emo.config import UserError

MIN_POSTS = 10
MAX_COPIES, MAX_COPIED_SHARE = 50, 0.01
"""The larger of these, in posts, is what likeness may join to a group: more are written by a template."""


def make_splits(
    positives: np.ndarray,
    given: Sequence[str | None],
    groups: np.ndarray,
    val_share: float,
    test_share: float,
    seed: int,
    corpus: np.ndarray | None = None,
) -> list[str]:
    """A split for each labelled post, from bool ``positives`` (N, K), the splits ``given`` and ``groups`` (N,).

    Given splits stay. A test or val that a ``corpus`` (a number for each post, (N,)) lacks is drawn from its train and
    its posts without a split; the shares are of these. Posts that are not drawn are train. Takes about 8 seconds for
    each missing split of a million posts.
    """
    if len(positives) < MIN_POSTS:
        raise UserError(
            f"--data has {len(positives)} labelled posts; at least {MIN_POSTS} are needed to train, choose and test."
        )
    splits = np.array([split or "train" for split in given], dtype=object)
    for missing, rows in _by_missing(splits, np.zeros(len(splits), int) if corpus is None else corpus):
        free, asked = 1.0, {"val": val_share, "test": test_share}
        for name in missing:
            pool = rows[splits[rows] == "train"]
            drawn = _draw(positives[pool], groups[pool], asked[name] / free, seed)
            splits[pool[drawn]] = name
            free -= asked[name]
    if "train" not in splits:
        raise UserError("--data gives every labelled post to val or test, which leaves nothing to train on.")
    return splits.tolist()


def _by_missing(splits: np.ndarray, corpus: np.ndarray) -> list[tuple[tuple[str, ...], np.ndarray]]:
    """Which splits are missing, and the posts (row numbers) of the corpora that lack just these."""
    kinds: dict[tuple[str, ...], list[np.ndarray]] = {}
    for number in np.unique(corpus):
        rows = np.flatnonzero(corpus == number)
        kinds.setdefault(tuple(name for name in ("test", "val") if name not in splits[rows]), []).append(rows)
    return [(missing, np.sort(np.concatenate(parts))) for missing, parts in sorted(kinds.items())]


def make_folds(
    positives: np.ndarray, groups: np.ndarray, num_folds: int, seed: int, num_repeats: int = 1
) -> np.ndarray:
    """The fold of each post in each of several deals, int8 (N, R), from bool ``positives`` (N, K) and ``groups`` (N,).

    No fold is empty. A deal of a million posts takes about 10 seconds.
    """
    unit, kinds = _units(positives, groups)
    if len(kinds) < num_folds:
        raise UserError(
            f"The labelled posts form {len(kinds)} groups (of one group, text or image), too few for {num_folds} folds."
        )
    deals = [_deal(kinds, num_folds, seed + repeat) for repeat in range(num_repeats)]
    return np.stack(deals, axis=1)[unit]


def _deal(kinds: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """The fold of each group (U,) by its labels (U, K + 1)."""
    splitter = MultilabelStratifiedKFold(n_splits=num_folds, shuffle=True, random_state=seed)
    folds = np.empty(len(kinds), dtype=np.int8)
    for number, (_, held) in enumerate(splitter.split(kinds, kinds)):
        folds[held] = number
    if len(np.unique(folds)) < num_folds:  # the stratifier may leave a tiny fold empty
        folds = np.random.default_rng(seed).permutation(np.arange(len(kinds)) % num_folds).astype(np.int8)
    return folds


def group_ids(
    group: pa.Array | pa.ChunkedArray,
    text_hash: pa.Array | pa.ChunkedArray,
    image_hash: pa.Array | pa.ChunkedArray,
    near: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, int]:
    """A number for each post (N,), shared where posts share a group, a text or an image, or are ``near``; see below.

    All of this holds through other posts, too. Nearness, unlike the rest, may chain the posts of a
    template into one group: where it would join more than 50 posts, or 1 % of all, to the largest
    group that the rest makes of them, it is ignored. Also returned is how many posts this concerns.
    """
    exact = _shared(group, text_hash, image_hash)
    if near is None or not len(near[0]):
        return exact, 0
    first, second = exact[near[0]], exact[near[1]]
    sizes = np.bincount(exact)
    joined = _components(first, second, len(sizes))
    largest = np.zeros(joined.max() + 1, dtype=np.int64)
    np.maximum.at(largest, joined, sizes)
    all_posts = np.bincount(joined, weights=sizes)
    too_many = all_posts - largest > max(MAX_COPIES, MAX_COPIED_SHARE * len(exact))
    kept = ~too_many[joined[first]]
    return _components(first[kept], second[kept], len(sizes))[exact], int(all_posts[too_many].sum())


def count_across(splits: Sequence[str], groups: np.ndarray) -> int:
    """How many posts have a group that more than one split holds."""
    names, name = np.unique(np.asarray(splits), return_inverse=True)
    numbers, number = np.unique(groups, return_inverse=True)
    held = np.zeros((len(numbers), len(names)), dtype=bool)
    held[number, name] = True
    return int((held.sum(axis=1) > 1)[number].sum())


def _shared(*columns: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A number for each row (N,), shared where rows, directly or through others, share a value of one column."""
    num_rows = num_nodes = len(columns[0])
    rows, nodes = [], []
    for column in columns:
        values = pa.chunked_array([column]) if isinstance(column, pa.Array) else column
        encoded = pc.dictionary_encode(values.combine_chunks())
        present = np.flatnonzero(encoded.is_valid())
        rows.append(present)
        nodes.append(encoded.indices.drop_null().to_numpy() + num_nodes)
        num_nodes += len(encoded.dictionary)
    components = _components(np.concatenate(rows), np.concatenate(nodes), num_nodes)
    return components[:num_rows]


def _components(first: np.ndarray, second: np.ndarray, num_nodes: int) -> np.ndarray:
    """The component of each node (num_nodes,), numbered from 0, of the graph with these edges."""
    links = coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(num_nodes, num_nodes))
    return connected_components(links, directed=False)[1]


def _draw(positives: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A mask (N,) of whole groups that hold about ``share`` of the posts and of every label."""
    unit, kinds = _units(positives, groups)
    if len(kinds) < 2:
        raise UserError(
            "The labelled posts form too few groups (of one group, text or image) to be split into train, val and test."
        )
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    chosen = np.zeros(len(kinds), dtype=bool)
    chosen[next(splitter.split(kinds, kinds))[1]] = True
    if chosen.all() or not chosen.any():  # the stratifier may round a tiny split away
        order = np.random.default_rng(seed).permutation(len(kinds))
        chosen[:] = False
        chosen[order[: min(max(1, round(share * len(kinds))), len(kinds) - 1)]] = True
    return chosen[unit]


def _units(positives: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The group of each post counted from 0 (N,), and each group's labels and whether it has none (U, K + 1)."""
    _, unit, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    starts = np.cumsum(sizes) - sizes
    labels = np.logical_or.reduceat(positives[np.argsort(unit, kind="stable")], starts) if len(unit) else positives
    return unit, np.column_stack([labels, ~labels.any(axis=1)])  # posts without any label are spread too
