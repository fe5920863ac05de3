"""The feature cache: what it holds, when it is used again, and who may see which posts."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from checkpoints import PROJECTED, WIDTH, write_checkpoint
from corpora import prepare_files, write_posts

from emo import features as module
from emo import storage
from emo.config import PrepareConfig
from emo.encode import Encode
from emo.encoded import encoded_posts, read_features
from emo.encoders import Branch, parse_encoder, tiny
from emo.encoders.hub import resolve
from emo.encoders.load import load_encoder, load_reader
from emo.encoders.scratch import build_scratch
from emo.features import embed, features_key, resolve_encoders
from emo.posts import read_posts
from emo.reading import TextVariant, find_cut, text_for_encoder, texts_of

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


def test_what_is_too_long_is_counted_with_and_without_features(posts, branches, embedded):
    cut = embedded["text"].cut
    assert cut.num_texts > 0
    assert find_cut(posts, load_reader(branches["text"]), TextVariant("append")) == cut


def test_features_are_the_encoders_own_and_zero_where_a_modality_is_absent(posts, branches, embedded):
    table = read_posts(posts, ["post_id", "image"])
    ids, images = table["post_id"].to_pylist(), table["image"].to_pylist()
    found, present = read_features(embedded["image"], ids)
    assert present.tolist() == [image is not None for image in images]
    assert not found[~present].any()
    wanted = load_encoder(branches["image"]).encode([image for image in images if image])
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


def test_features_of_all_layers_lie_side_by_side(posts, branches, cache, embedded):
    found = embed(posts, branches["text"], cache, text=TextVariant("append"), layers=True)
    assert (found.width, found.num_layers, embedded["text"].num_layers) == (WIDTH, 3, 1)
    assert found.folder != embedded["text"].folder
    ids = read_posts(posts, ["post_id"])["post_id"].to_pylist()
    layers, present = read_features(found, ids)
    last, also_present = read_features(embedded["text"], ids)
    assert layers.dtype == np.float16
    assert present.tolist() == also_present.tolist()
    np.testing.assert_allclose(layers[:, -WIDTH:].astype(np.float32), last, rtol=2e-3, atol=2e-3)


def test_a_branch_beside_one_of_tags_reads_none(posts, branches):
    beside = replace(branches["text"], ignores_tags=True)
    alone = features_key(posts, branches["text"], TextVariant("ignore"))
    assert features_key(posts, beside, TextVariant("append")) == alone


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

    monkeypatch.setattr(tiny, "build_tiny", spy)
    module.build_set("tiny-bert", posts, cache, TextVariant("append"), 0)
    table = read_posts(posts, ["text", "tags", "split"])
    texts = dict(zip(texts_of(table, "append"), table["split"].to_pylist(), strict=True))
    words = [text for text in seen["texts"] if text and text.startswith("so ")]  # these are each one post's
    assert len(words) > 20
    assert {texts[text] for text in words} == {"train"}
    assert len(seen["texts"]) == table["split"].to_pylist().count("train")


def test_resolving_builds_what_is_made_of_the_posts_once(posts, cache):
    specs = [parse_encoder(name) for name in ("tiny-bert", "tags")]
    first, second = (resolve_encoders(specs, posts, cache, text=TextVariant("append"), seed=1) for _ in range(2))
    assert first == second
    assert all(branch.revision for spec in first for branch in spec.branches)
    assert storage.exists(storage.join(first[0].branches[0].checkpoint, "model.safetensors"))
    assert set(load_reader(first[1].branches[0]).number) == {"today"}


def test_what_learns_from_scratch_knows_the_words_of_train(posts, cache):
    def words(encoder: str) -> set[str]:
        name, text = module._made_from(parse_encoder(encoder).branches[0], TextVariant("append"))
        folder = module.build_set(name, posts, cache, text, 0)
        return set(load_reader(Branch("text", name, folder)).number)

    train = [row["text"] or "" for row in read_posts(posts).to_pylist() if row["split"] == "train"]
    counts = Counter(word for text in train for word in text.split())
    assert words("textcnn+tags") == {word for word, count in counts.items() if count >= 2}
    assert words("textcnn") == words("textcnn+tags") | {"today"}, "tags are read after the text without a branch"


def test_branches_of_words_and_tags_encode_and_tell_what_is_cut(tmp_path):
    lists = [["gym"] * number for number in (0, 1, 11)]
    texts = ["so happy", None, "so sad so happy"]
    batch = pa.table({"post_id": ["a", "b", "c"], "text": texts, "tags": lists})
    for family, values in (("tfidf", texts), ("tags", lists)):
        build_scratch(family, values, str(tmp_path / family))
    found = Encode(Branch("tags", "tags", str(tmp_path / "tags"), "x"), TextVariant("append"))(batch)
    assert found["post_id"].to_pylist() == ["b", "c"]
    assert found["cut"].to_pylist() == [False, True]
    branch = Branch("text", "tfidf", str(tmp_path / "tfidf"), "x", ignores_tags=True)
    found = Encode(branch, TextVariant("append"))(batch)
    assert found["post_id"].to_pylist() == ["a", "c"]
    np.testing.assert_allclose(np.linalg.norm(found["features"].to_pylist(), axis=1), 1, rtol=1e-5)


def test_a_batch_without_the_modality_has_no_features(branches):
    batch = pa.table({"post_id": ["a"], "image": pa.array([None], pa.binary())})
    found = Encode(branches["image"], TextVariant("append"), layers=True)(batch)
    assert found.num_rows == 0
    assert found.schema.field("features").type == pa.list_(pa.float16(), 3 * WIDTH)
