"""The tiny checkpoints: real classes, loaded by the Auto classes, learnt from the corpus."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, BertModel, CLIPModel, SiglipModel

from emo.config import UserError
from emo.demo import CUES, TOPICS, draw_image, write_text
from emo.encoders.tiny import TINY, WIDTH, build_tiny

CLASSES = {"tiny-clip": CLIPModel, "tiny-siglip": SiglipModel, "tiny-bert": BertModel}
FOREIGN = ["Что за день 😀", "今日は楽しい", "¡qué susto! 🤯", "naïve Größe", "\u200d", "a" * 500]


@pytest.fixture(scope="module")
def corpus() -> tuple[list[str | None], list[bytes | None]]:
    rng = np.random.default_rng(0)
    told = [(str(rng.choice(list(TOPICS))), (str(rng.choice(list(CUES))),)) for _ in range(80)]
    texts: list[str | None] = [write_text(rng, *post) for post in told]
    images: list[bytes | None] = [draw_image(rng, *post) for post in told]
    texts[0], images[1], texts[2] = None, None, FOREIGN[0]
    return texts, images


@pytest.fixture(scope="module", params=TINY)
def built(request: pytest.FixtureRequest, corpus: tuple, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    build_tiny(request.param, *corpus, str(folder), seed=0, steps=2)
    return request.param, folder


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def text_features(name: str, folder: Path, texts: list[str]) -> torch.Tensor:
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        if name == "tiny-bert":
            return model(**inputs).last_hidden_state.mean(1)
        return model.get_text_features(**inputs).pooler_output


def test_the_auto_classes_load_the_real_classes(built: tuple[str, Path]) -> None:
    name, folder = built
    model = AutoModel.from_pretrained(folder)
    assert type(model) is CLASSES[name]
    assert not model.training
    assert (folder / "model.safetensors").exists()


def test_text_features_are_finite_and_differ_in_any_language(built: tuple[str, Path]) -> None:
    features = text_features(*built, [*FOREIGN, "so happy today 🎉"])
    assert features.shape == (len(FOREIGN) + 1, WIDTH)
    assert torch.isfinite(features).all()
    assert torch.pdist(features[:4]).min() > 1e-4


def test_image_features_are_finite_and_of_the_configured_width(built: tuple[str, Path], corpus: tuple) -> None:
    name, folder = built
    if name == "tiny-bert":
        pytest.skip("tiny-bert has no image branch")
    model, processor = AutoModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    images = [Image.open(io.BytesIO(corpus[1][0])).convert("RGB"), Image.new("RGB", (200, 50), "red")]
    inputs = processor(images, return_tensors="pt")
    with torch.no_grad():
        features = model.get_image_features(**inputs).pooler_output
    size = model.config.vision_config.image_size
    assert inputs["pixel_values"].shape == (2, 3, size, size)
    assert features.shape == (2, WIDTH)
    assert torch.isfinite(features).all()


def test_padding_does_not_change_what_clip_and_bert_pool(built: tuple[str, Path]) -> None:
    name, folder = built
    if name == "tiny-siglip":
        pytest.skip("SigLIP is made to read its padding")
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    alone = tokenizer("so happy", return_tensors="pt")
    padded = tokenizer("so happy", padding="max_length", return_tensors="pt")
    with torch.no_grad():
        if name == "tiny-clip":
            first, second = (model.get_text_features(**inputs).pooler_output for inputs in (alone, padded))
        else:
            first, second = (model(**inputs).last_hidden_state[:, 0] for inputs in (alone, padded))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_clip_pools_the_end_of_the_text_even_after_unseen_letters(built: tuple[str, Path]) -> None:
    name, folder = built
    if name != "tiny-clip":
        pytest.skip("only CLIP pools at the end token")
    tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).config
    end = config.text_config.eos_token_id
    assert end == tokenizer.eos_token_id != 2
    for text in FOREIGN:
        ids = tokenizer(text, truncation=True)["input_ids"]
        assert ids.index(end) == len(ids) - 1


def test_siglip_pads_to_the_token_that_it_pools(built: tuple[str, Path]) -> None:
    name, folder = built
    if name != "tiny-siglip":
        pytest.skip("only SigLIP pools the last token")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(["so happy", "a" * 500], padding="max_length", truncation=True)["input_ids"]
    assert [row[-1] for row in ids] == [tokenizer.eos_token_id] * 2


def test_same_seed_gives_the_same_weights(built: tuple[str, Path], corpus: tuple, tmp_path: Path) -> None:
    name, folder = built
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    build_tiny(name, *corpus, str(tmp_path / "again"), seed=0, steps=2)
    build_tiny(name, *corpus, str(tmp_path / "other"), seed=1, steps=2)
    assert weights(tmp_path / "again") == weights(folder) != weights(tmp_path / "other")
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-siglip"])
def test_too_few_pairs(name: str, corpus: tuple, tmp_path: Path) -> None:
    texts, images = corpus
    with pytest.raises(UserError, match=rf"{name} learns from posts with text and image.* has 30 .*tiny-bert"):
        build_tiny(name, texts, images[:32] + [None] * (len(images) - 32), str(tmp_path / "x"), seed=0)
    assert not (tmp_path / "x").exists()


def test_bert_without_texts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tiny-bert learns from posts with text"):
        build_tiny("tiny-bert", [None, ""], [None, None], str(tmp_path / "x"), seed=0)


def test_bert_learns_from_a_single_text(tmp_path: Path) -> None:
    build_tiny("tiny-bert", ["so happy"], [None], str(tmp_path), seed=0, steps=1)
    assert torch.isfinite(text_features("tiny-bert", tmp_path, ["so happy", "never seen"])).all()


def test_contrastive_training_aligns_texts_with_their_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    topics = ["beach", "train", "phone", "forest"]
    told = [(topics[n % 4], ("joy",)) for n in range(64)]
    texts = [f"the {topic}" for topic, _ in told]
    build_tiny("tiny-clip", texts, [draw_image(rng, *post) for post in told], str(tmp_path), seed=0, steps=40)
    model, processor = AutoModel.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)
    images = [Image.open(io.BytesIO(draw_image(rng, topic, ("joy",)))).convert("RGB") for topic in topics * 4]
    with torch.no_grad():
        shown = model.get_image_features(**processor(images, return_tensors="pt")).pooler_output
    named = text_features("tiny-clip", tmp_path, [f"the {topic}" for topic in topics])
    scores = torch.nn.functional.normalize(shown, dim=-1) @ torch.nn.functional.normalize(named, dim=-1).T
    assert (scores.argmax(1) == torch.arange(16) % 4).float().mean() >= 0.75
