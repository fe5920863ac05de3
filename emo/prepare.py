"""From raw posts to prepared ones: the Ray Data pipeline, and what is decided with all posts in view."""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import ray
import ray.data

from emo import labels, posts, raw, splits, storage
from emo.config import ALL_SPLITS, SPLITS, PrepareConfig, UserError, to_dict
from emo.errors import sentence
from emo.rows import SMALL, clean_chunks, finished
from emo.tables import write_table

FORMAT = 1
"""Counts changes to what is written, so that a cache made by other code is not taken for this one's."""
BYTES_PER_FILE = 32 * 2**20
SMALL_BLOCK = 2 * 2**20


@dataclass(frozen=True)
class Verdict:
    """What is decided about all N rows together."""

    space: tuple[str, ...]
    reasons: list[str | None]
    """Why a row is rejected."""
    splits: np.ndarray
    """An index into ALL_SPLITS for each row, -1 where it is rejected: int8 (N,)."""
    targets: np.ndarray
    """Shares, zeros where unlabelled: float32 (N, K)."""
    num_across: int
    splits_made: list[str]


def posts_key(source: str, config: PrepareConfig, seed: int, *, labelled: bool = True) -> str:
    """What :func:`prepare` would write as fingerprint: files of another size or time give another."""
    stamps = []
    for uri in raw.find_files(source):
        fs, path = storage.filesystem(uri)
        info = fs.info(path)
        times = (
            info[name] for name in ("ETag", "etag", "mtime", "LastModified", "updated", "created") if info.get(name)
        )
        stamps.append([uri, info["size"], str(next(times, None))])
    return storage.digest([FORMAT, stamps, to_dict(config), seed, labelled])


def prepare(
    source: str, folder: str, config: PrepareConfig, *, seed: int, labelled: bool = True, source_name: str | None = None
) -> dict[str, Any]:
    """Write the posts of ``source`` as a set into ``folder`` and return its manifest; Ray must be running.

    Without ``labelled`` the labels are not read: every post is unlabelled and the label space empty.
    """
    fingerprint = posts_key(source, config, seed, labelled=labelled)
    chunks = raw.plan_chunks(raw.find_files(source))
    raw.check_columns(config.columns, chunks)
    with _plain_errors(folder), ray.data.DataContext.current(_context()):
        cleaned = _cleaned(chunks, config, labelled)
        rows = _small_columns(cleaned)
        if rows.num_rows != chunks[-1].index + chunks[-1].num_rows:
            raise UserError(f"{source} changed while it was being read; start again.")
        verdict = decide(rows, config, seed, labelled)
        data, rejects = storage.new_data_folder(), storage.new_data_folder("rejects")
        _write_posts(cleaned, verdict, storage.join(folder, data), config)
        _write_rejects(rows, verdict, storage.join(folder, rejects))
        manifest = {"kind": "posts", "data": data, "rejects": rejects, "source": source_name or source}
        manifest |= describe(rows, verdict, config) | {"config": to_dict(config), "fingerprint": fingerprint}
        storage.finish(folder, manifest)
    return manifest


# All posts on Ray


def _context() -> ray.data.DataContext:
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True  # the same posts in the same order every time
    context.raise_original_map_exception = True  # a wrapped one has lost its cause when it arrives
    return context


def _cleaned(chunks: Sequence[raw.Chunk], config: PrepareConfig, labelled: bool) -> ray.data.Dataset:
    """Every row of every chunk as SMALL and LARGE, kept in Ray's object store."""
    items = [{"chunk": number} for number in range(len(chunks))]
    kwargs = {"chunks": ray.put(list(chunks)), "config": config, "labelled": labelled}
    return (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(clean_chunks, batch_size=None, batch_format="pyarrow", fn_kwargs=kwargs)  # type: ignore[arg-type]
        .materialize()
    )


