"""Training on streamed posts: PostLoader and train_epoch against a bare torch loop, and memory by size of the corpus.

1. A tiny CLIP, so that decoding and tokenizing decide: posts a second against a loop over a DataLoader with two worker
   processes that decodes, tokenizes, collates and steps alike. Limit: at least 0.8. The loop holds the posts in memory,
   keeps its workers, and does not mind the order in which they read; ours reads Parquet and starts a stream an epoch.
2. A CLIP of ViT-B/32's size with random weights, so that the model decides. Limit: at least 0.95.
3. The same model on two Ray Train workers over one, with a core and a thread each. Limit: at least 1.6 of 2.
4. The peak of anonymous memory of any process, and of all, while a worker of Ray's streams an epoch of 10,000, 50,000
   and 200,000 posts. Limit: from 50,000 to 200,000 posts it grows by a fifth at most.
"""

import json
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from checkpoints import picture, write_checkpoint
from clip import TINY, write_clip
from measure import in_turn, per_second, show
from torch.nn import functional as F
from torch_loop import make_loader, train
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from emo import storage
from emo.batches import read_plan
from emo.config import HeadConfig, TrainingConfig
from emo.encoders import Branch
from emo.encoders.hub import resolve
from emo.finetune import assemble
from emo.loader import PostLoader
from emo.losses import make_loss
from emo.models import PostClassifier
from emo.posts import posts_manifest, read_posts
from emo.reading import TextVariant, texts_of
from emo.train import MicroBatch, train_epoch
from emo.train_loop import TrainingJob
from emo.trainer import fit

pytestmark = pytest.mark.bench

FED_LIMIT, COMPUTED_LIMIT, WORKERS_LIMIT, GROWTH_LIMIT = 0.8, 0.95, 1.6, 1.2
BATCH_SIZE = 32
NUM_COMPUTED = 256
"""Posts that the large model sees in an epoch; it takes a quarter of a second for each."""
SIZES = (10_000, 50_000, 200_000)
TEXT = TextVariant("append")


def _loader(posts: str, branches: list[Branch]) -> PostLoader:
    options = {"batch_size": BATCH_SIZE, "micro_batch_size": None, "rank": 0, "world_size": 1, "seed": 0}
    return PostLoader(read_plan(posts, "train"), branches, text=TEXT, shuffle=True, augment=False, **options)


def _model(branches: list[Branch], num_labels: int) -> tuple[PostClassifier, torch.optim.Optimizer]:
    _, model = assemble(branches, num_labels, HeadConfig(mode="full"), TrainingConfig())
    return model.train(), torch.optim.AdamW(model.parameters(), fused=True)


def _compare(name: str, posts: str, branches: list[Branch], limit: float, rounds: int) -> None:
    loader = _loader(posts, branches)
    num_labels, num_posts = loader.recipe.num_labels, loader.plan.num_rows
    table = read_posts(posts, ["post_id", "text", "tags", "image", "targets", "split"]).filter(
        pa.compute.field("split") == "train"
    )
    rows = [row | {"text": text} for row, text in zip(table.to_pylist(), texts_of(table, "append"), strict=True)]
    plain = make_loader(rows, branches, BATCH_SIZE)
    sides = [_model(branches, num_labels) for _ in range(2)]
    loss_of = make_loss("bce", torch.full((num_labels,), 0.5))
    scheduler = torch.optim.lr_scheduler.ConstantLR(sides[0][1], 1.0)
    epochs = iter(range(1000))
    counts = []

    def batches(epoch: int) -> Iterator[MicroBatch]:
        for batch in loader.epoch(epoch):
            yield MicroBatch(batch.inputs, batch.shares, batch.scale, batch.ends_step)

    def ours() -> None:
        train_epoch(sides[0][0], batches(next(epochs)), sides[0][1], scheduler, loss_of)

    def reference() -> None:
        model, optimizer = sides[1]
        counts.append(train(model, iter(plain), optimizer, F.binary_cross_entropy_with_logits))

    next(batches(0))  # Ray's processes have their imports done, as the DataLoader's have
    our_times, their_times = in_turn(ours, reference, rounds=rounds)
    assert set(counts) == {num_posts}
    ratio = show(name, per_second(num_posts, our_times), per_second(num_posts, their_times), "posts/s", f">= {limit}")
    assert ratio >= limit


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_feeding(prepared: str, tmp_path: Path) -> None:
    branches = write_clip(tmp_path / "clip", **TINY)
    _compare("train, tiny model", prepared, list(branches.values()), FED_LIMIT, rounds=3)


