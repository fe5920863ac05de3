"""Jobs that are submitted to a running cluster, stopped there, and gone on with."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from corpora import write_posts

from emo.tables import read_table

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
MAX_SECONDS = 240
TRIALS = 24
LONG = ("--max-epochs", 150, "--patience", 150, "--space.batch-size", 8)
"""Trials of a second or two."""


@dataclass(frozen=True)
class Cluster:
    """A cluster on loopback, started as its user would."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: object, check: bool = True) -> str:
        """What a command prints that knows where the cluster is."""
        done = subprocess.run(
            [str(BIN / str(command[0])), *map(str, command[1:])],
            env=self.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=MAX_SECONDS,
        )
        assert not check or done.returncode == 0, done.stdout
        return done.stdout

    def ask(self, path: str, token: str | None) -> tuple[int, str]:
        """Status and body of the dashboard's answer."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(self.environment["RAY_API_SERVER_ADDRESS"] + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    @property
    def token(self) -> str:
        return (self.folder / "token").read_text()

    def wait_until(self, happens: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + MAX_SECONDS
        while not happens():
            assert time.monotonic() < deadline, f"{what} never came"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster") / "local"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    clean |= {"EMO_RUNS": str(folder.parent / "runs"), "EMO_CACHE": str(folder.parent / "cache")}
    local = [sys.executable, ROOT / "cluster" / "local.py"]
    subprocess.run([*local, "start", "--num-cpus", "2", "--folder", folder], env=clean, check=True, timeout=MAX_SECONDS)
    head = psutil.Process(int((folder / "pid").read_text()))
    processes = [head, *head.children(recursive=True)]
    told = re.findall(r"^export (\w+)=(.*)$", (folder / "environment").read_text(), re.MULTILINE)
    try:
        yield Cluster(folder, clean | dict(told))
    finally:
        subprocess.run([*local, "stop", "--folder", folder], check=True, timeout=MAX_SECONDS)
    assert not [process for process in processes if process.is_running()]
    assert not folder.exists()


@pytest.mark.slow
def test_the_dashboard_asks_for_the_token_of_its_cluster(cluster):
    assert cluster.ask("/api/version", None)[0] == 401
    assert cluster.ask("/api/version", "0" * 64)[0] == 403
    status, body = cluster.ask("/api/version", cluster.token)
    assert (status, json.loads(body)["ray_version"]) == (200, "2.60.0")
    without = {"RAY_AUTH_MODE": "disabled"}
    address = (cluster.folder / "session" / "ray_current_cluster").read_text()
    for changes, said in ((without, "wants a token"), ({"RAY_AUTH_TOKEN": "0" * 64}, "does not take this token")):
        environment = cluster.environment | changes | {"RAY_ADDRESS": address}
        command = [sys.executable, "jobs/sweep.py", "--trials", "1"]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=MAX_SECONDS)
        assert done.returncode == 2, done.stderr
        assert re.fullmatch(f"error: The cluster at .* {said}.*\n", done.stderr)


@pytest.mark.slow
def test_a_submitted_sweep_is_stopped_and_gone_on_with(cluster, tmp_path):
    write_posts(tmp_path / "raw", 60)
    run = tmp_path / "run"
    command = ["python", "jobs/sweep.py", "--data", tmp_path / "raw/posts.jsonl", "--labels", "auto", "--output", run]
    command += ["--encoders", "tfidf", "--trials", TRIALS, "--refine-trials", 0, "--calibration-trials", 1, *LONG]
    submit = ["ray", "job", "submit", "--working-dir", "."]
    cluster.run(*submit, "--submission-id", "first", "--no-wait", "--", *command)
    cluster.wait_until(lambda: len(trials_of(run)) >= 3, "a few trials")
    actors = json.loads(cluster.ask("/api/v0/actors?detail=1", cluster.token)[1])["data"]["result"]["result"]
    assert "run" in {actor["repr_name"] for actor in actors}  # the name of the run's folder
    cluster.run("ray", "job", "stop", "first")
    assert json.loads(cluster.ask("/api/jobs/first", cluster.token)[1])["status"] == "STOPPED"
    assert "stopped; the same command goes on" in cluster.run("ray", "job", "logs", "first")
    done = len(trials_of(run))
    assert done < TRIALS
    assert not (run / "report.html").exists()

    told = cluster.run(*submit, "--submission-id", "second", "--", *command, "--resume")
    assert re.search(rf"^trials {TRIALS}/{TRIALS} \(tfidf {TRIALS}\); best val macro F1 [01]\.\d+$", told, re.MULTILINE)
    assert "\x1b[" not in told.partition("Plan")[2].partition("Done in")[0]
    assert [trial["status"] for trial in trials_of(run)] == ["done"] * TRIALS
    assert (run / "report.html").exists()
    job = json.loads(cluster.ask("/api/jobs/first", cluster.token)[1])
    datasets = json.loads(cluster.ask(f"/api/data/datasets/{job['job_id']}", cluster.token)[1])["datasets"]
    assert any(dataset["dataset"].startswith("clean posts") for dataset in datasets)
    assert "is finished" in cluster.run(*submit, "--", *command, "--resume")


def trials_of(run: Path) -> list[dict]:
    return read_table(str(run / "trials.parquet")).to_pylist() if (run / "trials.parquet").exists() else []
