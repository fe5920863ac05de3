"""Trainings that lose their driver, a worker or a node, and end as if nothing had happened."""

import json
import os
import random
import re
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from checkpoints import write_checkpoint
from corpora import prepare_files, write_posts
from kills import kill_tree, train_workers
from lose_a_node import training_job
from s3 import ROOT, environment, environment_set
from s3fs import S3FileSystem
from safetensors.torch import load_file, save_file

from emo import storage
from emo.config import PrepareConfig, TrainingConfig
from emo.study_storage import JOURNAL
from emo.tables import read_table
from emo.trainer import fit

pytestmark = pytest.mark.slow
pytest_plugins = ["s3"]
HERE = Path(__file__).parent
MAX_EPOCHS = 12
MAX_SECONDS = 600
NUM_KILLS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with raw posts and checkpoints, of which one has weights that are no numbers."""
    folder = tmp_path_factory.mktemp("survival")
    write_posts(folder / "raw", 60)
    for name in ("bert", "broken"):
        weights = write_checkpoint("bert", folder / name) / "model.safetensors"
    save_file({name: value * float("nan") for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    write_checkpoint("clip", folder / "clip")
    return folder


def command(place: Path, job: str, output: str, *flags: str) -> list[str]:
    shared = ["--data", place / "raw" / "posts.jsonl", "--labels", "auto", "--image-size", "32"]
    shared += ["--cache", place / "cache", "--output", output, "--mode", "full", "--calibration-trials", "1"]
    return [sys.executable, *map(str, [HERE.parent / "jobs" / f"{job}.py", *shared, *flags])]


def train_command(place: Path, output: str, *flags: str) -> list[str]:
    epochs = ("--max-epochs", str(MAX_EPOCHS), "--patience", str(MAX_EPOCHS))
    return command(place, "train", output, "--encoder", f"bert:{place / 'bert'}", "--batch-size", "8", *epochs, *flags)


def done(args: list[str], **variables: str) -> str:
    """What a job prints."""
    ended = subprocess.run(args, env=os.environ | variables, capture_output=True, text=True, timeout=MAX_SECONDS)
    assert ended.returncode == 0, f"{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout


def start_and_kill(args: list[str], is_time: str, after: float) -> None:
    """Start a job and kill it and all its processes so many seconds after it has printed a line with these words."""
    process = subprocess.Popen(args, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if is_time in line:
            break
    time.sleep(after)
    assert process.poll() is None, "it ended before it was killed"
    kill_tree(process.pid)
    process.communicate()


def trials(run: str) -> list[dict]:
    return read_table(storage.join(run, "trials.parquet")).to_pylist()


def losses(run: str) -> pd.DataFrame:
    (trial,) = trials(run)
    return pd.DataFrame(json.loads(trial["history"]))[["epoch", "train_loss", "val_loss", "val_macro_f1"]]


def files(run: str) -> set[str]:
    """Every file of a run by its path there; what stands for a folder on an object store is none."""
    fs, root = storage.filesystem(run)
    return {path.removeprefix(root) for path in fs.find(root) if not path.endswith("/")}


@pytest.fixture(scope="module")
def undisturbed(place):
    run = str(place / "undisturbed")
    done(train_command(place, run))
    return run


@pytest.fixture
def root(request, tmp_path):
    """Where a run lies."""
    if request.param == "disk":
        yield str(tmp_path)
        return
    with environment_set(environment(request.getfixturevalue("s3_server").url)):
        S3FileSystem(skip_instance_cache=True).makedirs("bucket", exist_ok=True)
        yield ROOT


@pytest.mark.parametrize("root", ["disk", "s3"], indirect=True)
def test_a_killed_training_ends_as_one_that_was_left_in_peace(place, undisturbed, root):
    run = storage.join(root, "run")
    start_and_kill(train_command(place, run), "epoch 3:", 0.0)
    fs, path = storage.filesystem(run)
    assert fs.glob(f"{path}/training/*/checkpoint_*")
    said = done(train_command(place, run, "--resume"))
    assert "epoch 1:" not in said
    pd.testing.assert_frame_equal(losses(run), losses(undisturbed), atol=1e-4, rtol=1e-4)
    assert files(run) == files(undisturbed)
    assert "is finished; nothing is left to do" in done(train_command(place, run, "--resume"))


def test_a_loss_that_is_no_number_ends_a_training_at_once(place, tmp_path):
    args = train_command(place, str(tmp_path / "run"), "--lr", "1e30", "--warmup-steps", "0")
    ended = subprocess.run(args, capture_output=True, text=True, timeout=MAX_SECONDS)
    assert ended.returncode == 2
    (said,) = ended.stderr.splitlines()
    assert said.startswith("error: The loss became")
    assert re.search(r"by step \d+ at learning rate .+ and .+e\+(29|30)\.", said)
    assert said.endswith("Choose a lower --lr or --encoder-lr.")


def test_a_killed_sweep_owes_nothing_and_a_broken_encoder_fails_alone(place, tmp_path):
    run = str(tmp_path / "run")
    names = [f"bert:{place / 'bert'}", f"bert:{place / 'broken'}", f"clip:{place / 'clip'}:image"]
    flags = ("--encoders", *names, "--trials", "2", "--refine-trials", "0", "--max-epochs", "4", "--top", "1")
    args = command(place, "sweep", run, *flags)
    rng = random.Random(2)
    for resume, num_epochs in (((), 2), (("--resume",), 5)):
        process = subprocess.Popen([*args, *resume], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + MAX_SECONDS
        while process.poll() is None and len(epochs_told(run)) < num_epochs and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(rng.uniform(0, 3))
        assert process.poll() is None, "it ended before it was killed"
        kill_tree(process.pid)
        process.wait()
    before = epochs_told(run)
    done([*args, "--resume"])
    rows = trials(run)
    assert len(rows) == len({row["trial_id"] for row in rows}) == 6
    by_encoder = {name: [row["status"] for row in rows if row["encoder"] == name] for name in names}
    assert by_encoder.pop(names[1]) == ["failed", "failed"]
    assert all(len(found) == 2 and set(found) <= {"done", "pruned"} for found in by_encoder.values())
    assert all("The loss became nan" in row["error"] for row in rows if row["status"] == "failed")
    after = epochs_told(run)
    assert after[: len(before)] == before
    assert len(after) == len(set(after))  # no epoch was trained twice, or it counted once
    assert len(storage.list_files(storage.join(run, "weights"))) == 2  # the best of each encoder, and no more
    assert not storage.exists(storage.join(run, "training"))


def epochs_told(run: str) -> list[tuple[int, int]]:
    """Trial and epoch of everything that Optuna's journal has from trials that were under way."""
    journal = Path(run, JOURNAL)
    told = map(json.loads, journal.read_text().splitlines()) if journal.exists() else []
    return [(each["trial_id"], each["step"]) for each in told if "step" in each]


