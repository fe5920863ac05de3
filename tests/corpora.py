"""Small raw corpora for the tests that need posts."""

import json
import random
from pathlib import Path

from checkpoints import picture

from emo.config import PrepareConfig
from emo.prepare import prepare
from emo.sources import find_sources

FEELINGS = {"joy": "happy love", "sadness": "sad rain never ends", "anger": "late train"}


def write_posts(folder: Path, num_posts: int = 60, *, images: bool = True, labelled: bool = True) -> Path:
    """A JSONL file of posts whose words tell their labels; a tenth have no image, a tenth no text."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "posts.jsonl").open("w") as file:
        for number in range(num_posts):
            felt = rng.sample(sorted(FEELINGS), k=1 + number % 2)
            row = {"id": f"p{number}", "tags": ["today"] if number % 3 else None}
            if number % 10 != 1 or not images:
                row["text"] = " ".join([f"so {number}", *(FEELINGS[name] for name in felt)])
            if images and number % 10 != 2:
                (folder / f"{number}.png").write_bytes(picture(number))
                row["image"] = f"{number}.png"
            if labelled:
                row["labels"] = felt
            file.write(json.dumps(row) + "\n")
    return folder / "posts.jsonl"


def prepare_files(uri: Path | str, folder: Path | str, config: PrepareConfig, *, seed: int = 0, **options) -> dict:
    """Prepare files as a job would; returns the manifest."""
    sources = find_sources([str(uri)], config, f"{folder}-cache")
    return prepare(sources, str(folder), config, seed=seed, **options)[0]
