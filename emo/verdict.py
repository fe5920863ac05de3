"""What is decided about all posts of a corpus together: labels, duplicates, targets, splits."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emo import duplicates, labels, splits
from emo.config import ALL_SPLITS, SPLITS, UserError
from emo.rows import Cleaning


@dataclass(frozen=True)
class Verdict:
    """What is decided about all N rows together."""

    space: tuple[str, ...]
    positive_share: float
    """The lowest share at which a label is positive."""
    reasons: np.ndarray
    """Why a row is rejected, or None: object (N,)."""
    splits: np.ndarray
    """An index into ALL_SPLITS for each row, -1 where it is rejected: int8 (N,)."""
    targets: np.ndarray
    """Shares, zeros where unlabelled, NaN where nobody could give the label: float32 (N, K)."""
    folds: np.ndarray
    """The fold of each row in every repeat, -1 where it is in none: int8 (N, R)."""
    disagreement: list[float] | None = None
    """For each label, how likely two annotators of a post disagree on it; None without votes."""
    num_across: int = 0
    num_near: int = 0
    """Posts that are kept together with others that are nearly the same."""
    num_alike: int = 0
    """Posts so much like so many others that they are taken for a template, and not kept together."""
    splits_made: tuple[str, ...] = ()


def decide(rows: pa.Table, task: Cleaning, space: tuple[str, ...] | None, seed: int, *, splitting: bool) -> Verdict:
    """Label space, duplicates, targets, splits: everything that no row can know alone.

    ``space`` is the label space where it was named; without ``splitting``, all labelled posts are test.
    """
    config = task.config
    reasons = _with_duplicates(rows)
    if all(reason is not None for reason in reasons):
        raise UserError(
            f"No post is left of the {len(reasons)} in --data; the first reasons: {_first_reasons(rows, reasons)}."
        )
    votes, no_fold = _Votes(rows), np.full((len(reasons), config.fold_repeats), -1, np.int8)
    if not task.labelled or (not splitting and not votes.is_labelled.any()):
        return Verdict((), 0.5, reasons, _unlabelled(reasons), np.zeros((len(reasons), 0), np.float32), no_fold)
    is_held = votes.is_labelled & (reasons == None)  # noqa: E711
    if not is_held.any():
        raise UserError(
            "--data has no labelled post; name the column of its labels with --columns.labels, "
            "or with --columns.votes and --columns.annotators."
        )
    if space is None:
        space = _found_space(votes, is_held, task)
    outside = votes.outside(space)
    _check_space(outside, is_held, space, task, splitting)
    for row, name in outside:
        if reasons[row] is None:
            reasons[row] = f"label outside the label space: {name!r}"
    is_held &= reasons == None  # noqa: E711
    if not is_held.any():
        raise UserError("No labelled post of --data has labels of the label space alone; use --label-map or --labels.")
    targets = votes.targets(space)
    targets[_unknown(rows, votes, space, task)] = np.nan
    share = labels.positive_share(config.targets, config.label_threshold)
    codes, disagreement = _unlabelled(reasons), votes.disagreement(targets, is_held)
    codes[is_held] = ALL_SPLITS.index("test")
    verdict = Verdict(space, share, reasons, codes, targets, no_fold, disagreement)
    return _with_splits(verdict, rows, np.flatnonzero(is_held), task, seed) if splitting else verdict


def _unlabelled(reasons: np.ndarray) -> np.ndarray:
    """The splits (N,) of rows none of which has a label: -1 where they are rejected."""
    return np.where(reasons == None, ALL_SPLITS.index("unlabelled"), -1).astype(np.int8)  # noqa: E711


def _with_splits(verdict: Verdict, rows: pa.Table, held: np.ndarray, task: Cleaning, seed: int) -> Verdict:
    """The verdict with the labelled rows, whose numbers are ``held``, dealt into splits and folds."""
    config = task.config
    positives = labels.binarise(verdict.targets[held], verdict.positive_share)
    known = ~np.isnan(verdict.targets[held])
    if not (positives.any(axis=0) & (known & ~positives).any(axis=0)).any():
        raise UserError(
            f"Every labelled post of --data has the same labels at --label-threshold {config.label_threshold}; "
            "there is nothing to learn."
        )
    part = rows.take(held)
    near = duplicates.near_pairs(part["text_signature"], part["image_signature"])
    groups, num_alike = splits.group_ids(part["group"], part["text_hash"], part["image_hash"], near)
    num_near = len(np.unique(np.concatenate(near)))
    given = part["given"].to_pylist()
    corpus = part["corpus"].to_numpy()
    names = splits.make_splits(positives, given, groups, config.val_share, config.test_share, seed, corpus)
    codes, folds = verdict.splits.copy(), verdict.folds.copy()
    codes[held] = [ALL_SPLITS.index(name) for name in names]
    if config.folds:
        folds[held] = splits.make_folds(positives, groups, config.folds, seed, config.fold_repeats)
    is_made = {one for one, other in zip(names, given, strict=True) if one != other}
    return replace(
        verdict,
        splits=codes,
        folds=folds,
        num_across=splits.count_across(names, groups),
        num_near=num_near,
        num_alike=num_alike,
        splits_made=tuple(name for name in SPLITS[1:] if name in is_made),
    )


class _Votes:
    """The shares of all rows, flat: entry e gives row ``row[e]`` the share ``share[e]`` of label ``names[code[e]]``."""

    def __init__(self, rows: pa.Table) -> None:
        names, shares = rows["names"].combine_chunks(), rows["shares"].combine_chunks()
        self.is_labelled = pc.is_valid(names).to_numpy(zero_copy_only=False)
        self.row = pc.list_parent_indices(names).to_numpy()
        encoded = pc.list_flatten(names).dictionary_encode()
        self.names: list[str] = encoded.dictionary.to_pylist()
        self.code = encoded.indices.to_numpy()
        self.share = pc.list_flatten(shares).to_numpy()
        self.num_rows = rows.num_rows
        self.annotators = rows["annotators"].to_numpy()
        self.corpus = rows["corpus"].to_numpy()

    def targets(self, space: Sequence[str]) -> np.ndarray:
        """Shares (N, K), zero where a label was not given."""
        columns = self.columns(space)
        inside = columns >= 0
        targets = np.zeros((self.num_rows, len(space)), np.float32)
        targets[self.row[inside], columns[inside]] = self.share[inside]
        return targets

    def outside(self, space: Sequence[str]) -> list[tuple[int, str]]:
        """Row and name of each label that is not in the space; of a row, the first by alphabet comes first."""
        entries = np.flatnonzero(self.columns(space) < 0)
        return sorted((int(self.row[e]), self.names[self.code[e]]) for e in entries)

    def used(self, is_held: np.ndarray, corpus: int | None = None) -> list[str]:
        """The labels that accepted rows, of one corpus or all, were given, by alphabet."""
        chosen = is_held[self.row] if corpus is None else is_held[self.row] & (self.corpus[self.row] == corpus)
        return sorted({self.names[code] for code in np.unique(self.code[chosen])})

    def disagreement(self, targets: np.ndarray, is_held: np.ndarray) -> list[float] | None:
        """For each label, the share of pairs of annotators of a post that disagree on it (N posts of several)."""
        several = is_held & (np.nan_to_num(self.annotators) > 1)
        if not several.any():
            return None
        count, share = self.annotators[several, None], targets[several]
        pairs = 2 * share * (1 - share) * count / (count - 1)
        return [None if np.isnan(column).all() else float(np.nanmean(column)) for column in pairs.T]  # type: ignore[misc]

    def columns(self, space: Sequence[str]) -> np.ndarray:
        """The place of each entry's label in the space, or -1."""
        return _places(self.names, space)[self.code]


