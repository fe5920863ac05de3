"""Posts a second of emo.prepare on 10,000 posts, against a bare multiprocessing pool with a process on every core.

Both parse, clean, decode, crop, encode and write Parquet; ours also checks, counts, splits and can resume from any
store. The pool's processes are up before the clock starts, as Ray is. Limit: at least 0.8 of the pool's posts a second.
"""

import multiprocessing
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import prepare_files
from measure import in_turn, per_second, show
from plain_rows import plain_row

from emo.config import PrepareConfig
from emo.session import num_cpus

pytestmark = pytest.mark.bench

LIMIT = 0.8


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


def test_prepare(pool: Pool, raw_posts: Path, tmp_path: Path) -> None:
    counts: list[int] = []

    def ours() -> None:
        manifest = prepare_files(raw_posts, str(tmp_path / f"posts-{len(counts)}"), PrepareConfig())
        counts.append(manifest["num_posts"])

    def reference() -> None:
        counts.append(_write_plainly(pool, raw_posts, tmp_path / "plain.parquet"))

    our_times, their_times = in_turn(ours, reference)
    assert len(set(counts)) == 1, "the two sides did not prepare the same posts"
    show("prepare, first round", counts[0] / our_times[0], counts[0] / their_times[0], "posts/s")
    ratio = show(
        "prepare", per_second(counts[0], our_times), per_second(counts[0], their_times), "posts/s", f">= {LIMIT}"
    )
    assert ratio >= LIMIT
