"""Tiny checkpoints with random weights: the real classes, tokenizers and image processors, in no time."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    BlipImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    GemmaTokenizer,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

WIDTH, IMAGE_SIZE, MAX_TOKENS = 32, 32, 16
PROJECTED = 24
"""Width of the space that CLIP's modalities share; other than WIDTH, so that no mix-up goes unseen."""
WORDS = ("so", "happy", "today", "sad", "the", "rain", "never", "ends", "love", "this", "train", "is", "late", "!", ".")

_SIZE = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_VISION = {**_SIZE, "image_size": IMAGE_SIZE, "patch_size": 8}
_SQUARE = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}


def write_checkpoint(family: str, folder: Path, seed: int = 0) -> Path:
    """A checkpoint of a pretrained family, as Hugging Face writes it; returns its folder.

    That of Jina CLIP comes with code of its own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in _BUILDERS[family]():
            part.save_pretrained(folder)
    if family == "jina-clip":
        _add_code(Path(folder))
    return Path(folder)


def picture(seed: int = 0, size: tuple[int, int] = (40, 40), kind: str = "PNG") -> bytes:
    """An encoded image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _clip() -> list:
    tokenizer = _clip_tokenizer()
    shared = {"projection_dim": PROJECTED}
    # eos_token_id 2, as in the published checkpoints: the end of the text is then the highest token id
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    text = {**_SIZE, **shared, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": MAX_TOKENS}
    config = CLIPConfig(text_config=text, vision_config={**_VISION, **shared}, **shared)
    processor = CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=_SQUARE)
    return [_spread(CLIPModel(config)), tokenizer, processor]


def _siglip() -> list:
    tokenizer = _siglip_tokenizer()
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = {**_SIZE, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": MAX_TOKENS}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=_VISION))
    return [_spread(model), tokenizer, SiglipImageProcessorPil(size=_SQUARE)]


def _bert() -> list:
    tokenizer = _bert_tokenizer()
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=MAX_TOKENS, **_SIZE)
    return [_spread(BertModel(config)), tokenizer]


def _vit() -> list:
    return [_spread(ViTModel(ViTConfig(**_VISION))), ViTImageProcessorPil(size=_SQUARE)]


def _siglip2() -> list:
    """SigLIP's classes with Gemma's tokenizer, whose words the published checkpoints have in lower case."""
    tokenizer = _gemma_tokenizer()
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = {**_SIZE, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": MAX_TOKENS}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=_VISION))
    return [_spread(model), tokenizer, SiglipImageProcessorPil(size=_SQUARE)]


def _blip2() -> list:
    tokenizer = _bert_tokenizer()
    config = Blip2Config(
        vision_config={**_VISION, "hidden_size": 40},
        qformer_config={
            **_SIZE,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": MAX_TOKENS,
            "encoder_hidden_size": 40,
            "use_qformer_text_input": True,
            "pad_token_id": tokenizer.pad_token_id,
        },
        num_query_tokens=3,
        image_text_hidden_size=PROJECTED,
    )
    return [_spread(Blip2ForImageTextRetrieval(config)), tokenizer, BlipImageProcessorPil(size=_SQUARE)]


JINA_CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel


class JinaCLIPConfig(PretrainedConfig):
    model_type = "jina_clip"

    def __init__(self, vocab_size=30, projection_dim=32, **kwargs):
        self.vocab_size, self.projection_dim = vocab_size, projection_dim
        super().__init__(**kwargs)


class JinaCLIPModel(PreTrainedModel):
    config_class = JinaCLIPConfig

    def __init__(self, config):
        super().__init__(config)
        self.logit_scale = torch.nn.Parameter(torch.ones([]))
        self.text_model = torch.nn.Embedding(config.vocab_size, config.projection_dim)
        self.vision_model = torch.nn.Conv2d(3, config.projection_dim, 8, stride=8)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (torch.nn.Embedding, torch.nn.Conv2d)):
            module.weight.data.normal_()

    def get_text_features(self, input_ids=None, attention_mask=None):
        mask = attention_mask[..., None]
        return (self.text_model(input_ids) * mask).sum(1) / mask.sum(1)

    def get_image_features(self, pixel_values=None):
        return self.vision_model(pixel_values).mean((2, 3))
"""
"""A model with the interface of Jina CLIP's."""


def _jina() -> list:
    return [_bert_tokenizer()]


def _add_code(folder: Path) -> None:
    (folder / "modeling_clip.py").write_text(JINA_CODE)
    names = {"AutoConfig": "modeling_clip.JinaCLIPConfig", "AutoModel": "modeling_clip.JinaCLIPModel"}
    config = {"model_type": "jina_clip", "auto_map": names, "projection_dim": WIDTH, "architectures": ["JinaCLIPModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {
        "logit_scale": torch.ones([]),
        "text_model.weight": torch.randn(30, WIDTH),
        "vision_model.weight": torch.randn(WIDTH, 3, 8, 8) * 0.1,
        "vision_model.bias": torch.randn(WIDTH),
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    look = {"size": IMAGE_SIZE, "mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.1]}
    look |= {"resize_mode": "shortest", "interpolation": "bicubic", "fill_color": 0}
    (folder / "preprocessor_config.json").write_text(json.dumps(look))


_BUILDERS = {
    "clip": _clip,
    "siglip": _siglip,
    "siglip2": _siglip2,
    "jina-clip": _jina,
    "blip2": _blip2,
    "bert": _bert,
    "vit": _vit,
}


def _spread(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough, biases included, that different inputs give clearly different features."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def _bert_tokenizer() -> BertTokenizer:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return BertTokenizer(vocab={name: n for n, name in enumerate(names)}, model_max_length=MAX_TOKENS)


def _gemma_tokenizer() -> GemmaTokenizer:
    letters = [chr(n) for n in range(ord("a"), ord("z") + 1)]
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *letters]
    tokenizer = GemmaTokenizer(vocab={name: n for n, name in enumerate(names)}, merges=[], model_max_length=MAX_TOKENS)
    ends = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.backend_tokenizer.post_processor = ends
    return tokenizer


def _clip_tokenizer() -> CLIPTokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # the special tokens last, as in the published checkpoints
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={name: n for n, name in enumerate(names)}, merges=[], model_max_length=MAX_TOKENS)


def _siglip_tokenizer() -> PreTrainedTokenizerFast:
    names = ["<unk>", "</s>", *WORDS]
    words = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="</s>", pad_token="</s>", model_max_length=MAX_TOKENS
    )