@pytest.fixture(scope="module")
def posts(place, ray_session):
    target = str(place / "posts")
    prepare_files(place / "raw" / "posts.jsonl", target, PrepareConfig(labels="auto", image_size=32))
    return target


def test_a_training_survives_the_loss_of_workers_again_and_again(place, posts, tmp_path):
    job = training_job(posts, str(place / "bert"), (1,), 10 * NUM_KILLS)
    job = replace(job, training=TrainingConfig(max_failures=NUM_KILLS))
    killed: list[int] = []
    rng = random.Random(3)

    def kill() -> None:
        for number in range(NUM_KILLS):
            while len(list((tmp_path / "one").glob("checkpoint_*/state.json"))) == 0 or epochs() < 8 * number:
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 1))
            if workers := [each for each in train_workers() if each.pid not in killed]:
                workers[-1].kill()
                killed.append(workers[-1].pid)

    def epochs() -> int:
        names = [path.parent for path in (tmp_path / "one").glob("checkpoint_*/state.json")]
        try:
            return max(json.loads((path / "state.json").read_text())["epoch"] for path in names)
        except (OSError, ValueError):  # just now written, or removed
            return 0

    threading.Thread(target=kill, daemon=True).start()
    trained = fit(job, str(tmp_path), "one")
    assert len(killed) == NUM_KILLS
    assert [row["epoch"] for row in json.loads(trained.metrics["history"])] == list(range(1, 10 * NUM_KILLS + 1))


@pytest.mark.parametrize(("num_workers", "replaced", "after"), [((2, 2), True, 2), ((1, 2), False, 1)])
def test_a_training_survives_the_loss_of_a_node(place, posts, tmp_path, num_workers, replaced, after):
    """Two nodes of one core each; workers that are wanted wait for a new one, and elastic trainings go on with less."""
    args = [sys.executable, HERE / "lose_a_node.py", posts, place / "bert", tmp_path]
    said = done([*map(str, [*args, *num_workers, int(replaced)])], RAY_AUTH_TOKEN=secrets.token_hex(32))
    told = json.loads(said.splitlines()[-1])
    assert told == {"epochs": list(range(1, 13)), "before": 2, "after": after}
