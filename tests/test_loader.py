"""The stream of posts: every post once, the same at every resume, as tensors that encoders can read."""

import itertools
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from checkpoints import write_checkpoint
from corpora import prepare_files, write_posts

from emo import encode, sampler, storage
from emo.batches import joined, read_batches, read_plan, reader
from emo.config import PrepareConfig, UserError
from emo.encoders import Branch
from emo.encoders.hub import resolve
from emo.encoders.scratch import build_scratch
from emo.loader import PostLoader
from emo.posts import posts_manifest, read_posts, target_shares, with_fold
from emo.reading import TextVariant, texts_of
from emo.tables import write_table

pytestmark = pytest.mark.usefixtures("ray_session")

NUM_POSTS = 60


@pytest.fixture(scope="module")
def posts(tmp_path_factory, ray_session):
    """Prepared posts in several small row groups, so that there is something to plan."""
    folder = tmp_path_factory.mktemp("corpus")
    target = str(folder / "prepared")
    prepare_files(write_posts(folder, NUM_POSTS), target, PrepareConfig(labels="auto", image_size=32, folds=3))
    for file in (folder / "prepared" / storage.manifest(target)["data"]).glob("*.parquet"):
        pq.write_table(pq.read_table(file), file, row_group_size=7)
    return target


@pytest.fixture(scope="module")
def branches(tmp_path_factory):
    """The text branch of BERT, whose texts have not all one length, and the image branch of CLIP."""
    return [
        resolve(Branch(modality, family, str(write_checkpoint(family, tmp_path_factory.mktemp(family)))))
        for modality, family in (("text", "bert"), ("image", "clip"))
    ]


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    """So that a corpus of 60 posts has units and windows to cross."""
    monkeypatch.setattr(encode, "ROWS_PER_PART", 7)
    monkeypatch.setattr(sampler, "ROWS_PER_WINDOW", 16)


def make_loader(posts, branches, *, rank=0, world_size=1, split="train", fold=None, **options):
    usual = {"batch_size": 8, "micro_batch_size": 3, "seed": 0, "shuffle": True, "augment": False}
    options = usual | {"text": TextVariant("append")} | options
    plan = read_plan(posts, split, fold)
    return PostLoader(plan, branches, rank=rank, world_size=world_size, **options)


def reference(loader, epoch):
    """What a loader is to give in an epoch, made in this process."""
    seed = (loader.seed, epoch)
    recipe = replace(loader.recipe, augment=seed if loader.augment else None)
    return list(
        read_batches(loader.plan, loader.share, recipe, seed if loader.shuffle else None, loader.micro_batch_size)
    )


def assert_equal(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one.scale, one.ends_step, one.num_rows) == (other.scale, other.ends_step, other.num_rows)
        torch.testing.assert_close(one.shares, other.shares, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(one.index, other.index)
        assert one.inputs.keys() == other.inputs.keys()
        assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)


def rows_of(batches):
    return [row for batch in batches for row in batch.index[: batch.num_rows].tolist()]


def split_of(posts, split, fold=None):
    table = with_fold(read_posts(posts), posts_manifest(posts), fold)
    return table.filter(np.array(table["split"].to_pylist()) == split)


