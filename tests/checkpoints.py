"""Tiny checkpoints with random weights: the real classes, tokenizers and image processors, in no time."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
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
    """A checkpoint of a family (clip, siglip, bert, vit), as Hugging Face writes it; returns its folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in _BUILDERS[family]():
            part.save_pretrained(folder)
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
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = BertTokenizer(vocab={name: n for n, name in enumerate(names)}, model_max_length=MAX_TOKENS)
    config = BertConfig(vocab_size=len(names), max_position_embeddings=MAX_TOKENS, **_SIZE)
    return [_spread(BertModel(config)), tokenizer]


def _vit() -> list:
    return [_spread(ViTModel(ViTConfig(**_VISION))), ViTImageProcessorPil(size=_SQUARE)]


_BUILDERS = {"clip": _clip, "siglip": _siglip, "bert": _bert, "vit": _vit}


def _spread(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough, biases included, that different inputs give clearly different features."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


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
