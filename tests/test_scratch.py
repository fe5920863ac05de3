"""Encoders from scratch: their vocabularies, what they make of posts, and that they learn."""

import json

import numpy as np
import pytest
import torch
from checkpoints import picture
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import nn

from emo.choosing import chosen_encoders
from emo.config import SweepConfig, UserError
from emo.demo import draw_image
from emo.encoders import FAMILIES, SCRATCH, Branch
from emo.encoders.load import load_encoder, load_reader, save_untrained
from emo.encoders.scratch import (
    CNN,
    FEW_POSTS,
    LSTM,
    MAX_WORDS,
    PADDING,
    UNKNOWN,
    TagCNN,
    TextCNN,
    _image_processor,
    build_scratch,
    words_of,
)
from emo.pipeline import Posts
from emo.reading import TextVariant

TEXTS = ["so happy today !", "the rain never ends", "so sad", "happy happy rain", "", None]
TAGS = [["Gym", "sun"], ["sun"], [], None, ["gym", "rain"], ["rain"]]
pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = [picture(0), picture(1, (64, 40), "JPEG"), picture(2, (20, 30))]
VALUES = {"text": [text for text in TEXTS if text], "tags": [tags for tags in TAGS if tags], "image": IMAGES}


def built(family: str, folder, values: list | None = None) -> Branch:
    modality = FAMILIES[family][0]
    if values is None:
        values = {"text": TEXTS, "tags": TAGS, "image": []}[modality]
    build_scratch(family, values, str(folder))
    return Branch(modality, family, str(folder), "x")


def vocabulary(folder) -> dict:
    return json.loads((folder / "vocabulary.json").read_text())


def test_words_are_in_lower_case_and_signs_are_words():
    assert words_of("So HAPPY, it's 5:00!") == ["so", "happy", ",", "it", "'", "s", "5", ":", "00", "!"]
    assert words_of(["New York", "gym"]) == ["new york", "gym"]


def test_rare_words_are_unknown(tmp_path):
    built("textcnn", tmp_path)
    assert vocabulary(tmp_path)["words"] == ["happy", "rain", "so"]
    reader = load_reader(Branch("text", "textcnn", str(tmp_path)))
    ids = reader(["so sad rain", ""])["input_ids"]
    known = reader.number
    assert ids[0].tolist() == [known["so"], UNKNOWN, known["rain"]] + [PADDING] * 147
    assert not ids[1].any()
    assert min(known.values()) == UNKNOWN + 1


def test_a_large_corpus_wants_five_of_a_word(tmp_path):
    built("lstm", tmp_path, ["often"] * 5 + ["seldom"] * 4 + [None] * (FEW_POSTS - 9))
    assert vocabulary(tmp_path)["words"] == ["often"]
    built("lstm", tmp_path, ["often"] * 5 + ["seldom"] * 4 + [None] * (FEW_POSTS - 10))
    assert vocabulary(tmp_path)["words"] == ["often", "seldom"]


@pytest.mark.parametrize(("family", "modality"), [("textcnn", "text"), ("tags", "tags"), ("tfidf", "text")])
def test_posts_without_words(family, modality, tmp_path):
    with pytest.raises(UserError, match=rf"{family} learns words of the train posts, and their {modality} has none"):
        build_scratch(family, ["" if modality == "text" else [], None], str(tmp_path))


@pytest.mark.parametrize(("family", "limit"), MAX_WORDS.items())
def test_what_is_longer_than_is_read_is_cut_and_told(family, limit, tmp_path):
    reader = load_reader(built(family, tmp_path))
    values = [["gym"] * n if family == "tags" else "so " * n for n in (1, limit, limit + 1)]
    assert reader.is_cut(values) == [False, False, True]
    ids = reader(values)["input_ids"]
    assert ids.shape == (3, limit)
    assert torch.equal(ids[1], ids[2])


