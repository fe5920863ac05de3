"""From raw posts to prepared ones: chunks cleaned on Ray, then what is decided with all posts in view, then files."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from emo import labels, posts, raw, storage
from emo.account import describe
from emo.config import PrepareConfig, UserError, to_dict
from emo.console import Progress
from emo.errors import in_words
from emo.monitoring import count
from emo.parts import gather, missing_parts
from emo.raw import Chunk, Source
from emo.room import num_cpus
from emo.rows import KEPT, SMALL, Cleaning, Finish, clean_chunk
from emo.tables import read_folder, write_table
from emo.verdict import Verdict, decide
from emo.work import Manifest, make_set

TASKS_PER_CORE, MAX_CHUNKS_PER_TASK = 4, 8
"""A task cleans several chunks where there are many: between two tasks a core waits for a quarter of a second."""

Purpose = Literal["train", "evaluate", "read"]
"""train splits the labelled posts; evaluate calls all of them test; read leaves the labels aside."""


def posts_key(
    sources: Sequence[Source],
    config: PrepareConfig,
    seed: int,
    purpose: Purpose = "train",
    keep: Sequence[str] = (),
) -> str:
    """What :func:`prepare` writes as fingerprint: files of another size or time give another."""
    stamps = []
    for source in sources:
        for uri in source.files:
            fs, path = storage.filesystem(uri)
            info = fs.info(path)
            times = (
                info[name] for name in ("ETag", "etag", "mtime", "LastModified", "updated", "created") if info.get(name)
            )
            stamp = [uri, info["size"], str(next(times, None))]
            # a converted file is named by its content, wherever and whenever it was written
            stamps.append([uri.rpartition("/")[2]] if source.is_converted else stamp)
    told = [[source.root, source.labels, source.prefix] for source in sources]
    return storage.digest([posts.FORMAT, stamps, told, to_dict(config), seed, purpose, list(keep)])


def prepare(
    sources: Sequence[Source],
    folder: str,
    config: PrepareConfig,
    *,
    seed: int,
    purpose: Purpose = "train",
    keep: Sequence[str] = (),
    source_name: str | None = None,
    refresh: bool = False,
) -> tuple[Manifest, bool]:
    """The manifest of the sources' posts as a set in ``folder``, and whether they were there; Ray must be running.

    A killed preparation goes on where it was. ``keep`` names columns of the data that each post keeps.
    """
    key = posts_key(sources, config, seed, purpose, keep)

    name = source_name or " and ".join(source.name for source in sources)

    def make(work: str) -> Manifest:
        made = _make(sources, folder, work, config, seed, purpose, keep)
        return made | {"source": name, "fingerprint": key}

    with plain_errors(f"Posts cannot be written to {folder}"):
        return make_set(folder, key, make, refresh=refresh)


def _make(
    sources: Sequence[Source],
    folder: str,
    work: str,
    config: PrepareConfig,
    seed: int,
    purpose: Purpose,
    keep: Sequence[str],
) -> Manifest:
    chunks = raw.plan_chunks(sources)
    raw.check_columns(config.columns, [chunk for chunk in chunks if not sources[chunk.source].is_converted] or chunks)
    space = None if config.labels in (None, "auto") else labels.named_space(str(config.labels))
    if config.labels is None and len(sources) == 1 and sources[0].labels is None:
        space = labels.named_space("plutchik")
    task = Cleaning(
        chunks=chunks,
        sources=list(sources),
        config=config,
        labelled=purpose != "read",
        renames=labels.renames(config.label_map, space, mixing=len(sources) > 1),
        kept=_kept_types(chunks, keep),
    )
    parts = storage.join(work, "rows")
    _clean(task, parts)
    rows = read_folder(parts, list(SMALL)).combine_chunks()
    if rows.num_rows != chunks[-1].index + chunks[-1].num_rows:
        storage.remove(parts)
        raise UserError("--data changed while it was being read; start again.")
    verdict = decide(rows, task, space, seed, splitting=purpose == "train")
    data, rejects = storage.new_data_folder(), storage.new_data_folder("rejects")
    kept = {KEPT + name: kind for name, kind in task.kept.items()}
    schema = posts.schema(verdict.space, verdict.positive_share, kept)
    gather(
        parts,
        storage.join(folder, data),
        Finish(schema=schema, splits=verdict.splits, targets=verdict.targets, folds=verdict.folds),
        compression={name: "none" if name == "image" else "zstd" for name in _leaves(schema)},  # images are compressed
        use_dictionary=["split"],
        write_statistics=["post_id", "split"],
    )
    _write_rejects(rows, verdict, storage.join(folder, rejects))
    written = {"kind": "posts", "format": posts.FORMAT, "data": data, "rejects": rejects, "kept": list(kept)}
    described = describe(rows, verdict, task)
    count("emo_posts_prepared_total", described["num_posts"])
    count("emo_posts_rejected_total", described["num_rejects"])
    return written | described


def _kept_types(chunks: Sequence[Chunk], keep: Sequence[str]) -> dict[str, pa.DataType]:
    """The columns to keep, with the type that all files agree on, or else text."""
    found = sorted({name for chunk in chunks for name in chunk.columns})
    names = found if list(keep) == ["all"] else list(keep)
    if unknown := [name for name in names if name not in found]:
        raise UserError(f"unknown column {unknown[0]!r} (--keep-columns); --data has: {', '.join(found)}.")
    types = {name: {chunk.types.get(name, pa.string()) for chunk in chunks} for name in names}
    return {name: kinds.pop() if len(kinds) == 1 else pa.string() for name, kinds in types.items()}


def _clean(task: Cleaning, parts: str) -> None:
    """Write the part of every chunk that has none yet."""
    todo = missing_parts(parts, len(task.chunks))
    storage.make_folder(parts)
    total = sum(chunk.num_rows for chunk in task.chunks)
    progress = Progress("posts cleaned", total, total - sum(task.chunks[number].num_rows for number in todo))
    if todo:
        kwargs = {"task": ray.put(task), "parts": parts}
        together = min(max(1, len(todo) // (TASKS_PER_CORE * num_cpus())), MAX_CHUNKS_PER_TASK)
        blocks = -(-len(todo) // together)
        dataset = ray.data.from_items([{"number": number} for number in todo], override_num_blocks=blocks)
        cleaned = dataset.map_batches(_clean_chunks, batch_size=None, batch_format="pyarrow", fn_kwargs=kwargs)  # type: ignore[arg-type]
        cleaned.set_name("clean posts")
        for row in cleaned.iter_rows():
            progress.advance(row["num_rows"])
            count("emo_posts_read_total", row["num_rows"])
    progress.stop()


def _clean_chunks(block: pa.Table, task: ray.ObjectRef, parts: str) -> Iterator[pa.Table]:
    told = ray.get(task)
    for number in block["number"].to_pylist():
        yield pa.table({"num_rows": [clean_chunk(number, told, parts)]})


def _leaves(schema: pa.Schema) -> list[str]:
    """Column names as Parquet spells them: a list's values have a longer one."""
    leaves = []
    for each in schema:
        match each.type:
            case kind if pa.types.is_struct(kind) or pa.types.is_map(kind):
                continue  # a kept column; Parquet's default will do
            case kind if pa.types.is_nested(kind):
                leaves.append(f"{each.name}.list.element")
            case _:
                leaves.append(each.name)
    return leaves


def _write_rejects(rows: pa.Table, verdict: Verdict, uri: str) -> None:
    table = rows.select(["source", "post_id"]).append_column("reason", pa.array(verdict.reasons, pa.string()))
    write_table(storage.join(uri, "rejects.parquet"), table.filter(pc.is_valid(table["reason"])))


@contextlib.contextmanager
def plain_errors(action: str) -> Iterator[None]:
    """Turn what went wrong in a Ray task, or on the disk, into the sentence that it comes down to."""
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it would print the traceback that is also raised
    context = ray.data.DataContext.get_current().copy()
    context.raise_original_map_exception = True  # a wrapped one has lost its cause when it arrives
    try:
        with ray.data.DataContext.current(context), in_words(action):
            yield
    finally:
        logger.setLevel(level)