def _small_columns(cleaned: ray.data.Dataset) -> pa.Table:
    tables = ray.get(cleaned.select_columns(list(SMALL)).to_arrow_refs())
    return pa.concat_tables(tables).combine_chunks().sort_by("index")


# What is decided about all posts together


def decide(rows: pa.Table, config: PrepareConfig, seed: int, labelled: bool) -> Verdict:
    """Label space, duplicates, targets, splits: everything that no row can know alone."""
    reasons = _with_duplicates(rows)
    if all(reasons):
        raise UserError(
            f"No post is left of the {len(reasons)} in --data; the first reasons: {_first_reasons(rows, reasons)}."
        )
    named = _named_shares(rows)
    space: tuple[str, ...] = ()
    if labelled:
        accepted = [
            shares for shares, reason in zip(named, reasons, strict=True) if shares is not None and reason is None
        ]
        if not accepted:
            raise UserError(
                "--data has no labelled post; name the column of its labels with --columns.labels, "
                "or with --columns.votes and --columns.annotators."
            )
        space = labels.parse_label_space(config.labels, {name for shares in accepted for name in shares})
        _check_space(accepted, space, config.labels)
    targets = np.zeros((len(reasons), len(space)), dtype=np.float32)
    for number, shares in enumerate(named):
        if shares and reasons[number] is None:
            try:
                targets[number] = labels.targets_of(shares, space)
            except ValueError as error:
                reasons[number] = str(error)
    kept = np.array([reason is None for reason in reasons])
    codes = np.where(kept, ALL_SPLITS.index("unlabelled"), -1).astype(np.int8)
    held = np.flatnonzero(kept & np.array([shares is not None for shares in named]))
    if not labelled:
        return Verdict(space, reasons, codes, targets, 0, [])
    names, num_across, made = _split(rows.take(held), targets[held], config, seed)
    codes[held] = [ALL_SPLITS.index(name) for name in names]
    return Verdict(space, reasons, codes, targets, num_across, made)


def _with_duplicates(rows: pa.Table) -> list[str | None]:
    """The rows' own reasons, and that of every row whose id an earlier one has."""
    first: dict[str, str] = {}
    reasons = []
    for post_id, source, reason in zip(
        *(rows[name].to_pylist() for name in ("post_id", "source", "reason")), strict=True
    ):
        if reason is None and first.setdefault(post_id, source) != source:
            reason = f"duplicate id: {post_id!r} is first at {first[post_id]}"
        reasons.append(reason)
    return reasons


def _named_shares(rows: pa.Table) -> list[dict[str, float] | None]:
    pairs = zip(rows["names"].to_pylist(), rows["shares"].to_pylist(), strict=True)
    return [None if names is None else dict(zip(names, shares, strict=True)) for names, shares in pairs]


def _check_space(accepted: Sequence[dict[str, float]], space: Sequence[str], value: str) -> None:
    """Raise the one sentence where the corpus speaks of other labels than ``space``."""
    outside = Counter(name for shares in accepted for name in shares if name not in space)
    num_lost = sum(not shares.keys() <= set(space) for shares in accepted)
    if num_lost > len(accepted) / 2:
        common = ", ".join(repr(name) for name, _ in outside.most_common(5))
        raise UserError(
            f"{num_lost} of the {len(accepted)} labelled posts have labels outside --labels {value} "
            f"(such as {common}); write --labels auto for the corpus's own names, or name the labels."
        )


def _split(rows: pa.Table, targets: np.ndarray, config: PrepareConfig, seed: int) -> tuple[list[str], int, list[str]]:
    """A split for each labelled row, how many posts have a twin in another split, and which splits are new."""
    positives = labels.binarise(targets, config.label_threshold)
    if (positives == positives[0]).all():
        raise UserError(
            f"Every labelled post of --data has the same labels at --label-threshold {config.label_threshold}; "
            "there is nothing to learn."
        )
    columns = (rows[name].to_pylist() for name in ("group", "text_hash", "image_hash"))
    groups, given = splits.group_ids(*columns), rows["given"].to_pylist()
    names = splits.make_splits(positives, given, groups, config.val_share, config.test_share, seed)
    return names, splits.count_across(names, groups), [name for name in SPLITS[1:] if name not in given]