def _places(names: Sequence[str], space: Sequence[str]) -> np.ndarray:
    """Of each name its place in the space, or -1."""
    place = {name: k for k, name in enumerate(space)}
    return np.array([place.get(name, -1) for name in names], dtype=np.int64)


def _with_duplicates(rows: pa.Table) -> np.ndarray:
    """The rows' own reasons, and that of every row whose id an earlier one has."""
    reasons = np.array(rows["reason"].to_pylist(), dtype=object)
    accepted = np.flatnonzero(reasons == None)  # noqa: E711
    ids = rows["post_id"].combine_chunks().take(pa.array(accepted)).dictionary_encode()
    if len(ids.dictionary) == len(ids):
        return reasons
    first: dict[int, int] = {}
    for row, code in zip(accepted.tolist(), ids.indices.to_pylist(), strict=True):
        if first.setdefault(code, row) != row:
            source = rows["source"][first[code]].as_py()
            reasons[row] = f"duplicate id: {ids.dictionary[code].as_py()!r} is first at {source}"
    return reasons


def _found_space(votes: _Votes, is_held: np.ndarray, task: Cleaning) -> tuple[str, ...]:
    """The labels of the corpora one after the other, each in its published order or else by alphabet."""
    if task.config.labels == "auto":
        return tuple(votes.used(is_held))
    names = [
        task.renames.get(name, name)
        for number, source in enumerate(task.sources)
        for name in (source.labels or votes.used(is_held, number))
    ]
    return tuple(dict.fromkeys(name for name in names if name))