def test_tfidf_is_that_of_scikit_learn(tmp_path):
    encoder = load_encoder(built("tfidf", tmp_path))
    theirs = TfidfVectorizer(tokenizer=words_of, token_pattern=None).fit([text or "" for text in TEXTS])
    order = [theirs.vocabulary_[word] for word in vocabulary(tmp_path)["words"]]
    wanted = theirs.transform([*TEXTS[:5], "never seen"]).toarray()[:, order]
    np.testing.assert_allclose(encoder.encode([*TEXTS[:5], "never seen"]), wanted, atol=1e-6)
    assert encoder.tower.width == len(order)
    assert not list(encoder.tower.parameters())


def test_tfidf_has_a_limit_of_words(tmp_path, monkeypatch):
    monkeypatch.setattr("emo.encoders.scratch.MAX_VOCABULARY", 2)
    assert load_encoder(built("tfidf", tmp_path)).tower.width == 2
    assert vocabulary(tmp_path)["words"] == ["happy", "rain"]


@pytest.mark.parametrize("family", SCRATCH)
def test_features_do_not_depend_on_the_batch(family, tmp_path):
    encoder = load_encoder(built(family, tmp_path))
    values = [*VALUES[FAMILIES[family][0]], encoder.reader.blank]
    features = encoder.encode(values)
    assert features.shape == (len(values), encoder.tower.width)
    assert np.isfinite(features).all()
    assert np.ptp(features[:-1], axis=0).max() > 1e-3
    alone = np.concatenate([encoder.encode([value]) for value in values])
    np.testing.assert_allclose(features, alone, rtol=1e-4, atol=1e-5)
    assert encoder.tower.layers(encoder.reader(values)).shape == (len(values), 1, encoder.tower.width)


@pytest.mark.parametrize("family", SCRATCH)
def test_padding_of_another_batch_changes_nothing(family, tmp_path):
    encoder = load_encoder(built(family, tmp_path))
    inputs = dict(encoder.reader(VALUES[FAMILIES[family][0]]))
    wanted = encoder.tower(inputs)
    for name, fill in encoder.reader.padding.items():
        inputs[name] = nn.functional.pad(inputs[name], (0, 3), value=fill)
    torch.testing.assert_close(encoder.tower(inputs), wanted)
    assert bool(encoder.reader.padding) == (family == "lstm")


@pytest.mark.parametrize("family", SCRATCH)
def test_a_tower_starts_by_torchs_seed_and_comes_back_by_its_weights(family, tmp_path):
    branch = built(family, tmp_path / "built")
    values = VALUES[FAMILIES[family][0]]
    first, again, other = (torch.manual_seed(seed) and load_encoder(branch) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.encode(values), again.encode(values))
    assert family == "tfidf" or np.abs(first.encode(values) - other.encode(values)).max() > 1e-3
    save_untrained(branch, str(tmp_path / "saved"))
    loaded = load_encoder(Branch(branch.modality, family, str(tmp_path / "saved")), with_weights=False)
    loaded.tower.load_state_dict(first.tower.state_dict())
    np.testing.assert_array_equal(first.encode(values), loaded.encode(values))