@pytest.mark.parametrize("world_size", [1, 3])
def test_workers_stream_each_post_once_and_as_one_process_makes_them(posts, branches, world_size):
    loaders = [make_loader(posts, branches, rank=r, world_size=world_size) for r in range(world_size)]
    streamed = [list(loader.epoch(1)) for loader in loaders]
    num_rows = split_of(posts, "train").num_rows
    assert num_rows % 8, "so that the last step is not full"
    assert sorted(rows_of(itertools.chain(*streamed))) == list(range(num_rows))
    for loader, found in zip(loaders, streamed, strict=True):
        assert_equal(found, reference(loader, 1))
        assert sum(batch.ends_step for batch in found) == loader.num_steps == -(-num_rows // 8)


def test_an_epoch_is_the_same_whatever_came_before_and_another_is_not(posts, branches):
    undisturbed = make_loader(posts, branches)
    epochs = [list(undisturbed.epoch(number)) for number in (1, 2)]
    resumed = make_loader(posts, branches)
    next(iter(resumed.epoch(1)))  # and no more
    assert_equal(list(resumed.epoch(2)), epochs[1])
    assert rows_of(epochs[0]) != rows_of(epochs[1])


def test_batches_hold_what_readers_make_of_the_posts(posts, branches):
    table = split_of(posts, "val")
    loader = make_loader(posts, branches, split="val", shuffle=False, micro_batch_size=None)
    found = list(loader.epoch(0))
    assert rows_of(found) == list(range(table.num_rows)), "evaluation keeps the order of the corpus"
    texts, images = texts_of(table, "append"), table["image"].to_pylist()
    shares = target_shares(table)
    for batch, start in zip(found, range(0, table.num_rows, 8), strict=True):
        rows = slice(start, start + 8)
        text, image = (reader(branch) for branch in branches)
        for name, tensor in text([value or "" for value in texts[rows]]).items():
            assert torch.equal(batch.inputs[f"text.{name}"], tensor), "padded as if read together"
        wanted = image([value or image.blank for value in images[rows]])["pixel_values"]
        assert torch.equal(batch.inputs["image.pixel_values"], wanted)
        assert batch.inputs["image.pixel_values"].dtype == torch.uint8
        assert batch.inputs["image.present"].tolist() == [value is not None for value in images[rows]]
        np.testing.assert_array_equal(batch.shares, shares[rows])
    assert None in images


def test_folds_are_dealt_as_they_are_elsewhere(posts, branches):
    for fold, split in ((0, "test"), (1, "val"), (2, "train")):
        batches = reference(make_loader(posts, branches, split=split, fold=fold, shuffle=False), 0)
        shares = torch.cat([batch.shares for batch in batches])
        np.testing.assert_array_equal(shares, target_shares(split_of(posts, split, fold)))


def test_images_change_with_the_epoch_where_they_are_augmented(posts, branches):
    images = [branches[1]]
    plain, augmented = (make_loader(posts, images, batch_size=64, augment=augment) for augment in (False, True))
    first, again, second = (
        {
            int(row): image
            for b in reference(augmented, e)
            for row, image in zip(b.index, b.inputs["image.pixel_values"], strict=True)
        }
        for e in (1, 1, 2)
    )
    assert all(torch.equal(first[row], again[row]) for row in first)
    assert not all(torch.equal(first[row], second[row]) for row in first)
    assert (
        reference(plain, 1)[0].inputs["image.pixel_values"].shape
        == reference(augmented, 1)[0].inputs["image.pixel_values"].shape
    )


def test_a_worker_without_a_post_takes_part_in_the_step(posts, branches):
    num_rows = read_plan(posts, "train").num_rows
    loader = make_loader(posts, branches, rank=1, world_size=2, batch_size=num_rows - 1)
    last = reference(loader, 0)[-1]
    assert (last.num_rows, last.scale, last.ends_step, last.index.tolist()) == (0, 0.0, True, [-1])
    assert last.shares.isnan().all()
    assert not any(last.inputs[f"{name}.present"].item() for name in ("text", "image"))
    assert {name: t.shape[0] for name, t in last.inputs.items()} == dict.fromkeys(reference(loader, 0)[0].inputs, 1)


def test_tags_and_captions_are_streamed(posts, branches, tmp_path):
    table = split_of(posts, "val")
    captions = dict.fromkeys(read_posts(posts)["post_id"].to_pylist()[::2], "rain today")
    rows = pa.table({"post_id": list(captions), "caption": list(captions.values())})
    write_table(str(tmp_path / "captions" / "data" / "0.parquet"), rows)
    storage.finish(str(tmp_path / "captions"), {"kind": "captions", "data": "data"})
    build_scratch("tags", iter([["today"]] * 9), str(tmp_path / "tags"))
    tags = resolve(Branch("tags", "tags", str(tmp_path / "tags")))
    read = [replace(branches[0], ignores_tags=True), tags]
    options = {"split": "val", "shuffle": False, "batch_size": 64, "micro_batch_size": None}
    loader = make_loader(posts, read, text=TextVariant("append", str(tmp_path / "captions")), **options)
    (found,) = loader.epoch(0)
    texts = texts_of(table, "ignore", captions)
    assert texts != texts_of(table, "ignore")
    for name, tensor in reader(branches[0])([text or "" for text in texts]).items():
        assert torch.equal(found.inputs[f"text.{name}"], tensor)
    values = table["tags"].to_pylist()
    assert found.inputs["tags.present"].tolist() == [bool(value) for value in values]
    for name, tensor in reader(tags)([value or reader(tags).blank for value in values]).items():
        assert torch.equal(found.inputs[f"tags.{name}"], tensor)
    assert None in values


def test_pieces_of_different_lengths_are_joined_at_the_longest_row():
    ids, mask = np.array([[5, 6, 0, 0], [7, 0, 0, 0]]), np.array([[1, 1, 0, 0], [1, 0, 0, 0]])
    pieces = [{"a.ids": ids, "a.mask": mask}, {"a.ids": np.array([[8, 9, 0]]), "a.mask": np.array([[1, 1, 1]])}]
    found = joined(pieces, {"a": {"a.ids": 0, "a.mask": 0}})
    assert found["a.ids"].tolist() == [[5, 6, 0], [7, 0, 0], [8, 9, 0]], "the last 0 is a token, since its mask is 1"
    assert found["a.mask"].tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]


def test_an_unreadable_checkpoint_is_told_as_it_is(posts, tmp_path):
    lost = resolve(Branch("text", "bert", str(write_checkpoint("bert", tmp_path / "lost"))))
    loader = make_loader(posts, [lost])
    reader(lost)  # so that it is a task that misses the files
    shutil.rmtree(tmp_path / "lost")
    with pytest.raises(UserError, match="lost") as caught:
        list(loader.epoch(0))
    assert type(caught.value) is UserError
