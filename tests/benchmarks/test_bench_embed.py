"""Posts a second of emo.features.embed on posts with images, against a bare torch loop over the same checkpoint.

The loop decodes, processes and encodes batches of 64 in one process with torch on every core, and writes Parquet. It
has torch and transformers imported already, while our actors import them in every run: what that takes is measured on
NUM_FEW posts and printed, and the ratio without it beside the one that counts. Limit: at least 0.85 of the loop's posts
a second, start-up included.
"""

import io
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from clip import MIDDLE, TINY, write_clip
from measure import in_turn, per_second, show
from PIL import Image

from emo import storage
from emo.encode import BATCH_SIZE, ROWS_PER_PART
from emo.encoders import Branch
from emo.features import embed
from emo.posts import read_posts
from emo.reading import TextVariant
from emo.room import num_cpus

pytestmark = pytest.mark.bench

LIMIT = 0.85
NUM_FEW = 2 * ROWS_PER_PART
"""Enough that two actors have work."""


def _encode_plainly(posts: str, branch: Branch, target: Path) -> np.ndarray:
    """Pooled image features (N, D) in the order of the posts."""
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(branch.checkpoint).vision_model.eval()
    processor = transformers.AutoImageProcessor.from_pretrained(branch.checkpoint, backend="pil")
    table, features = read_posts(posts, ["post_id", "image"]), []
    with torch.inference_mode():
        for batch in table.to_batches(max_chunksize=BATCH_SIZE):
            images = [Image.open(io.BytesIO(data)).convert("RGB") for data in batch["image"].to_pylist()]
            pixels = processor(images=images, return_tensors="pt")["pixel_values"]
            features.append(model(pixel_values=pixels).pooler_output.numpy())
    result = np.concatenate(features)
    pq.write_table(pa.table({"post_id": table["post_id"], "features": list(result)}), target)
    return result


def _first(num_posts: int, prepared: str, scratch: Path) -> str:
    """The first of the prepared posts as a set of their own."""
    manifest = storage.manifest(prepared)
    assert manifest
    folder = scratch / f"first-{num_posts}"
    (folder / manifest["data"]).mkdir(parents=True, exist_ok=True)
    pq.write_table(read_posts(prepared).slice(0, num_posts), folder / manifest["data"] / "posts.parquet")
    storage.finish(str(folder), manifest | {"fingerprint": f"first {num_posts}", "num_posts": num_posts})
    return str(folder)


@pytest.fixture
def every_core(ray_session: None):
    before = torch.get_num_threads()
    torch.set_num_threads(num_cpus())
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("every_core")
@pytest.mark.parametrize(("name", "size", "num_posts"), [("tiny", TINY, 10_000), ("middle", MIDDLE, 6_000)])
def test_embed(name: str, size: dict[str, int], num_posts: int, prepared: str, scratch: Path, tmp_path: Path) -> None:
    few, posts = _first(NUM_FEW, prepared, scratch), _first(num_posts, prepared, scratch)
    branch = write_clip(tmp_path / "clip", **size)["image"]

    def ours(posts: str) -> None:
        embed(posts, branch, str(tmp_path / "cache"), text=TextVariant("append"), refresh=True)

    def reference() -> None:
        _encode_plainly(posts, branch, tmp_path / "plain.parquet")

    few_times, our_times, their_times = in_turn(lambda: ours(few), lambda: ours(posts), reference)
    theirs = per_second(num_posts, their_times)
    further = [all_posts - few_posts for all_posts, few_posts in zip(our_times, few_times, strict=True)]
    print(f"embed {name}: {median(few_times):.1f} s of each of our runs start the actors and encode {NUM_FEW} posts")
    show(f"embed {name} without start-up", per_second(num_posts - NUM_FEW, further), theirs, "posts/s")
    ratio = show(f"embed {name}", per_second(num_posts, our_times), theirs, "posts/s", f">= {LIMIT}")
    assert ratio >= LIMIT
