"""Posts a second of emo.prepare on 50,000 posts, against a bare multiprocessing pool with a process on every core, and
against the map of Hugging Face datasets with as many.

All parse, clean, decode, crop, encode, sign for near-duplicates and write Parquet; ours also checks, counts, splits and
goes on where it was killed. The pool's processes are up before the clock starts, as Ray is; those of map start with it,
since it has no other way. Limits: at least 0.9 of the pool's posts a second, and 1.0 of map's.
"""

import json
import multiprocessing
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import prepare_files
from measure import in_turn, per_second, show
from plain_rows import plain_row, plain_rows

from emo.config import PrepareConfig
from emo.room import num_cpus

pytestmark = pytest.mark.bench

NUM_POSTS = 50_000
LIMIT_POOL, LIMIT_MAP = 0.9, 1.0
ROUNDS = 2


@pytest.fixture(scope="module")
def many_posts(raw_posts: Path) -> Path:
    """NUM_POSTS posts with the images of fewer, each of which several posts show."""
    rows = [json.loads(line) for line in raw_posts.open()]
    source = raw_posts.with_name("many.jsonl")
    with source.open("w") as file:
        for number in range(NUM_POSTS):
            row = rows[number % len(rows)]
            file.write(json.dumps(row | {"id": str(number), "text": f"{row['text']} {number}"}) + "\n")
    return source


@pytest.fixture(scope="module")
def pool(ray_session: None, raw_posts: Path) -> Iterator[Pool]:
    with multiprocessing.get_context("spawn").Pool(num_cpus()) as pool:  # a fork would copy Ray's locks
        _write_plainly(pool, raw_posts, raw_posts.parent / "few.parquet", 64)
        yield pool


def _write_plainly(pool: Pool, source: Path, target: Path, most: int | None = None) -> int:
    with source.open() as file:
        tasks = [(str(source.parent), line) for line in file][:most]
    rows = pool.map(plain_row, tasks, chunksize=32)
    pq.write_table(pa.Table.from_pylist(rows), target)
    return len(rows)


def _write_mapped(source: Path, target: Path, cache: Path) -> int:
    import datasets

    datasets.disable_progress_bars()
    with source.open() as file:
        lines = datasets.Dataset.from_dict({"line": list(file)})
    kwargs = {"folder": str(source.parent)}
    mapped = lines.map(
        plain_rows,
        batched=True,
        batch_size=32,
        num_proc=num_cpus(),
        remove_columns=["line"],
        fn_kwargs=kwargs,
        cache_file_name=str(cache),
        load_from_cache_file=False,
        writer_batch_size=256,
    )
    mapped.to_parquet(str(target))
    return len(mapped)


def test_prepare(pool: Pool, many_posts: Path, tmp_path: Path) -> None:
    counts: list[int] = []

    def ours() -> None:
        manifest = prepare_files(many_posts, str(tmp_path / f"posts-{len(counts)}"), PrepareConfig(labels="auto"))
        counts.append(manifest["num_posts"])

    def bare_pool() -> None:
        counts.append(_write_plainly(pool, many_posts, tmp_path / "plain.parquet"))

    def mapped() -> None:
        counts.append(_write_mapped(many_posts, tmp_path / "mapped.parquet", tmp_path / "cache.arrow"))

    our_times, pool_times, map_times = in_turn(ours, bare_pool, mapped, rounds=ROUNDS)
    assert len(set(counts)) == 1, "the sides did not prepare the same posts"
    rate = per_second(NUM_POSTS, our_times)
    of_pool = show("prepare, pool", rate, per_second(NUM_POSTS, pool_times), "posts/s", f">= {LIMIT_POOL}")
    of_map = show("prepare, map", rate, per_second(NUM_POSTS, map_times), "posts/s", f">= {LIMIT_MAP}")
    assert of_pool >= LIMIT_POOL
    assert of_map >= LIMIT_MAP