@pytest.mark.parametrize("family", [family for family in SCRATCH if family != "tfidf"])
def test_towers_learn(family, tmp_path):
    torch.manual_seed(0)
    encoder = load_encoder(built(family, tmp_path))
    rng = np.random.default_rng(0)
    pictures = [draw_image(rng, topic, ("joy",)) for topic in ("beach", "train", "phone")]
    values = pictures if family == "cnn" else VALUES[FAMILIES[family][0]][:3]
    inputs, targets = encoder.reader(values), torch.arange(3)
    model = nn.Linear(encoder.tower.width, 3)
    optimizer = torch.optim.AdamW([*encoder.tower.parameters(), *model.parameters()], lr=1e-3)
    encoder.tower.train()
    losses = []
    for _ in range(20):
        features = encoder.tower(inputs)
        features = nn.functional.layer_norm(features, features.shape[1:])  # as the classifier does
        loss = nn.functional.cross_entropy(model(features), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(parameter.grad is not None for parameter in encoder.tower.parameters())


def test_the_text_extractor_is_the_published_one():
    tower = TextCNN(9).eval()
    sizes = {name: tuple(p.shape) for name, p in tower.named_parameters() if name.endswith("weight")}
    convolutions = {f"windows.{n}.weight": (100, 300, window) for n, window in enumerate((3, 4, 5))}
    assert sizes == {"embedding.weight": (9, 300), **convolutions, "linear.weight": (300, 900)}
    assert tower.dropout.p == 0.25
    ids = torch.tensor([[2, 3, 4, 5, 6, 7]])
    words = tower.embedding(ids)[0]
    pooled = []
    for window, size in zip(tower.windows, (3, 4, 5), strict=True):
        rows = torch.stack([words[n : n + size].T.flatten() for n in range(6 - size + 1)])
        found = torch.relu(rows @ window.weight.flatten(1).T + window.bias)
        pooled += [found.max(dim=0).values, found.mean(dim=0), found.min(dim=0).values]
    torch.testing.assert_close(tower({"input_ids": ids})[0], tower.linear(torch.cat(pooled)))


def test_the_tag_extractor_is_the_published_one():
    tower = TagCNN(9).eval()
    assert tower.embedding.weight.shape == (9, 250)
    ids = torch.tensor([[2, 3, PADDING, PADDING]])
    each = torch.relu(tower.embedding(ids)[0] @ tower.filters.weight[..., 0].T + tower.filters.bias)
    torch.testing.assert_close(tower({"input_ids": ids})[0], each.max(dim=0).values)


def test_the_lstm_reads_both_ways():
    tower = LSTM(9).eval()
    first, second = (tower({"input_ids": torch.tensor([ids])}) for ids in ([2, 3, 4], [4, 3, 2]))
    assert first.shape == (1, tower.width)
    assert not torch.allclose(first, second)


def test_the_cnn_has_nothing_that_a_batch_shares():
    assert not [m for m in CNN(_image_processor()).modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def chosen(name: str, **config) -> tuple[str, ...]:
    """The modalities of an encoder that a sweep over posts with everything may try."""
    posts = Posts("nowhere", {"modalities": {"text": 9, "image": 9, "tags": 9}}, TextVariant("append"))
    (spec,) = chosen_encoders(SweepConfig(encoders=(name,), **config), posts)
    return spec.modalities


@pytest.mark.parametrize(
    ("mode", "name", "reason"),
    [
        ("frozen", "textcnn", "learns textcnn from scratch, so that nothing can be kept frozen; use --mode full"),
        ("partial", "clip+tags", "learns tags from scratch, so that nothing can be kept frozen; use --mode full"),
        ("layer-mix", "lstm+cnn", "learns lstm and cnn from scratch, so that nothing can be kept frozen"),
        ("layer-mix", "tfidf", "has no layers of tfidf to weigh; use --mode frozen or partial"),
        ("lora", "textcnn+cnn+tags", "has no layers that take adapters; use --mode full"),
        ("lora", "tfidf", "has no layers that take adapters; use --mode full"),
    ],
)
def test_modes_that_have_nothing_to_train_or_to_freeze(mode, name, reason):
    with pytest.raises(UserError) as caught:
        chosen(name, mode=mode)
    assert str(caught.value).startswith(f"--encoders {name} {reason}")


def test_modes_that_suit_encoders_from_scratch():
    assert chosen("textcnn+cnn+tags", mode="full") == ("text", "image", "tags")
    assert chosen("clip+tags", mode="lora") == ("text", "image", "tags")
    assert chosen("tfidf+vit", mode="frozen") == ("text", "image")


def test_code_that_will_run_is_told(capsys):
    assert chosen("jina-clip", trust_remote_code=True, revision="abc", code_revision="def") == ("text", "image")
    told = " ".join(capsys.readouterr().out.split())
    assert told == "warning: the Python code of jinaai/jina-clip-v1 will run with your rights, at revision def"
    chosen("clip", trust_remote_code=True, revision="abc")
    assert not capsys.readouterr().out
