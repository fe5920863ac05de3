"""Tiny captioners with random weights: the real classes, tokenizers and processors, in no time."""

from pathlib import Path

import torch
from checkpoints import IMAGE_SIZE, WORDS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

NUM_QUERIES = 4
_SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_VISION = {**_SIZE, "image_size": IMAGE_SIZE, "patch_size": 8}
_SQUARE = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}


def write_captioner(family: str, folder: Path, seed: int = 0) -> Path:
    """A captioner of a family (blip-2, blip, git, vision-encoder-decoder), as Hugging Face writes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, *processors = _BUILDERS[family]()
        with torch.no_grad():  # weights large enough that different images give different captions
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    for part in (model, *processors):
        part.save_pretrained(folder)
    return Path(folder)


def _blip2() -> list:
    tokenizer = _opt_tokenizer()
    processor = Blip2Processor(BlipImageProcessorPil(size=_SQUARE), tokenizer, num_query_tokens=NUM_QUERIES)
    text = {
        "model_type": "opt",
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 64,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    config = Blip2Config(
        vision_config=_VISION,
        qformer_config={**_SIZE, "vocab_size": 32, "encoder_hidden_size": 32},
        text_config=text,
        num_query_tokens=NUM_QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return [Blip2ForConditionalGeneration(config), processor]


def _blip() -> list:
    tokenizer = _bert_tokenizer()
    text = {
        **_SIZE,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.mask_token_id,  # the published ones have a token of their own
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "encoder_hidden_size": 32,
        "projection_dim": 16,
    }
    config = BlipConfig(text_config=text, vision_config={**_VISION, "projection_dim": 16}, projection_dim=16)
    return [BlipForConditionalGeneration(config), BlipProcessor(BlipImageProcessorPil(size=_SQUARE), tokenizer)]


def _git() -> list:
    tokenizer = _bert_tokenizer()
    config = GitConfig(
        **_SIZE,
        vision_config=_VISION,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=_SQUARE)
    return [GitForCausalLM(config), GitProcessor(images, tokenizer)]


def _encoder_decoder() -> list:
    tokenizer = _opt_tokenizer()
    decoder = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        add_cross_attention=True,
        is_decoder=True,
        bos_token_id=2,
        eos_token_id=2,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**_VISION), decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 2
    model = VisionEncoderDecoderModel(config, encoder=ViTModel(config.encoder), decoder=GPT2LMHeadModel(config.decoder))
    return [model, tokenizer, ViTImageProcessorPil(size=_SQUARE)]  # no processor joins them, as in published ones


_BUILDERS = {"blip-2": _blip2, "blip": _blip, "git": _git, "vision-encoder-decoder": _encoder_decoder}


def _opt_tokenizer() -> PreTrainedTokenizerFast:
    """Words and letters, with </s> at the start, as OPT's has it."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    names = ["<unk>", "<pad>", "</s>", *WORDS, *letters]
    words = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="</s>", eos_token="</s>", pad_token="<pad>"
    )


def _bert_tokenizer() -> BertTokenizer:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefghijklmnopqrstuvwxyz"]
    return BertTokenizer(vocab={name: n for n, name in enumerate(names)}, model_max_length=64)
