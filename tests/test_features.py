"""The feature cache: what it holds, when it is used again, and who may see which posts."""

import numpy as np
import pytest
from checkpoints import PROJECTED, WIDTH, write_checkpoint
from corpora import prepare_files, write_posts

from emo import features as module
from emo import storage
from emo.config import PrepareConfig
from emo.encode import TextVariant, text_for_encoder, texts_of
from emo.encoders import Branch, parse_encoder
from emo.encoders.pretrained import PretrainedEncoder, resolve
from emo.features import embed, encoded_posts, features_key, read_features, resolve_encoders
from emo.posts import read_posts

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def posts(tmp_path_factory, ray_session):
    folder = tmp_path_factory.mktemp("corpus")
    target = str(folder / "prepared")
    prepare_files(write_posts(folder), target, PrepareConfig(labels="auto", image_size=32), seed=0)
    return target


@pytest.fixture(scope="module")
def branches(tmp_path_factory):
    clip = str(write_checkpoint("clip", tmp_path_factory.mktemp("clip")))
    return {m: resolve(Branch(modality=m, family="clip", checkpoint=clip)) for m in ("text", "image")}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def embedded(posts, branches, cache):
    return {m: embed(posts, branch, cache, text=TextVariant("append")) for m, branch in branches.items()}


def test_features_are_the_encoders_own_and_zero_where_a_modality_is_absent(posts, branches, embedded):
    table = read_posts(posts, ["post_id", "image"])
    ids, images = table["post_id"].to_pylist(), table["image"].to_pylist()
    found, present = read_features(embedded["image"], ids)
    assert present.tolist() == [image is not None for image in images]
    assert not found[~present].any()
    wanted = PretrainedEncoder(branches["image"]).encode([image for image in images if image])
    np.testing.assert_allclose(found[present], wanted, rtol=1e-4, atol=1e-5)
    assert embedded["image"].width == WIDTH
    assert embedded["image"].projection.weight.shape == (PROJECTED, WIDTH)


def test_tags_join_the_text_where_asked():
    assert text_for_encoder("so sad", ["rain", "late"], "append") == "so sad rain late"
    assert text_for_encoder("so sad", ["rain"], "ignore") == "so sad"
    assert text_for_encoder(None, ["rain"], "append") == "rain"
    assert text_for_encoder(None, ["rain"], "ignore") is None


def test_a_second_run_reuses_the_features_and_says_so(posts, branches, cache, embedded):
    again = embed(posts, branches["image"], cache, text=TextVariant("append"))
    assert not embedded["image"].reused
    assert again.reused
    assert again.folder == embedded["image"].folder


def test_refresh_encodes_again(posts, branches, cache, embedded):
    assert not embed(posts, branches["text"], cache, text=TextVariant("append"), refresh=True).reused


def test_the_key_changes_with_what_is_read(posts, branches):
    keys = {
        features_key(posts, branches["text"], TextVariant("append")),
        features_key(posts, branches["text"], TextVariant("ignore")),
        features_key(posts, branches["image"], TextVariant("append")),
        features_key(posts, Branch("text", "clip", branches["text"].checkpoint, "other"), TextVariant("append")),
    }
    assert len(keys) == 4
    image = [features_key(posts, branches["image"], TextVariant(mode)) for mode in ("append", "ignore")]
    assert image[0] == image[1], "tags do not change what an image branch sees"


def test_unfinished_features_are_not_read(posts, branches, embedded, tmp_path):
    key = features_key(posts, branches["image"], TextVariant("append"))
    folder = tmp_path / "features" / key / "data-dead"
    folder.mkdir(parents=True)
    (folder / "part.parquet").write_bytes(b"half")
    assert not embed(posts, branches["image"], str(tmp_path), text=TextVariant("append")).reused


def test_encoded_posts_are_aligned_across_arrays(posts, embedded):
    data = encoded_posts(posts, list(embedded.values()))
    table = read_posts(posts, ["post_id", "targets", "split"]).to_pylist()
    by_id = {row["post_id"]: row for row in table}
    for split, ids in data.post_ids.items():
        assert [by_id[i]["split"] for i in ids] == [split] * len(ids)
        assert data.targets[split].tolist() == [[t >= 0.5 for t in by_id[i]["targets"]] for i in ids]
        assert data.packed[split].shape == (len(ids), 2 * WIDTH + 2)
    assert sum(len(ids) for ids in data.post_ids.values()) == 60


def test_trials_get_no_test_posts(posts, embedded):
    data = encoded_posts(posts, list(embedded.values()))
    training = data.for_training()
    seen = {row.tobytes() for part in (training.train_packed, training.val_packed) for row in part}
    assert not seen & {row.tobytes() for row in data.packed["test"]}
    assert not [name for name in vars(training) if "test" in name]


def test_tiny_checkpoints_learn_from_train_and_unlabelled_posts_only(posts, cache, monkeypatch):
    seen = {}

    def spy(name, texts, images, folder, seed):
        seen["texts"] = texts
        storage.write_json(storage.join(folder, "config.json"), {})

    monkeypatch.setattr(module, "build_tiny", spy)
    module.build_tiny_set("tiny-bert", posts, cache, TextVariant("append"), 0)
    table = read_posts(posts, ["text", "tags", "split"])
    texts = dict(zip(texts_of(table, "append"), table["split"].to_pylist(), strict=True))
    words = [text for text in seen["texts"] if text and text.startswith("so ")]  # these are each one post's
    assert len(words) > 20
    assert {texts[text] for text in words} == {"train"}
    assert len(seen["texts"]) == table["split"].to_pylist().count("train")


def test_resolving_builds_a_tiny_checkpoint_once(posts, cache):
    spec = parse_encoder("tiny-bert")
    first, second = (resolve_encoders([spec], posts, cache, text=TextVariant("append"), seed=1)[0] for _ in range(2))
    assert first == second
    assert first.branches[0].revision
    assert storage.exists(storage.join(first.branches[0].checkpoint, "model.safetensors"))
