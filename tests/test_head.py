"""A cluster whose head is lost and comes back: what it knew lies on disk, and jobs run on other nodes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from corpora import write_posts
from kills import kill_tree
from ray_nodes import RAY, end, joined_node, started_head

from emo.tables import read_table

ROOT = Path(__file__).resolve().parent.parent
MAX_SECONDS = 300
TRIALS = 12


@pytest.mark.slow
def test_a_sweep_goes_on_after_its_cluster_has_lost_and_found_its_head(tmp_path, monkeypatch):
    """As on the clusters of cluster/kuberay: a head without cores, whose tables lie in RocksDB."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write_posts(tmp_path / "raw", 60)
    run = tmp_path / "run"
    sweep = ["python", ROOT / "jobs/sweep.py", "--data", tmp_path / "raw/posts.jsonl", "--labels", "auto"]
    sweep += ["--cache", tmp_path / "cache", "--output", run, "--encoders", "tfidf", "--trials", TRIALS]
    sweep += ["--refine-trials", 0, "--calibration-trials", 1, "--space.batch-size", 8]
    sweep += ["--max-epochs", 150, "--patience", 150]  # a second or two each

    tables = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tmp_path / "gcs")}
    with started_head(tmp_path, tables, lambda address: [], dashboard=True) as head:
        node = joined_node(head, "worker", "cpu", {"CPU": 2}, {})

        def ray(*command: object) -> str:
            options = {"env": head.environment | {"RAY_API_SERVER_ADDRESS": f"http://{head.dashboard}"}, "text": True}
            return subprocess.run([RAY, *map(str, command)], capture_output=True, timeout=MAX_SECONDS, **options).stdout

        try:
            ray("job", "submit", "--submission-id", "one", "--no-wait", "--", *sweep)
            wait_until((run / "trials.parquet").exists, lambda: ray("job", "logs", "one"))
            kill_tree(head.process.pid)
            head.start_again()
            told = ray("job", "submit", "--submission-id", "two", "--", *sweep, "--resume")
        finally:
            end(node, seconds=1)
    assert "succeeded" in told
    trials = read_table(str(run / "trials.parquet")).to_pylist()
    assert [trial["status"] for trial in trials] == ["done"] * TRIALS
    assert "resumed" in (run / "events.log").read_text()


def wait_until(happens: Callable[[], bool], told: Callable[[], str]) -> None:
    deadline = time.monotonic() + MAX_SECONDS
    while not happens():
        assert time.monotonic() < deadline, told()
        time.sleep(1)
