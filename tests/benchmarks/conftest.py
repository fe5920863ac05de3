"""The posts that several benchmarks read; Ray is that of all tests, started as a job starts it."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NUM_POSTS = 10_000
WORDS = ["so", "happy", "today", "the", "sad", "rain", "never", "ends", "again", "&", "<b>really</b>", "late", "train"]
SIGNS = ("https://t.co/a1b2c3", "@someone", "#legday", "😂", "❤️", "RT @news: ", "&amp;", "")


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder that is gone at the end: pytest's own keep the gigabytes of the last three runs."""
    folder = Path(tempfile.mkdtemp(prefix="emo-bench-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def raw_posts(scratch: Path) -> Path:
    """NUM_POSTS posts as JSONL, each with a 480x360 JPEG of its own, text to be cleaned, and one or two labels."""
    rng = np.random.default_rng(0)
    folder = scratch / "raw"
    (folder / "images").mkdir(parents=True)
    canvas = Image.effect_noise((480, 360), 60).resize((1200, 900)).convert("RGB")
    with (folder / "posts.jsonl").open("w") as file:
        for number in range(NUM_POSTS):
            left, top = int(rng.integers(720)), int(rng.integers(540))
            path = f"images/{number}.jpg"
            canvas.crop((left, top, left + 480, top + 360)).save(folder / path, quality=80)
            text = " ".join([*rng.choice(WORDS, rng.integers(5, 30)), *rng.choice(SIGNS, 3)])
            labels = [str(name) for name in rng.choice(["anger", "fear", "joy", "sadness"], 2)]
            file.write(json.dumps({"id": str(number), "text": text, "image": path, "labels": labels}) + "\n")
    return folder / "posts.jsonl"


@pytest.fixture(scope="session")
def prepared(ray_session: None, raw_posts: Path, scratch: Path) -> str:
    """The folder of the same posts, prepared."""
    from corpora import prepare_files

    from emo.config import PrepareConfig

    prepare_files(raw_posts, str(scratch / "prepared"), PrepareConfig())
    return str(scratch / "prepared")
