"""A cluster whose head is lost and comes back: what it knew lies on disk, and jobs run on other nodes."""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from corpora import write_posts
from fake_cloud import end, free_ports, wait_for_head
from kills import kill_tree

from emo.session import LOCAL, QUIET
from emo.tables import read_table

ROOT = Path(__file__).resolve().parent.parent
RAY = str(Path(sys.executable).with_name("ray"))
MAX_SECONDS = 240


def start(log: Path, environment: dict[str, str], *flags: str) -> subprocess.Popen:
    """A node of Ray's that runs until it is ended."""
    command = [RAY, "start", "--block", "--object-store-memory=150000000", *flags]
    log.write_text("")
    with log.open("a") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    wait_for_head(process, log)
    return process


@pytest.mark.slow
def test_a_job_on_another_node_outlives_the_head(tmp_path, tmp_path_factory):
    """As on the clusters of cluster/: a head without cores, whose tables lie in RocksDB."""
    sockets = tmp_path_factory.mktemp("s")
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    clean |= QUIET | LOCAL | {"RAY_AUTH_TOKEN_PATH": str(token), "PYTHONPATH": str(ROOT)}
    clean |= {"PATH": f"{Path(RAY).parent}:{os.environ['PATH']}"}
    port, dashboard, *ports = free_ports(12)
    head_environment = clean | {
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": str(tmp_path / "gcs"),
        "AUTOSCALER_METRIC_PORT": str(ports[0]),
        "DASHBOARD_METRIC_PORT": str(ports[1]),
    }
    head_flags = ["--head", f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
    head_flags += ["--num-cpus=0", f"--temp-dir={sockets}", f"--ray-client-server-port={ports[2]}"]
    head_flags += [f"--dashboard-agent-listen-port={ports[3]}", f"--dashboard-agent-grpc-port={ports[4]}"]
    head_flags += [f"--metrics-export-port={ports[5]}"]
    worker_flags = [f"--address=127.0.0.1:{port}", "--num-cpus=3", f"--dashboard-agent-listen-port={ports[6]}"]
    worker_flags += [f"--metrics-export-port={ports[7]}", f"--dashboard-agent-grpc-port={ports[8]}"]
    access = clean | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}

    def ray(*command: object) -> str:
        options = {"env": access, "cwd": ROOT, "text": True, "timeout": MAX_SECONDS}
        return subprocess.run([RAY, *map(str, command)], capture_output=True, **options).stdout

    write_posts(tmp_path / "raw", 60)
    run = tmp_path / "run"
    sweep = ["python", "jobs/sweep.py", "--data", tmp_path / "raw/posts.jsonl", "--labels", "auto", "--output", run]
    sweep += ["--cache", tmp_path / "cache", "--encoders", "tfidf", "--trials", 16, "--refine-trials", 0]
    sweep += ["--calibration-trials", 1, "--max-epochs", 150, "--patience", 150, "--space.batch-size", 8]
    started = [start(tmp_path / "head.log", head_environment, *head_flags)]
    try:
        started.append(start(tmp_path / "worker.log", clean, *worker_flags))
        ray("job", "submit", "--submission-id", "one", "--entrypoint-num-cpus", 1, "--no-wait", "--", *sweep)
        wait_until(lambda: (run / "trials.parquet").exists(), lambda: ray("job", "logs", "one"))
        driver = [p for p in psutil.process_iter(["cmdline"]) if str(run) in (p.info["cmdline"] or [])]
        kill_tree(started[0].pid)
        (sockets / "ray_current_cluster").unlink()  # or else a node on this machine passes for a head
        started.append(start(tmp_path / "head-2.log", head_environment, *head_flags))
        wait_until(lambda: "SUCCEEDED" in ray("job", "status", "one"), lambda: ray("job", "logs", "one"))
        assert "is gone" not in ray("job", "logs", "one")
    finally:
        for process in reversed(started):
            end(process)
    trials = read_table(str(run / "trials.parquet")).to_pylist()
    assert [trial["status"] for trial in trials] == ["done"] * 16
    assert driver


def wait_until(happens, told) -> None:
    deadline = time.monotonic() + MAX_SECONDS
    while not happens():
        assert time.monotonic() < deadline, told()
        time.sleep(1)
