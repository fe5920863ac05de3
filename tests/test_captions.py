"""Captions: what a captioner says, what the set of them holds, and what encoders read of them."""

import io
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from captioners import write_captioner
from checkpoints import picture, write_checkpoint
from corpora import write_posts
from PIL import Image
from transformers import AutoProcessor

from emo import captions as module
from emo import storage
from emo.captions import Caption, caption_posts, captions_key, resolve_captioner
from emo.config import CaptionChoices, CaptionConfig, PrepareConfig, UserError
from emo.encode import Encode
from emo.encoders import Branch
from emo.encoders.hub import resolve
from emo.encoders.load import load_encoder, load_reader
from emo.encoders.readers import pixels
from emo.posts import read_posts
from emo.prepare import prepare
from emo.reading import Cut, TextVariant, count_cut, read_captions, text_for_encoder, texts_of
from emo.sources import find_sources
from emo.tables import read_folder, write_table
from jobs import caption

pytestmark = pytest.mark.usefixtures("ray_session")

FAMILIES = ("blip-2", "blip", "git", "vision-encoder-decoder")
PREPARE = PrepareConfig(labels="auto", image_size=32)
NUM_POSTS = 600
"""More than two parts."""
IMAGES = [picture(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with raw posts and a captioner of every family."""
    folder = tmp_path_factory.mktemp("captions")
    write_posts(folder / "raw", NUM_POSTS)
    for family in FAMILIES:
        write_captioner(family, folder / family)
    return folder


@pytest.fixture(scope="module")
def posts(place, ray_session):
    target = str(place / "prepared")
    sources = find_sources((str(place / "raw" / "posts.jsonl"),), PREPARE, str(place / "cache"))
    prepare(sources, target, PREPARE, seed=0)
    return target


@pytest.fixture(scope="module")
def captioner(place):
    return resolve_captioner(str(place / "blip-2"))


@pytest.fixture(scope="module")
def made(posts, captioner, place):
    return caption_posts(posts, captioner, str(place / "cache"), max_tokens=8)


def rows_of(made):
    folder, manifest, _ = made
    return read_folder(storage.join(folder, manifest["data"])).to_pydict()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", [None, "so sad"])
def test_a_caption_depends_on_its_image_alone(place, family, prompt):
    captioner = resolve_captioner(str(place / family))
    assert captioner.family == family
    first, second = (Caption(captioner, 8, prompt) for _ in range(2))
    together = first.describe(IMAGES)
    assert together == second.describe(IMAGES)
    assert together == [second.describe([image])[0] for image in IMAGES]
    assert len(set(together)) > 1
    assert all(each is None or each == " ".join(each.split()) for each in together)


@pytest.mark.parametrize("family", ["blip-2", "blip"])
@pytest.mark.parametrize("prompt", [None, "so sad"])
def test_captions_are_what_the_checkpoints_own_processor_leads_to(place, family, prompt):
    ours = Caption(resolve_captioner(str(place / family)), 8, prompt)
    processor = AutoProcessor.from_pretrained(place / family)
    opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in IMAGES]
    inputs = processor(images=opened, text=[prompt] * len(opened) if prompt else None, return_tensors="pt")
    tokens = ours.model.generate(**inputs, **ours.settings)
    theirs = [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
    said = [f"{prompt or ''} {each}".strip() for each in ours.describe(IMAGES)]
    assert said == [" ".join(text.split()) for text in theirs]


def test_a_caption_never_says_three_tokens_twice(captioner):
    ours = Caption(captioner, 50)
    for tokens in ours.model.generate(pixels(ours.image_processor, IMAGES), **ours.settings)[:, 6:].tolist():
        triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
        assert len(triples) > 3
        assert len(triples) == len(set(triples))


def test_a_caption_of_no_words_is_null(captioner):
    silent = Caption(captioner, 1)
    silent.model.language_model.generation_config.forced_eos_token_id = 2
    batch = pa.table({"post_id": ["a", "b"], "image": pa.array([IMAGES[0], None], pa.binary())})
    assert silent(batch).to_pydict() == {"post_id": ["a"], "caption": [None]}
    assert silent(batch.slice(1)).to_pydict() == {"post_id": [], "caption": []}


def test_every_post_with_an_image_has_one_row_and_no_other(made, posts):
    table = read_posts(posts, ["post_id", "image"])
    rows = zip(table["post_id"].to_pylist(), table["image"].to_pylist(), strict=True)
    with_image = [post_id for post_id, image in rows if image is not None]
    found, manifest, reused = rows_of(made), *made[1:]
    assert found["post_id"] == with_image
    assert len(with_image) < NUM_POSTS
    assert not reused
    assert manifest["num_images"] == len(with_image)
    assert manifest["num_captions"] == sum(each is not None for each in found["caption"])
    assert manifest["captions_per_second"] > 0


def test_captions_in_the_set_are_the_captioners_own(made, posts, captioner):
    table = read_posts(posts, ["post_id", "image"]).slice(0, 20)
    wanted = Caption(captioner, 8)(table).to_pydict()
    found = rows_of(made)
    assert found["caption"][: len(wanted["caption"])] == wanted["caption"]


def test_a_second_run_reuses_them_and_other_settings_do_not(made, posts, captioner, place):
    again = caption_posts(posts, captioner, str(place / "cache"), max_tokens=8)
    assert again == (*made[:2], True)
    moved = shutil.copytree(place / "blip-2", place / "moved")
    elsewhere = caption_posts(posts, resolve_captioner(str(moved)), str(place / "cache"), max_tokens=8)
    assert elsewhere[2], "a folder counts by what is in it"
    settings = {"max_tokens": 8, "prompt": None}
    others = (
        captions_key(posts, captioner, max_tokens=8, prompt="so"),
        captions_key(posts, captioner, max_tokens=9, prompt=None),
        captions_key(posts, replace(captioner, revision="other"), **settings),
    )
    key = captions_key(posts, captioner, **settings)
    assert made[0].endswith(f"/captions/{key}")
    assert len({key, *others}) == 4


@pytest.mark.slow
def test_a_killed_run_goes_on_and_has_every_row_once(made, posts, captioner, tmp_path, monkeypatch):
    class Fails(Caption):
        def __call__(self, batch):
            if "p599" in batch["post_id"].to_pylist():
                while not list(tmp_path.rglob("*/parts/*.parquet")):
                    time.sleep(0.05)
                raise UserError("the power is gone")
            return super().__call__(batch)

    with monkeypatch.context() as patch:
        patch.setattr(module, "Caption", Fails)
        with pytest.raises(UserError, match=r"^the power is gone$"):
            caption_posts(posts, captioner, str(tmp_path), max_tokens=8)
    kept = list(tmp_path.rglob("*/parts/*.parquet"))
    done = {post_id for part in kept for post_id in read_folder(str(part.parent))["post_id"].to_pylist()}
    assert 0 < len(done) < made[1]["num_images"]

    class Repeats(Caption):
        def __call__(self, batch):
            assert not done & set(batch["post_id"].to_pylist())
            return super().__call__(batch)

    monkeypatch.setattr(module, "Caption", Repeats)
    resumed = caption_posts(posts, captioner, str(tmp_path), max_tokens=8)
    assert not resumed[2]
    assert rows_of(resumed) == rows_of(made)
    assert not list(tmp_path.rglob("parts"))


def test_posts_without_images_are_not_captioned(captioner, tmp_path):
    source = write_posts(tmp_path / "raw", 30, images=False)
    prepare(find_sources((str(source),), PREPARE, str(tmp_path)), str(tmp_path / "prepared"), PREPARE, seed=0)
    with pytest.raises(UserError, match="nothing to caption"):
        caption_posts(str(tmp_path / "prepared"), captioner, str(tmp_path))


def test_a_bad_checkpoint_is_told_in_one_sentence(place, posts, captioner, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no readable captioning checkpoint: [^\n]+$"):
        resolve_captioner(str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"is neither in this machine's .* --captioner /path\.$"):
        resolve_captioner("nobody/no-such-captioner")
    clip = write_checkpoint("clip", tmp_path / "clip")
    with pytest.raises(UserError, match="of the family clip; it must be one of blip-2, blip, git, vision"):
        resolve_captioner(str(clip))
    bare = shutil.copytree(place / "blip-2", tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"bare holds no readable captioning checkpoint: [^\n]+$"):
        caption_posts(posts, resolve_captioner(str(bare)), str(tmp_path / "cache"))


def test_weights_that_are_missing_are_not_made_up(place, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(place / "blip-2", tmp_path / "cut")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: each for name, each in tensors.items() if "qformer" not in name}, folder / "model.safetensors")
    with pytest.raises(UserError, match="of its weights are missing"):
        Caption(resolve_captioner(str(folder)), 8)


def test_weights_of_half_precision_are_computed_in_full_on_a_cpu(captioner, tmp_path):
    Caption(captioner, 8).model.half().save_pretrained(tmp_path)
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(captioner.checkpoint) / name, tmp_path)
    half = Caption(resolve_captioner(str(tmp_path)), 8)
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}


def test_there_are_as_many_captioners_as_memory_has_room_for(captioner, monkeypatch):
    def share(**resources):
        monkeypatch.setattr(module.ray, "cluster_resources", lambda: resources)
        return module._share_machine(captioner)

    size = module._num_bytes(captioner)
    assert share(CPU=8.0, memory=1e12) == (8, 1)
    assert share(CPU=8.0, memory=3 * size) == (2, 4)
    assert share(CPU=8.0, memory=size / 2) == (1, 8)
    assert share(CPU=8.0, memory=size / 2, GPU=2.0) == (2, 4)


def test_a_revision_from_before_image_tokens_is_told_as_such(place, tmp_path):
    folder = shutil.copytree(place / "blip-2", tmp_path / "old")
    config = storage.read_json(str(folder / "config.json"))
    storage.write_json(str(folder / "config.json"), config | {"image_token_index": None})
    with pytest.raises(UserError, match="names no image token; a newer revision does"):
        Caption(resolve_captioner(str(folder)), 8)


def test_the_caption_is_what_an_encoder_reads_last():
    assert text_for_encoder("so sad", ["rain"], "append", "a train") == "so sad rain a train"
    assert text_for_encoder(None, None, "ignore", "a train") == "a train"
    table = pa.table({"post_id": ["a", "b", "c"], "text": ["so sad", None, "late"], "tags": [["rain"], None, None]})
    assert texts_of(table, "append", {"a": "a train", "b": "this"}) == ["so sad rain a train", "this", "late"]
    assert texts_of(table, "append") == ["so sad rain", None, "late"]


def test_captions_are_read_by_post_and_nulls_left_out(tmp_path):
    table = pa.table({"post_id": ["a", "b"], "caption": ["a train", None]})
    write_table(str(tmp_path / "data" / "0.parquet"), table)
    storage.finish(str(tmp_path), {"kind": "captions", "data": "data"})
    assert read_captions(str(tmp_path)) == {"a": "a train"}
    with pytest.raises(UserError, match="is not a folder of captions"):
        read_captions(str(tmp_path / "data"))


def test_a_text_branch_reads_captions_and_tells_which_it_cut(tmp_path):
    checkpoint = str(write_checkpoint("bert", tmp_path / "bert"))
    branch = resolve(Branch(modality="text", family="bert", checkpoint=checkpoint))
    captions = {"short": "this train", "long": "love " * 12, "alone": "happy rain"}
    write_table(
        str(tmp_path / "set" / "data" / "0.parquet"),
        pa.table({"post_id": [*captions], "caption": [*captions.values()]}),
    )
    storage.finish(str(tmp_path / "set"), {"kind": "captions", "data": "data"})
    table = pa.table(
        {
            "post_id": ["short", "long", "alone", "nothing", "no caption"],
            "text": ["so sad", "so sad today", None, None, "the rain never ends " * 5],
            "tags": pa.array([None, ["late"], None, None, None], pa.list_(pa.string())),
        }
    )
    found = Encode(branch, TextVariant("append", str(tmp_path / "set")))(table)
    assert found["post_id"].to_pylist() == ["short", "long", "alone", "no caption"]
    assert found["cut"].to_pylist() == [False, True, False, True]
    encoder = load_encoder(branch)
    wanted = encoder.encode(["so sad this train", "so sad today late " + "love " * 12, "happy rain"])
    np.testing.assert_allclose(found["features"].to_pylist()[:3], wanted, atol=1e-5)
    write_table(str(tmp_path / "features" / "0.parquet"), found)
    assert count_cut(str(tmp_path / "features"), captions) == Cut(num_texts=2, num_captions=1)
    assert count_cut(str(tmp_path / "features")) == Cut(num_texts=2)


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2", "bert", "blip2"])
def test_a_text_is_cut_where_its_tokens_are_more_than_the_model_reads(family, tmp_path):
    checkpoint = str(write_checkpoint(family, tmp_path))
    reader = load_reader(Branch(modality="text", family=family, checkpoint=checkpoint))
    texts = [unit * number for unit in ("so ", "a", "ﷺ", "é", "happy today!") for number in range(1, 40)]
    wanted = [len(ids) > reader.max_tokens for ids in reader.tokenizer(texts)["input_ids"]]
    assert reader.is_cut(texts) == wanted
    assert any(wanted)
    assert not all(wanted)
    assert reader.is_cut([]) == []


def test_the_job_tells_how_many_and_shows_some(place, posts, made, capsys):
    config = CaptionConfig(
        data=(posts,),
        cache=str(place / "cache"),
        caption=CaptionChoices(captioner=str(place / "blip-2"), max_tokens=8),
        prepare=PREPARE,
    )
    caption.main(config)
    told = capsys.readouterr().out
    assert "captions: reused from" in told
    assert f"{made[1]['num_captions']} of {made[1]['num_images']} images" in told
    post_id, first = next(iter(read_captions(made[0]).items()))
    assert f"{post_id}" in told
    assert first in told


def test_a_caption_of_no_tokens_is_refused():
    with pytest.raises(UserError, match="--max-tokens is 0"):
        CaptionChoices(max_tokens=0)
