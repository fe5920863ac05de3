"""Encoders: names on the command line, and features that are transformers' own."""

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import MAX_TOKENS, PROJECTED, WIDTH, picture, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, BertModel, CLIPModel, SiglipModel, ViTModel

from emo.config import MODALITIES, UserError
from emo.encoders import BASE, FAMILIES, PRESETS, Branch, EncoderSpec, parse_encoder
from emo.encoders.pretrained import _LOADERS, _POOLS, POOLING, PretrainedEncoder, resolve

TEXTS = ["so happy today!", "rain", "the train is late . the train never ends", ""]
IMAGES = [picture(0), picture(1, (64, 40), "JPEG"), picture(2, (20, 30))]
BRANCHES = [(family, modality) for family, modalities in FAMILIES.items() for modality in modalities]
TEXT_FAMILIES = [family for family, modality in BRANCHES if modality == "text"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Several threads over so small tensors wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: write_checkpoint(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def encoder(folders: dict[str, Path], family: str, modality: str) -> PretrainedEncoder:
    return PretrainedEncoder(resolve(Branch(modality=modality, family=family, checkpoint=str(folders[family]))))


def tokens(folder: Path, padding: str = "longest") -> dict[str, torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer(TEXTS, padding=padding, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")


def pixels(folder: Path) -> torch.Tensor:
    opened = [Image.open(io.BytesIO(image)).convert("RGB") for image in IMAGES]
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor(images=opened, return_tensors="pt")["pixel_values"]


def project(reader: PretrainedEncoder, features: np.ndarray) -> np.ndarray:
    """Features in the space that the checkpoint's own modalities share."""
    projection = reader.projection
    return features @ projection.weight.T + (0 if projection.bias is None else projection.bias)


def close(features: np.ndarray, expected: torch.Tensor) -> None:
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected.detach().numpy(), rtol=1e-4, atol=1e-5)


# What is named


@pytest.mark.parametrize(
    ("name", "branches"),
    [
        ("clip-base", [("text", *PRESETS["clip-base"]), ("image", *PRESETS["clip-base"])]),
        ("clip", [("text", *PRESETS["clip-base"]), ("image", *PRESETS["clip-base"])]),
        ("bert", [("text", *PRESETS["bert-base"])]),
        ("vit-base", [("image", *PRESETS["vit-base"])]),
        ("siglip:image", [("image", *PRESETS["siglip-base"])]),
        ("clip-large:text", [("text", *PRESETS["clip-large"])]),
        ("bert-base+vit-base", [("text", *PRESETS["bert-base"]), ("image", *PRESETS["vit-base"])]),
        ("bert+clip-base", [("text", *PRESETS["bert-base"]), ("image", *PRESETS["clip-base"])]),
        ("bert:some/model", [("text", "bert", "some/model")]),
        ("clip:/a/path", [("text", "clip", "/a/path"), ("image", "clip", "/a/path")]),
        ("clip:/a/path:text", [("text", "clip", "/a/path")]),
        ("bert:/a/path+vit:some/model", [("text", "bert", "/a/path"), ("image", "vit", "some/model")]),
        ("tiny-clip:image", [("image", "clip", "tiny-clip")]),
    ],
)
def test_every_form_of_a_name(name, branches):
    expected = tuple(Branch(modality=m, family=family, checkpoint=checkpoint) for m, family, checkpoint in branches)
    assert parse_encoder(name) == EncoderSpec(name=name, branches=expected)
    assert parse_encoder(name).modalities == tuple(m for m, _, _ in branches)


@pytest.mark.parametrize(
    "name", ["nope", "", "clip:", "gpt:some/model", "nope:text", "nope+vit", "bert+", "+", "a+b+c"]
)
def test_an_unknown_name_is_answered_with_those_there_are(name):
    with pytest.raises(UserError, match=r"is no encoder; give one of clip-base, .*family:path-or-hub-id") as caught:
        parse_encoder(name)
    assert str(caught.value).startswith(f"--encoders {name}: ")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("bert:image", "--encoders bert:image: bert has no image branch; it reads text."),
        ("vit-base:text", "--encoders vit-base:text: vit-base has no text branch; it reads image."),
        ("vit+bert", "--encoders vit+bert: vit has no text branch; it reads image."),
        ("clip+bert", "--encoders clip+bert: bert has no image branch; it reads text."),
        ("bert:/p+bert:/p", "--encoders bert:/p+bert:/p: bert:/p has no image branch; it reads text."),
    ],
)
def test_a_branch_that_a_family_lacks(name, sentence):
    with pytest.raises(UserError) as caught:
        parse_encoder(name)
    assert str(caught.value) == sentence


@settings(deadline=None)
@given(st.text(max_size=12))
def test_any_name_is_parsed_or_refused(name):
    with contextlib.suppress(UserError):
        spec = parse_encoder(name)
        assert spec.branches
        assert spec.name == name


def test_a_revision_is_for_hub_checkpoints():
    assert {branch.revision for branch in parse_encoder("clip-base", "abc").branches} == {"abc"}
    assert {branch.revision for branch in parse_encoder("tiny-clip", "abc").branches} == {None}


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_of_presets_is_consistent(name):
    family, checkpoint = PRESETS[name]
    assert set(FAMILIES[family]) <= set(MODALITIES)
    assert parse_encoder(name).modalities == FAMILIES[family]
    assert parse_encoder(name).branches[0].is_tiny == name.startswith("tiny-")
    assert checkpoint == name or checkpoint.count("/") == 1


def test_every_branch_can_be_loaded_and_pooled():
    assert set(BASE) == set(FAMILIES) == set(POOLING)
    assert set(_LOADERS) == set(_POOLS) == set(BRANCHES)
    assert all(PRESETS[preset][0] == family for family, preset in BASE.items())


# Where it comes from


def test_a_folder_counts_by_what_is_in_it(folders, tmp_path):
    def revision(folder):
        return resolve(Branch(modality="text", family="clip", checkpoint=str(folder))).revision

    moved = shutil.copytree(folders["clip"], tmp_path / "elsewhere")
    assert revision(moved) == revision(folders["clip"])
    config = moved / "config.json"
    config.write_text(config.read_text().replace(" ", "\t", 1))
    changed = revision(moved)
    assert changed != revision(folders["clip"])
    config.rename(moved / "other.json")
    assert revision(moved) != changed


def test_a_folder_is_written_down_in_full(folders, monkeypatch):
    monkeypatch.chdir(folders["clip"].parent)
    branch = resolve(Branch(modality="text", family="clip", checkpoint=folders["clip"].name))
    assert branch.checkpoint == str(folders["clip"])


@pytest.mark.parametrize("load", [resolve, PretrainedEncoder])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_out_of_reach(load, family):
    branch = Branch(modality=FAMILIES[family][0], family=family, checkpoint="nobody/has-this")
    with pytest.raises(UserError, match=r"checkpoint nobody/has-this is neither in .* cache nor could it be fetched"):
        load(branch)


@pytest.mark.parametrize(("family", "modality"), BRANCHES)
def test_a_folder_without_a_checkpoint(family, modality, tmp_path):
    with pytest.raises(UserError, match=rf"folder {tmp_path} holds no readable {family} checkpoint"):
        PretrainedEncoder(Branch(modality=modality, family=family, checkpoint=str(tmp_path), revision="x"))


@pytest.mark.parametrize(
    ("modality", "file", "content"),
    [
        ("text", "config.json", "{"),
        ("text", "model.safetensors", "cut"),
        ("text", "tokenizer.json", "{"),
        ("text", "tokenizer.json", None),
        ("image", "model.safetensors", None),
        ("image", "preprocessor_config.json", "{"),
        ("image", "preprocessor_config.json", None),
    ],
)
def test_a_damaged_folder(modality, file, content, folders, tmp_path):
    broken = shutil.copytree(folders["clip"], tmp_path / "broken")
    (broken / file).unlink() if content is None else (broken / file).write_text(content)
    with pytest.raises(UserError, match=r"broken holds no readable clip checkpoint: ."):
        PretrainedEncoder(Branch(modality=modality, family="clip", checkpoint=str(broken), revision="x"))


@pytest.mark.parametrize(
    ("family", "other", "modality"),
    [("bert", "clip", "text"), ("clip", "bert", "text"), ("clip", "siglip", "image"), ("vit", "clip", "image")],
)
def test_weights_are_never_made_up(family, other, modality, folders):
    branch = Branch(modality=modality, family=family, checkpoint=str(folders[other]), revision="x")
    with pytest.raises(UserError, match=r"weights are missing or of another size; is it of another family\?"):
        PretrainedEncoder(branch)


def test_a_folder_with_pickled_weights_alone_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "pickled")
    torch.save(BertModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pickled holds no readable bert checkpoint: .*model\.safetensors"):
        PretrainedEncoder(Branch(modality="text", family="bert", checkpoint=str(folder), revision="x"))


# What is read


@pytest.mark.parametrize(("family", "modality"), BRANCHES)
def test_features_have_the_width_that_is_told(family, modality, folders):
    reader = encoder(folders, family, modality)
    features = reader.encode(TEXTS if modality == "text" else IMAGES)
    assert reader.width == WIDTH
    assert features.shape == (len(TEXTS if modality == "text" else IMAGES), WIDTH)
    assert np.isfinite(features).all()
    assert np.ptp(features, axis=0).max() > 0.1
    assert not any(parameter.requires_grad for parameter in reader.model.parameters())


def test_clip_text_is_pooled_before_its_projection(folders):
    reader, model = encoder(folders, "clip", "text"), CLIPModel.from_pretrained(folders["clip"]).eval()
    inputs, features = tokens(folders["clip"]), reader.encode(TEXTS)
    close(features, model.text_model(**inputs).pooler_output)
    assert reader.projection.weight.shape == (PROJECTED, WIDTH)
    close(project(reader, features), model.get_text_features(**inputs).pooler_output)


def test_clip_image_is_pooled_before_its_projection(folders):
    reader, model = encoder(folders, "clip", "image"), CLIPModel.from_pretrained(folders["clip"]).eval()
    inputs, features = pixels(folders["clip"]), reader.encode(IMAGES)
    close(features, model.vision_model(pixel_values=inputs).pooler_output)
    close(project(reader, features), model.get_image_features(pixel_values=inputs).pooler_output)


def test_siglip_text_is_its_last_token_before_its_head(folders):
    reader, model = encoder(folders, "siglip", "text"), SiglipModel.from_pretrained(folders["siglip"]).eval()
    ids, features = tokens(folders["siglip"], "max_length")["input_ids"], reader.encode(TEXTS)
    outputs = model.text_model(input_ids=ids)
    close(features, outputs.last_hidden_state[:, -1])
    assert reader.projection.bias is not None
    close(project(reader, features), outputs.pooler_output)
    close(project(reader, features), model.get_text_features(input_ids=ids).pooler_output)


def test_siglip_image_is_pooled_by_attention_and_has_no_projection(folders):
    reader, model = encoder(folders, "siglip", "image"), SiglipModel.from_pretrained(folders["siglip"]).eval()
    inputs = pixels(folders["siglip"])
    close(reader.encode(IMAGES), model.vision_model(pixel_values=inputs).pooler_output)
    assert reader.projection is None


def test_bert_is_the_mean_over_its_tokens(folders):
    reader, model = encoder(folders, "bert", "text"), BertModel.from_pretrained(folders["bert"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(folders["bert"])
    alone = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for text in TEXTS]
    close(reader.encode(TEXTS), torch.stack(alone))
    assert reader.projection is None


def test_vit_is_its_class_token(folders):
    reader, model = encoder(folders, "vit", "image"), ViTModel.from_pretrained(folders["vit"]).eval()
    close(reader.encode(IMAGES), model(pixel_values=pixels(folders["vit"])).last_hidden_state[:, 0])
    assert reader.projection is None


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_texts_features_do_not_depend_on_its_batch(family, folders):
    reader = encoder(folders, family, "text")
    alone = np.concatenate([reader.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(reader.encode(TEXTS), alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", [family for family, modality in BRANCHES if modality == "image"])
def test_an_images_features_do_not_depend_on_its_batch(family, folders):
    reader = encoder(folders, family, "image")
    alone = np.concatenate([reader.encode([image]) for image in IMAGES])
    np.testing.assert_allclose(reader.encode(IMAGES), alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_long_text_is_cut_at_the_models_limit(family, folders):
    reader = encoder(folders, family, "text")
    assert reader.max_tokens == MAX_TOKENS
    words = "happy rain love " * 30
    # the end token takes the last place, whatever would have followed
    np.testing.assert_allclose(reader.encode([words]), reader.encode([words + "sad"]), rtol=1e-4, atol=1e-5)
    assert np.abs(reader.encode([words]) - reader.encode(["sad " + words])).max() > 1e-3


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_tokenizer_without_a_limit_is_held_to_the_models(family, folders, tmp_path):
    folder = shutil.copytree(folders[family], tmp_path / family)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = int(1e30)  # as in checkpoints that never said
    tokenizer.save_pretrained(folder)
    reader = PretrainedEncoder(resolve(Branch(modality="text", family=family, checkpoint=str(folder))))
    assert reader.max_tokens == MAX_TOKENS
    assert np.isfinite(reader.encode(["happy " * 100])).all()


@pytest.mark.xfail(find_spec("sentencepiece") is None, reason="sentencepiece is not installed", strict=True)
def test_the_tokenizer_of_published_siglip_checkpoints(folders, tmp_path):
    import sentencepiece

    folder = shutil.copytree(folders["siglip"], tmp_path / "siglip")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[:3] * 20),
        model_prefix=str(folder / "spiece"),
        vocab_size=17,
        model_type="char",
        minloglevel=2,
    )
    (folder / "tokenizer.json").unlink()
    names = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "SiglipTokenizer", "model_max_length": MAX_TOKENS, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    features = encoder({"siglip": folder}, "siglip", "text").encode(TEXTS)
    assert np.ptp(features, axis=0).max() > 0.1


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=4), family=st.sampled_from(TEXT_FAMILIES))
def test_any_text_has_features(texts, family, folders):
    features = encoder_of(folders, family).encode(texts)
    assert features.shape == (len(texts), WIDTH)
    assert np.isfinite(features).all()


READERS: dict[str, PretrainedEncoder] = {}


def encoder_of(folders: dict[str, Path], family: str) -> PretrainedEncoder:
    """The family's text branch, loaded once for all examples."""
    if family not in READERS:
        READERS[family] = encoder(folders, family, "text")
    return READERS[family]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_images_of_any_mode_are_read_as_colour(mode, folders):
    def encoded(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    image = Image.open(io.BytesIO(IMAGES[0])).convert(mode)
    reader = encoder(folders, "vit", "image")
    np.testing.assert_array_equal(reader.encode([encoded(image)]), reader.encode([encoded(image.convert("RGB"))]))
