"""Every encoder in every mode, as jobs/train.py trains it: what is refused, what learns, and what its model then says.

Run it with -s for a table of how long each takes.
"""

import itertools
import json
import random
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checkpoints import write_checkpoint
from PIL import Image

from emo.bundle import load_bundle
from emo.config import HeadConfig, PrepareConfig, TrainConfig, UserError
from emo.encoders import FAMILIES, REMOTE_CODE, SCRATCH
from emo.pipeline import posts_of
from emo.posts import read_posts
from emo.predict import Predict
from emo.reading import TextVariant
from jobs import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

MODES = ("frozen", "partial", "layer-mix", "lora", "full")
ENCODERS = (*FAMILIES, "clip+tags", "bert+vit")
FROM_SCRATCH = "from scratch, so that nothing can be kept frozen; use --mode full"
NO_LAYERS = "to weigh; use --mode frozen or partial"
NO_ADAPTERS = "has no layers that take adapters; use --mode full"
REFUSED = {
    **{
        (name, mode): FROM_SCRATCH
        for name in ("lstm", "textcnn", "cnn", "tags", "clip+tags")
        for mode in ("frozen", "partial", "layer-mix")
    },
    **{(name, "layer-mix"): NO_LAYERS for name in ("jina-clip", "tfidf")},
    **{(name, "lora"): NO_ADAPTERS for name in ("jina-clip", "lstm", "textcnn", "cnn", "tags", "tfidf")},
}
TELLING = {"joy": ("happy", "gym", 220), "sadness": ("rain", "home", 20), "anger": ("late", "train", 120)}
"""A word, a tag and a shade of grey for each label, so that every modality has something to learn from."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with raw posts and a checkpoint of every pretrained family."""
    folder = tmp_path_factory.mktemp("modes")
    write_telling_posts(folder / "raw", 60)
    for family in FAMILIES:
        if family not in SCRATCH:
            write_checkpoint(family, folder / family)
    return folder


@pytest.fixture(scope="module")
def seconds():
    """How long each training took, with everything around it; shown when all are done."""
    taken: dict[str, dict[str, float]] = defaultdict(dict)
    yield taken
    print("\n| encoder | " + " | ".join(MODES) + " |\n" + "| --- " * (1 + len(MODES)) + "|")
    for name, by_mode in taken.items():
        print(f"| {name} | " + " | ".join(f"{by_mode[mode]:.1f}" if mode in by_mode else "" for mode in MODES) + " |")


def write_telling_posts(folder: Path, num_posts: int) -> None:
    """Posts whose text, image and tags each tell the label; a tenth lack one of them."""
    rng = random.Random(0)
    folder.mkdir()
    with (folder / "posts.jsonl").open("w") as file:
        for number in range(num_posts):
            label = sorted(TELLING)[number % 3]
            word, tag, shade = TELLING[label]
            row = {"id": f"p{number}", "text": f"so {number} {word}", "tags": [tag], "labels": [label]}
            Image.new("RGB", (40, 40), (shade, shade, rng.randrange(256))).save(folder / f"{number}.png")
            row["image"] = f"{number}.png"
            if number % 10 == 0:
                row.pop(("text", "image", "tags")[number // 10 % 3])
            file.write(json.dumps(row) + "\n")


def choices(place: Path, name: str, mode: str) -> TrainConfig:
    parts = [part if part in SCRATCH else f"{part}:{place / part}" for part in name.split("+")]
    has_code = name in REMOTE_CODE
    head = HeadConfig(
        mode=mode, batch_size=8, lr=3e-3, encoder_lr=1e-3, dropout=0.0, warmup_steps=0, max_epochs=3, patience=3
    )
    return TrainConfig(
        data=(str(place / "raw" / "posts.jsonl"),),
        cache=str(place / "cache"),
        output=str(place / f"{name}-{mode}"),
        prepare=PrepareConfig(labels="auto", image_size=32),
        encoder="+".join(parts),
        trust_remote_code=has_code,
        revision="read" if has_code else None,
        head=head,
        calibration_trials=1,
    )


@pytest.mark.parametrize(("name", "mode"), [each for each in itertools.product(ENCODERS, MODES) if each not in REFUSED])
def test_it_learns_and_its_model_says_the_same(place, seconds, name, mode):
    config = choices(place, name, mode)
    started = time.monotonic()
    train.main(config)
    seconds[name][mode] = time.monotonic() - started
    run = Path(config.output)
    (trial,) = pd.read_parquet(run / "trials.parquet").to_dict("records")
    losses = [epoch["train_loss"] for epoch in json.loads(trial["history"])]
    assert losses[-1] < losses[0]
    kept = pd.read_parquet(run / "predictions" / f"{trial['trial_id']}.parquet")
    np.testing.assert_allclose(probs_of(run, config, list(kept.post_id)), np.stack(kept.probs), atol=1e-4)


def probs_of(run: Path, config: TrainConfig, post_ids: list[str]) -> np.ndarray:
    """Probs (N, K) of the model that the run saved."""
    bundle = load_bundle(str(run / "model"), trust_remote_code=config.trust_remote_code)
    posts = posts_of(config)
    table = read_posts(posts.folder, ["post_id", "text", "image", "tags"])
    predicted = Predict(bundle, TextVariant(bundle.tags))(table).to_pandas().set_index("post_id")
    return predicted.loc[post_ids, [f"prob/{label}" for label in bundle.labels]].to_numpy()


@pytest.mark.parametrize(("name", "mode"), REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_written(place, name, mode):
    config = choices(place, name, mode)
    with pytest.raises(UserError, match=REFUSED[name, mode]):
        train.main(config)
    assert not list(Path(config.output).iterdir())
