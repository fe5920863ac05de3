"""Every stage of the product as a user runs it, on a store behind a network: a process each, with the environment's
credentials alone."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from checkpoints import write_checkpoint
from corpora import write_posts

from emo import storage
from emo.tables import read_folder

JOBS = Path(__file__).parent.parent / "jobs"
POSTS = 60


def run_job(name: str, *flags: str) -> str:
    """What a job prints; what it writes to standard error where it fails."""
    with tempfile.TemporaryDirectory() as elsewhere:  # what is on a store by its URI is not looked for here
        command = [sys.executable, JOBS / f"{name}.py", *flags]
        done = subprocess.run(command, env=os.environ, cwd=elsewhere, capture_output=True, text=True)
        assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert not os.listdir(elsewhere), f"{name} wrote into the folder that it was started in"
    return done.stdout


def check_product(root: str, folder: Path) -> None:
    """Prepare, embed, sweep and predict with all data, caches and results below the URI ``root``.

    One checkpoint lies there too, and one is built from the corpus.
    """
    data, cache, prepared, run = (storage.join(root, name) for name in ("raw/posts.jsonl", "cache", "posts", "run"))
    write_posts(folder / "raw", POSTS)
    for file in (folder / "raw").iterdir():
        storage.write_bytes(storage.join(root, "raw", file.name), file.read_bytes())
    storage.put_folder(str(write_checkpoint("clip", folder / "clip")), storage.join(root, "clip"))
    encoders = ["--encoders", f"clip:{storage.join(root, 'clip')}", "tiny-bert"]
    choices = ["--labels", "auto", "--image-size", "32", "--cache", cache]
    run_job("prepare", "--data", data, *choices, "--output", prepared)
    assert storage.manifest(prepared)["num_posts"] == POSTS
    run_job("embed", "--data", data, *choices, *encoders)
    budget = ["--trials", "2", "--refine-trials", "1", "--calibration-trials", "5", "--max-epochs", "2", "--top", "2"]
    said = run_job("sweep", "--data", data, *choices, *encoders, *budget, "--output", run)
    assert said.count("reused") >= 4  # posts, and features of three branches
    rows = storage.read_json(storage.join(run, "leaderboard.json"))["rows"]
    assert {row["name"] for row in rows if row["kind"] == "encoder"} == set(encoders[1:])
    assert len(storage.read_bytes(storage.join(run, "report.html"))) > 10_000
    run_job("sweep", "--data", data, *choices, *encoders, *budget, "--output", run, "--resume")
    output, model = storage.join(root, "predictions"), storage.join(run, "model")
    run_job("predict", "--model", model, "--data", data, "--cache", cache, "--output", output)
    manifest = storage.manifest(output)
    predicted = read_folder(storage.join(output, manifest["data"]))
    assert predicted.num_rows == POSTS, json.dumps(manifest)
    assert set(predicted["post_id"].to_pylist()) == {f"p{number}" for number in range(POSTS)}
