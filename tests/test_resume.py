"""Jobs that are killed at any moment and started again: no row lost, none twice, little work repeated."""

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from checkpoints import WORDS, write_checkpoint
from corpora import prepare_files
from kills import kill_tree

from emo.config import PrepareConfig
from emo.posts import read_posts
from emo.tables import read_folder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

NUM_POSTS = 50_000
NUM_KILLS = 5
MAX_EXTRA_WORK = 0.10


def write_texts(folder: Path) -> Path:
    rng = random.Random(0)
    folder.mkdir()
    with (folder / "posts.csv").open("w") as file:
        file.write("id,text,labels\n")
        for number in range(NUM_POSTS):
            file.write(f"{number},{number} {' '.join(rng.choices(WORDS, k=9))},{rng.choice(('joy', 'anger'))}\n")
    return folder / "posts.csv"


def test_embedding_is_killed_and_started_again(tmp_path):
    source = write_texts(tmp_path / "raw")
    prepare_files(source, tmp_path / "posts", PrepareConfig(labels="auto"))
    checkpoint = write_checkpoint("bert", tmp_path / "bert")
    counts = tmp_path / "counts"
    script = Path(__file__).with_name("embed_and_count.py")
    command = [sys.executable, script, tmp_path / "posts", checkpoint, tmp_path / "cache", counts]
    rng = random.Random(1)
    for _ in range(NUM_KILLS):
        before = counts.stat().st_size if counts.exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while process.poll() is None and (not counts.exists() or counts.stat().st_size == before):
            time.sleep(0.05)  # its first batch
        time.sleep(rng.uniform(0, 1.2))
        assert process.poll() is None, "it ended before it was killed; make the corpus larger"
        kill_tree(process.pid)
        process.wait()
    folder = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    wanted = read_posts(str(tmp_path / "posts"), ["post_id"])["post_id"].to_pylist()
    found = read_folder(folder, ["post_id"])["post_id"].to_pylist()
    assert Counter(found) == Counter(wanted)
    assert found == wanted
    encoded = sum(map(int, counts.read_text().split()))
    print(f"extra work after {NUM_KILLS} kills: {encoded / NUM_POSTS - 1:.1%} (limit {MAX_EXTRA_WORK:.0%})")
    assert NUM_POSTS <= encoded <= NUM_POSTS * (1 + MAX_EXTRA_WORK)
