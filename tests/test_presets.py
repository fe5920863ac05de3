"""The table of encoders: what it says is what the published configurations give, and the README has it."""

from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

from emo.encoders import FAMILIES, PRESETS, SCRATCH, Preset, presets_table
from emo.encoders.jina import MAX_TOKENS as JINA_TOKENS
from emo.encoders.pretrained import KINDS, PretrainedTower
from emo.encoders.scratch import CNN, IMAGE_SIZE, LSTM, MAX_WORDS, TagCNN, TextCNN, _image_processor
from emo.encoders.tiny import IMAGE_SIZE as TINY_IMAGE_SIZE
from emo.encoders.tiny import MAX_TOKENS as TINY_TOKENS
from emo.encoders.tiny import WIDTH as TINY_WIDTH


def layers(width: int, number: int, heads: int, inner: int) -> dict[str, int]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return dict(zip(names, (width, number, heads, inner), strict=True))


BASE = layers(768, 12, 12, 3072)


def clip(text: dict[str, int], vision: dict[str, int], patch: int, projected: int) -> CLIPConfig:
    words = {"vocab_size": 49408, "max_position_embeddings": 77, "projection_dim": projected}
    images = {"image_size": 224, "patch_size": patch, "projection_dim": projected}
    return CLIPConfig(text_config=text | words, vision_config=vision | images, projection_dim=projected)


def siglip(vocabulary: int) -> SiglipConfig:
    words = {"vocab_size": vocabulary, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 1}
    return SiglipConfig(text_config=BASE | words, vision_config=BASE | {"image_size": 224, "patch_size": 16})


def blip2() -> Blip2Config:
    words = {"vocab_size": 30523, "max_position_embeddings": 512, "use_qformer_text_input": True}
    return Blip2Config(
        vision_config=layers(1408, 39, 16, 6144) | {"image_size": 224, "patch_size": 14},
        qformer_config=BASE | words | {"encoder_hidden_size": 1408, "cross_attention_frequency": 2},
        num_query_tokens=32,
        image_text_hidden_size=256,
    )


SMALL_TEXT = layers(512, 12, 8, 2048)
PUBLISHED = {
    "clip-base": (CLIPModel, clip(SMALL_TEXT, BASE, 32, 512)),
    "clip-base-16": (CLIPModel, clip(SMALL_TEXT, BASE, 16, 512)),
    "clip-large": (CLIPModel, clip(BASE, layers(1024, 24, 16, 4096), 14, 768)),
    "siglip-base": (SiglipModel, siglip(32_000)),
    "siglip2-base": (SiglipModel, siglip(256_000)),
    "blip2": (Blip2ForImageTextRetrieval, blip2()),
    "bert-base": (BertModel, BertConfig(vocab_size=30522, max_position_embeddings=512, **BASE)),
    "vit-base": (ViTModel, ViTConfig(image_size=224, patch_size=16, **BASE)),
}
"""Each model's class and the numbers of its published config.json."""


def on_paper(kind: type[PreTrainedModel], config: object) -> PreTrainedModel:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return kind(config)


def test_every_pretrained_preset_is_checked():
    built = {name for name, preset in PRESETS.items() if preset.checkpoint == name}
    assert set(PUBLISHED) | {"jina-clip"} | built == set(PRESETS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_tells_the_published_numbers(name):
    preset, (kind, config) = PRESETS[name], PUBLISHED[name]
    assert round(sum(p.numel() for p in on_paper(kind, config).parameters()) / 1e6) == preset.num_parameters
    for modality in FAMILIES[preset.family]:
        of = KINDS[preset.family, modality]
        own = {"text": "text_config", "image": "vision_config"}[modality]
        model = on_paper(_class(of.model), config if preset.family == "blip2" else getattr(config, own, config))
        projected = getattr(model, of.projection).out_features if of.projection else None
        tower = PretrainedTower(of, model)
        assert tower.width == preset.widths[modality]
        assert projected in (preset.projected, None)
        if modality == "text":
            assert tower.config.max_position_embeddings == preset.max_tokens
        else:
            assert getattr(config, "vision_config", config).image_size == preset.image_size
    assert (preset.projected is None) == (preset.family in ("bert", "vit"))


def _class(name: str) -> type[PreTrainedModel]:
    import transformers

    return getattr(transformers, name)


def test_jina_clip_as_its_model_card_has_it():
    preset = PRESETS["jina-clip"]
    assert preset.widths == {"text": 768, "image": 768}
    assert (preset.image_size, preset.max_tokens) == (224, JINA_TOKENS)


def test_what_is_built_from_the_corpus():
    tiny = [preset for name, preset in PRESETS.items() if name.startswith("tiny-")]
    assert {width for preset in tiny for width in preset.widths.values()} == {TINY_WIDTH}
    assert {preset.max_tokens for preset in tiny} == {TINY_TOKENS}
    assert {preset.image_size for preset in tiny} == {TINY_IMAGE_SIZE, None}
    towers = {"lstm": LSTM(9), "textcnn": TextCNN(9), "tags": TagCNN(9), "cnn": CNN(_image_processor())}
    for name, tower in towers.items():
        assert PRESETS[name].widths == {FAMILIES[name][0]: tower.width}
        assert PRESETS[name].max_tokens == MAX_WORDS.get(name)
    assert PRESETS["cnn"].image_size == IMAGE_SIZE
    assert PRESETS["cnn"].num_parameters == round(sum(p.numel() for p in towers["cnn"].parameters()) / 1e6, 1)
    assert {preset.family for name, preset in PRESETS.items() if name in SCRATCH} == set(SCRATCH)


def test_a_row_leaves_out_what_is_unknown():
    assert Preset("clip", "some/model").licence is None
    assert "| `tfidf` | text |  |  |  |  |  | built from the corpus |" in presets_table()


def test_the_readme_has_the_table():
    assert presets_table() in (Path(__file__).parent.parent / "README.md").read_text()