def _first_reasons(rows: pa.Table, reasons: Sequence[str | None]) -> str:
    return "; ".join(
        f"{source}: {reason}" for source, reason in zip(rows["source"][:3].to_pylist(), reasons[:3], strict=True)
    )


# Writing


def _write_posts(cleaned: ray.data.Dataset, verdict: Verdict, uri: str, config: PrepareConfig) -> None:
    fs, path = storage.filesystem(uri)
    fs.makedirs(path, exist_ok=True)
    schema = posts.schema(verdict.space, config.label_threshold)
    kwargs = {"schema": schema, "verdict": ray.put((verdict.splits, verdict.targets))}
    cleaned.map_batches(
        finished,  # type: ignore[arg-type]
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        fn_kwargs=kwargs,
    ).write_parquet(
        path,
        filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)),
        # Small blocks are gathered into files; large ones are a file each, since gathering costs a copy.
        min_bytes_per_file=BYTES_PER_FILE if cleaned.size_bytes() < SMALL_BLOCK * cleaned.num_blocks() else None,
        schema=schema,
        row_group_size=1024,
        compression={name: "none" if name == "image" else "zstd" for name in _leaves(schema)},  # images are compressed
        use_dictionary=["split"],
        write_statistics=["post_id", "split"],
    )


def _leaves(schema: pa.Schema) -> list[str]:
    """Column names as Parquet spells them: a list's values have a longer one."""
    return [f"{field.name}.list.element" if pa.types.is_nested(field.type) else field.name for field in schema]


def _write_rejects(rows: pa.Table, verdict: Verdict, uri: str) -> None:
    table = rows.select(["source", "post_id"]).append_column("reason", pa.array(verdict.reasons, pa.string()))
    write_table(storage.join(uri, "rejects.parquet"), table.filter(pc.is_valid(table["reason"])))


def describe(rows: pa.Table, verdict: Verdict, config: PrepareConfig) -> dict[str, Any]:
    """The manifest's counts; rejects are counted by what their reasons have in common."""
    kept = rows.filter(pa.array(verdict.splits >= 0))
    positives = labels.binarise(verdict.targets, config.label_threshold)
    counts = {
        name: {"num_posts": int(mask.sum()), "positives": positives[mask].sum(axis=0).tolist()}
        for code, name in enumerate(ALL_SPLITS)
        for mask in [verdict.splits == code]
    }
    reasons = Counter(reason.partition(":")[0] for reason in verdict.reasons if reason is not None)
    return {
        "labels": list(verdict.space),
        "label_threshold": config.label_threshold,
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
        "splits": counts,
        "splits_made": verdict.splits_made,
        "num_duplicates_across_splits": verdict.num_across,
        "warnings": _warnings(verdict, counts),
    }


def _warnings(verdict: Verdict, counts: dict[str, dict[str, Any]]) -> list[str]:
    warnings = []
    for name in SPLITS:
        none = [label for label, num in zip(verdict.space, counts[name]["positives"], strict=True) if not num]
        if none:
            effect = "cannot be learned" if name == "train" else f"cannot be judged on {name}"
            warnings.append(f"No {name} post has {', '.join(none)}: what no post shows {effect}.")
    if verdict.num_across:
        warnings.append(
            f"{verdict.num_across} posts share their group, text or image with a post of another given split."
        )
    return warnings


# Errors


@contextlib.contextmanager
def _plain_errors(folder: str) -> Iterator[None]:
    """Turn what went wrong in a Ray task, or on the disk, into the sentence that it comes down to."""
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it would print the traceback that is also raised
    try:
        yield
    except Exception as error:
        if said := sentence(error, f"Posts cannot be written to {folder}"):
            raise UserError(said) from None
        raise
    finally:
        logger.setLevel(level)