@pytest.mark.usefixtures("two_threads")
def test_computing(prepared: str, tmp_path: Path) -> None:
    posts = _corpus(prepared, tmp_path / "posts", NUM_COMPUTED)
    _compare("train, CLIP ViT-B/32", posts, _base_clip(tmp_path / "clip"), COMPUTED_LIMIT, rounds=2)


def test_workers(prepared: str, tmp_path: Path) -> None:
    num_posts, num_val = 96, 8
    posts, val = (_corpus(prepared, tmp_path / name, size) for name, size in (("posts", num_posts), ("val", num_val)))
    manifest = posts_manifest(prepared)
    head = HeadConfig(mode="full", batch_size=BATCH_SIZE, max_epochs=2)
    job = TrainingJob(
        train=read_plan(posts, "train"),
        val=read_plan(val, "train"),
        branches=tuple(_base_clip(tmp_path / "clip")),
        text=TEXT,
        prevalence=(0.5,) * len(manifest["labels"]),
        label_threshold=manifest["label_threshold"],
        trains_on=manifest["targets"],
        head=head,
        training=TrainingConfig(),
    )
    rates = {}
    for workers in (1, 2):
        training = TrainingConfig(num_workers=(workers,))
        trained = fit(replace(job, training=training), str(tmp_path / "runs"), f"{workers}-workers")
        rates[workers] = json.loads(trained.metrics["history"])[-1]["posts_per_second"]
    ratio = show("train on two workers over one", rates[2], rates[1], "posts/s", f">= {WORKERS_LIMIT}")
    assert ratio >= WORKERS_LIMIT


def _base_clip(folder: Path) -> list[Branch]:
    """The size of openai/clip-vit-base-patch32, which is that of CLIPConfig(), with a tokenizer of our own."""
    write_checkpoint("clip", folder)
    CLIPModel(CLIPConfig(text_config={"eos_token_id": 2, "pad_token_id": 1})).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return [resolve(Branch(modality, "clip", str(folder))) for modality in ("text", "image")]


def _corpus(prepared: str, folder: Path, num_posts: int, image: bytes | None = None) -> str:
    """Train posts as often as it takes, with an image of their own or all with one, as a set of prepared posts."""
    manifest = storage.manifest(prepared)
    assert manifest
    some = read_posts(prepared).filter(pa.compute.field("split") == "train").slice(0, min(num_posts, 2560))
    if image:
        some = some.set_column(some.column_names.index("image"), "image", pa.array([image] * len(some), pa.binary()))
    (folder / manifest["data"]).mkdir(parents=True)
    with pq.ParquetWriter(folder / manifest["data"] / "posts.parquet", some.schema) as writer:
        for start in range(0, num_posts, len(some)):
            writer.write_table(some.slice(0, num_posts - start), row_group_size=256)
    storage.finish(str(folder), manifest | {"num_posts": num_posts, "fingerprint": folder.name})
    return str(folder)


class Peaks:
    """The highest anonymous memory, in MB, of each process below this one and of all together, while it is open.

    This process is left out: it has built the corpora, and what it has freed since is not given back at once.
    """

    def __init__(self) -> None:
        self.of: dict[str, float] = defaultdict(float)
        self.all = 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Peaks":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.over.wait(0.5):
            now: dict[str, float] = {}
            for process in psutil.Process().children(recursive=True):
                try:
                    memory = process.memory_info()
                    now[f"{process.name()} {process.pid}"] = (memory.rss - memory.shared) / 2**20
                except psutil.Error:  # it has just ended
                    continue
            self.all = max(self.all, sum(now.values()))
            for name, size in now.items():
                self.of[name] = max(self.of[name], size)


@ray.remote(num_cpus=0, max_calls=1)
def _stream(posts: str, branches: list[Branch]) -> int:
    """What a training's worker does but for the gradient steps, in a process of its own; the number of posts read."""
    return sum(batch.num_rows for batch in _loader(posts, branches).epoch(0))


def test_memory(prepared: str, tmp_path: Path) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # this folder is not on the path of Ray's processes
    branches = list(write_clip(tmp_path / "clip", **TINY).values())
    image = picture(0, (64, 64), "JPEG")
    corpora = {size: _corpus(prepared, tmp_path / str(size), size, image) for size in SIZES}
    curve = []
    for size, posts in corpora.items():
        with Peaks() as peaks:
            assert ray.get(_stream.remote(posts, branches)) == size
        largest = sorted(peaks.of.items(), key=lambda each: -each[1])[:4]
        print(f"memory, {size} posts: {max(peaks.of.values()):.0f} MB the largest process, {peaks.all:.0f} MB all;")
        print("   " + ", ".join(f"{name} {most:.0f}" for name, most in largest))
        curve.append((max(peaks.of.values()), peaks.all))
    for before, after in zip(curve[-2], curve[-1], strict=True):
        assert after <= GROWTH_LIMIT * before