def _unknown(rows: pa.Table, votes: _Votes, space: Sequence[str], task: Cleaning) -> np.ndarray:
    """Which targets (N, K) nobody could give: labels that a corpus, or this row of it, does not know."""
    unknown = np.zeros((rows.num_rows, len(space)), bool)
    for number, source in enumerate(task.sources):
        of_source = votes.corpus == number
        names = source.labels
        if names is None and len(task.sources) > 1:
            names = tuple(votes.used(of_source & votes.is_labelled))
        if names is not None:
            known = {task.renames.get(name, name) for name in names}
            unknown[np.ix_(of_source, [name not in known for name in space])] = True
    lists = rows["unknown"].combine_chunks()
    named = [task.renames.get(name, name) for name in pc.list_flatten(lists).to_pylist()]
    row, column = pc.list_parent_indices(lists).to_numpy(), _places(named, space)
    unknown[row[column >= 0], column[column >= 0]] = True
    inside = votes.columns(space)
    unknown[votes.row[inside >= 0], inside[inside >= 0]] = False  # what was given is known
    return unknown


def _check_space(
    outside: list[tuple[int, str]], is_held: np.ndarray, space: Sequence[str], task: Cleaning, splitting: bool
) -> None:
    """Raise the one sentence where the corpus speaks of other labels than ``space``."""
    outside = [(row, name) for row, name in outside if is_held[row]]
    num_lost, num_held = len({row for row, _ in outside}), int(is_held.sum())
    if num_lost > num_held / 2:
        common = ", ".join(repr(name) for name, _ in Counter(name for _, name in outside).most_common(5))
        having = f"{num_lost} of the {num_held} labelled posts have labels"
        if not splitting:
            raise UserError(
                f"{having} that the model does not know (such as {common}); it knows {', '.join(space)}. Map them with "
                "--label-map, or write --no-evaluate to leave the labels aside."
            )
        raise UserError(
            f"{having} outside --labels {task.config.labels or 'plutchik'} (such as {common}); write --labels auto for "
            "the corpus's own names, name the labels, or map them with --label-map."
        )


def _first_reasons(rows: pa.Table, reasons: np.ndarray) -> str:
    return "; ".join(
        f"{source}: {reason}" for source, reason in zip(rows["source"][:3].to_pylist(), reasons[:3], strict=True)
    )
