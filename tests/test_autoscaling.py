"""Sweeps on a cluster that grows with what they ask for, loses nodes on the way, and shrinks after them."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from corpora import write_posts
from fake_cloud import FakeCloud, Node, fake_cloud, node_type
from kills import kill_tree

from emo.posts import data_folder
from emo.tables import read_folder, read_table

ROOT = Path(__file__).parent.parent
MAX_SECONDS = 300
TRIAL = "ImplicitFunc"
"""What Ray calls the actor of a trial."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with raw posts, a checkpoint, and room for a cache."""
    folder = tmp_path_factory.mktemp("autoscaling")
    write_posts(folder / "raw", 60)
    write_checkpoint("bert", folder / "bert")
    return folder


@dataclass(frozen=True)
class Sweep:
    """A sweep that runs on a cluster."""

    process: subprocess.Popen
    run: Path
    log: Path

    def wait_until(self, happens: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + MAX_SECONDS
        while not happens():
            assert self.process.poll() is None, f"it ended before {what}: {self.log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"{what} never came: {self.log.read_text()[-4000:]}"
            time.sleep(0.2)

    def end(self) -> list[dict]:
        """Its trials, once it has ended well."""
        assert self.process.wait(MAX_SECONDS) == 0, self.log.read_text()[-4000:]
        return read_table(str(self.run / "trials.parquet")).to_pylist()


@contextlib.contextmanager
def sweep(cloud: FakeCloud, place: Path, folder: Path, *flags: str, epochs: int = 150) -> Iterator[Sweep]:
    """A sweep whose trials take a second or two each, as if a user had started it with RAY_ADDRESS set."""
    command = [sys.executable, ROOT / "jobs" / "sweep.py", "--data", place / "raw" / "posts.jsonl", "--labels", "auto"]
    command += ["--image-size", "32", "--cache", place / "cache", "--output", folder / "run", "--refine-trials", "0"]
    command += ["--encoders", f"bert:{place / 'bert'}", "--calibration-trials", "1", "--space.batch-size", "8"]
    command += ["--max-epochs", str(epochs), "--patience", str(epochs), *flags]
    environment = cloud.environment | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with (folder / "job.log").open("w") as log:
        process = subprocess.Popen(list(map(str, command)), env=environment, stdout=log, stderr=log)
    try:
        yield Sweep(process, folder / "run", folder / "job.log")
    finally:
        kill_tree(process.pid)
        process.wait()


def num_training(node: Node) -> int:
    """The trials that a node has at work."""
    return sum(TRIAL in each for each in node.at_work())


def is_empty_soon(cloud: FakeCloud, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while cloud.nodes() and time.monotonic() < deadline:
        time.sleep(0.2)
    return not cloud.nodes()


@pytest.mark.slow
@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
def test_a_sweep_uses_all_that_the_cluster_may_grow_to_and_then_lets_it_go(place, tmp_path, v2):
    with fake_cloud(tmp_path, {"cpu": node_type(2, CPU=2)}, v2=v2) as cloud:
        with sweep(cloud, place, tmp_path, "--trials", "24") as job:
            job.wait_until(lambda: list(map(num_training, cloud.nodes())) == [2, 2], "two trials on each of two nodes")
            trials = job.end()
        assert [trial["status"] for trial in trials] == ["done"] * 24
        assert is_empty_soon(cloud, 60)


@pytest.mark.slow
def test_a_sweep_survives_the_loss_of_a_node(place, tmp_path):
    with fake_cloud(tmp_path, {"cpu": node_type(2, CPU=1)}) as cloud:
        with sweep(cloud, place, tmp_path, "--trials", "12") as job:
            job.wait_until(lambda: any(map(num_training, cloud.nodes())), "a trial")
            next(node for node in cloud.nodes() if num_training(node)).lose()
            trials = job.end()
        assert [trial["status"] for trial in trials] == ["done"] * 12


def test_a_search_runs_on_nodes_that_come_for_it(tmp_path):
    command = [sys.executable, ROOT / "tests" / "sweep_alone.py", tmp_path / "run", "2"]
    with fake_cloud(tmp_path, {"cpu": node_type(1, CPU=2)}) as cloud:
        assert not cloud.nodes()
        environment = cloud.environment | {"PYTHONPATH": str(ROOT)}
        subprocess.run(list(map(str, command)), env=environment, check=True, timeout=MAX_SECONDS)
        assert len(cloud.nodes()) == 1
    trials = read_table(str(tmp_path / "run" / "trials.parquet")).to_pylist()
    assert len(trials) == 8
    assert {trial["status"] for trial in trials} <= {"done", "pruned"}


@pytest.mark.slow
def test_encoders_grow_the_cluster_and_make_do_with_what_comes(tmp_path):
    write_posts(tmp_path / "raw", 120)
    write_checkpoint("bert", tmp_path / "bert")
    script = ROOT / "tests" / "embed_growing.py"
    command = [sys.executable, script, tmp_path / "raw" / "posts.jsonl", tmp_path / "bert", tmp_path / "cache"]
    with fake_cloud(tmp_path, {"cpu": node_type(2, CPU=1)}) as cloud:
        process = subprocess.Popen(
            list(map(str, command)),
            env=cloud.environment | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        most, deadline = 0, time.monotonic() + MAX_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            most = max(most, len(cloud.nodes()))
            time.sleep(0.2)
        kill_tree(process.pid)
        told = process.communicate()[0].splitlines()
    assert process.returncode == 0, told
    assert most == 2
    posts = read_folder(data_folder(f"{tmp_path}/cache/posts"), ["post_id", "text", "tags"]).to_pylist()
    read = [post["post_id"] for post in posts if post["text"] is not None or post["tags"]]
    assert sorted(read_folder(told[-1])["post_id"].to_pylist()) == sorted(read)


@pytest.mark.slow
def test_trials_share_the_gpu_of_a_node_that_comes_for_them(place, tmp_path):
    with fake_cloud(tmp_path, {"gpu": node_type(1, CPU=2, GPU=1)}) as cloud:
        with sweep(cloud, place, tmp_path, "--trials", "6", "--trials-per-gpu", "2") as job:
            job.wait_until(lambda: sum(map(num_training, cloud.nodes())) == 2, "two trials on one GPU")
            trials = job.end()
        assert [trial["status"] for trial in trials] == ["done"] * 6
        assert is_empty_soon(cloud, 60)


@pytest.mark.slow
def test_nodes_that_come_and_go_are_counted_by_their_type(place, tmp_path):
    types = {"local": {"per_hour": 1.0, "cpus": 0, "gpus": 0}, "cpu-spot": {"per_hour": 36.0, "cpus": 2, "gpus": 0}}
    prices = {"currency": "EUR", "as_of": "today", "source": "a guess", "nodes": types}
    (tmp_path / "prices.yaml").write_text(json.dumps(prices))
    flags = "--trials", "12", "--prices", str(tmp_path / "prices.yaml"), "--nodes", "cpu-spot=2"
    seen, most, last = 0.0, 0, time.monotonic()
    deadline = last + MAX_SECONDS
    cloud_of_two = fake_cloud(tmp_path, {"cpu-spot": node_type(2, CPU=2)}, v2=True)
    with cloud_of_two as cloud, sweep(cloud, place, tmp_path, *flags) as job:
        while job.process.poll() is None and last < deadline:
            time.sleep(0.2)
            now, nodes = time.monotonic(), len(cloud.nodes())
            seen, most, last = seen + nodes * (now - last), max(most, nodes), now
        job.end()
    content = json.loads((tmp_path / "run" / "cost.json").read_text())
    usage = content["usage"]
    assert most == 2
    assert usage["node_seconds"] == {
        "local": pytest.approx(usage["seconds"]),  # the head, which has no type here
        "cpu-spot": pytest.approx(seen, rel=0.1, abs=8),  # Ray knows of a node once it has started, and looks every 2 s
    }
    assert usage["core_seconds"] == pytest.approx(2 * usage["node_seconds"]["cpu-spot"])
    assert 0 < usage["used_core_seconds"] < usage["core_seconds"]
    assert content["estimate"]["nodes"] == {"cpu-spot": 2}
    said = job.log.read_text()
    assert "on 2 cpu-spot: 4 cores" in said
    assert "the chosen nodes are taken to be as fast as those here" in said
    cost = (usage["node_seconds"]["local"] + 36 * usage["node_seconds"]["cpu-spot"]) / 3600
    assert f"{cost:.2f} EUR" in said
