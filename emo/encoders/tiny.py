"""Small checkpoints of the real CLIP, SigLIP and BERT classes, pretrained on the corpus itself in seconds.

They stand in for published checkpoints where none can be had: the same classes, tokenizers and image
processors, loaded by the same code. They never see a label.
"""

import io
import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from emo.config import UserError

TINY = ("tiny-clip", "tiny-siglip", "tiny-bert")

VOCABULARY = 3000
MAX_TOKENS = 32
IMAGE_SIZE, PATCH = 64, 8
"""Pixels on a side."""
WIDTH = 96
SIZE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
MIN_PAIRS, MAX_POSTS = 32, 4000
"""Fewest posts with text and image to learn from, and how many are read at most, which bounds the time."""
BATCH_SIZE = 64
STEPS = {"tiny-clip": 200, "tiny-siglip": 200, "tiny-bert": 250}
LR, WARMUP_SHARE, WEIGHT_DECAY = 2e-3, 0.1, 0.05
NOISED_TOKENS, MASKED_TOKENS = 0.15, 0.15
"""Shares of the words that CLIP and SigLIP see replaced at random, and that BERT has to guess."""
WORD_STD = 0.1
"""Standard deviation of the word vectors that BERT starts from; the other weights start at 0.02."""
WORDS_WEIGHT, MIN_COUNT = 1.0, 5
"""Weight of the loss that has each feature tell its post's words, and how many posts a word must be in for it."""
NUM_SPECIAL = 5
"""The first token ids, which are never replaced: every special token is among them."""
MAX_SHIFT = 4
"""Pixels by which training images are moved."""

Pair = CLIPModel | SiglipModel
ContrastiveLoss = Callable[[Pair, torch.Tensor, torch.Tensor], torch.Tensor]


def build_tiny(
    name: str, texts: list[str | None], images: list[bytes | None], folder: str, seed: int, steps: int | None = None
) -> None:
    """Pretrain the checkpoint ``name`` on posts (aligned texts and images) and save it in a local ``folder``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        steps = STEPS[name] if steps is None else steps
        if name == "tiny-bert":
            _build_bert(texts, folder, steps)
        else:
            _build_pair(name, texts, images, folder, steps)


def _build_pair(name: str, texts: list[str | None], images: list[bytes | None], folder: str, steps: int) -> None:
    pairs = [(text, image) for text, image in zip(texts, images, strict=True) if text and image]
    if len(pairs) < MIN_PAIRS:
        raise UserError(
            f"{name} learns from posts with text and image, and this corpus has {len(pairs)} of them to train on "
            f"(at least {MIN_PAIRS} are needed): use --encoders tiny-bert, or name a pretrained encoder."
        )
    pairs = _sample(pairs)
    clip = name == "tiny-clip"
    tokenizer = (_clip_tokenizer if clip else _siglip_tokenizer)([text for text, _ in pairs])
    processor = _clip_processor() if clip else _siglip_processor()
    model: Pair = _clip_model(tokenizer) if clip else _siglip_model(tokenizer)
    tokens = _tokens(tokenizer, [text for text, _ in pairs])
    pixels = _pixels(processor, [image for _, image in pairs])
    _train_pair(model, tokens, pixels, softmax_loss if clip else sigmoid_loss, len(tokenizer), steps)
    _save(folder, model, tokenizer, processor)


def _build_bert(texts: list[str | None], folder: str, steps: int) -> None:
    written = [text for text in texts if text]
    if not written:
        raise UserError(
            "tiny-bert learns from posts with text, and this corpus has none to train on: name an image encoder."
        )
    written = _sample(written)
    tokenizer = _bert_tokenizer(written)
    model = _bert_model(tokenizer)
    _train_masked(model, tokenizer, _tokens(tokenizer, written), steps)
    _save(folder, model.bert, tokenizer)


def softmax_loss(model: Pair, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """CLIP's loss for normalised (B, D) features: each text finds its image among the batch's, and the reverse."""
    logits = model.logit_scale.clamp(max=math.log(100)).exp() * text @ image.T
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def sigmoid_loss(model: Pair, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """SigLIP's loss for normalised (B, D) features: every pair in the batch is judged by itself."""
    logits = model.logit_scale.clamp(max=math.log(100)).exp() * text @ image.T + model.logit_bias  # type: ignore[operator]
    return -F.logsigmoid(logits * (2 * torch.eye(len(logits)) - 1)).sum() / len(logits)


def _train_pair(
    model: Pair,
    tokens: torch.Tensor,
    pixels: torch.Tensor,
    loss: ContrastiveLoss,
    vocabulary: int,
    steps: int,
) -> None:
    """Align texts with images, and have either feature tell the words of its post (Joulin et al. 2016): with a
    thousand posts the contrast alone learns pairs by heart and forgets what only the text says."""
    words = _word_shares(tokens, vocabulary)
    read = torch.nn.Linear(WIDTH, vocabulary)
    for rows, step in _schedule([model, read], len(tokens), steps):
        text = model.get_text_features(input_ids=_noised(tokens[rows], vocabulary)).pooler_output
        image = model.get_image_features(pixel_values=_shifted(pixels[rows])).pooler_output
        aligned = loss(model, F.normalize(text, dim=-1), F.normalize(image, dim=-1))
        told: list[torch.Tensor] = [
            F.cross_entropy(read(F.layer_norm(side, side.shape[1:])), words[rows]) for side in (text, image)
        ]
        step(aligned + WORDS_WEIGHT * (told[0] + told[1]))


def _word_shares(tokens: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Which words each text (N, T) has: (N, V), rows sum to 1, rare words weigh more, the rarest nothing."""
    present = torch.zeros(len(tokens), vocabulary).scatter_(1, tokens, 1.0)
    present[:, :NUM_SPECIAL] = 0
    counts = present.sum(0)
    weighted = present * torch.log(len(tokens) / counts.clamp(min=1)) * (counts >= MIN_COUNT)
    return weighted / weighted.sum(1, keepdim=True).clamp(min=1e-6)


def _start_words(embedding: torch.nn.Embedding, shares: torch.Tensor) -> None:
    """Word vectors from the words' company: the singular vectors of the posts' word shares (N, V). A few hundred
    steps of masked words alone leave BERT far behind a bag of words."""
    if min(shares.shape) < WIDTH:
        return
    _, values, vectors = torch.svd_lowrank(F.normalize(shares, dim=1), q=WIDTH, niter=4)
    start = vectors * values.sqrt()
    seen = shares.sum(0) > 0
    with torch.no_grad():
        embedding.weight[seen] = WORD_STD * F.normalize(start[seen], dim=1) * math.sqrt(WIDTH)


def _train_masked(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerBase, tokens: torch.Tensor, steps: int) -> None:
    _start_words(model.bert.embeddings.word_embeddings, _word_shares(tokens, len(tokenizer)))
    for rows, step in _schedule([model], len(tokens), steps):
        ids = tokens[rows]
        chosen = (torch.rand(ids.shape) < MASKED_TOKENS) & (ids >= NUM_SPECIAL)
        chosen[:, 1] = True  # a batch without any masked token has no loss
        masked = ids.masked_fill(chosen, int(tokenizer.mask_token_id))
        attended = (ids != tokenizer.pad_token_id).long()
        step(model(input_ids=masked, attention_mask=attended, labels=ids.masked_fill(~chosen, -100)).loss)


def _schedule(
    models: list[torch.nn.Module], num_rows: int, steps: int
) -> Iterator[tuple[torch.Tensor, Callable[[torch.Tensor], None]]]:
    """Shuffled row numbers of each batch, and what takes the optimiser's step for a loss."""
    parameters = [p for model in models for p in model.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    warmup = max(1, round(WARMUP_SHARE * steps))
    factor = lambda n: min((n + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * n / max(steps, 1)))  # noqa: E731
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def step(loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()

    for model in models:
        model.train()
    queue = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(queue) < BATCH_SIZE:
            queue = torch.cat([queue, torch.randperm(num_rows)])
        yield queue[:BATCH_SIZE], step
        queue = queue[BATCH_SIZE:]
    for model in models:
        model.eval()


def _noised(ids: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Token ids (B, T) with some words replaced at random, so that no post is learnt by heart."""
    chosen = (torch.rand(ids.shape) < NOISED_TOKENS) & (ids >= NUM_SPECIAL)
    return torch.where(chosen, torch.randint(NUM_SPECIAL, vocabulary, ids.shape), ids)


def _shifted(pixels: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, H, W) moved together by a few pixels."""
    down, right = torch.randint(0, 2 * MAX_SHIFT + 1, (2,)).tolist()
    padded = F.pad(pixels, (MAX_SHIFT,) * 4, mode="replicate")
    return padded[:, :, down : down + IMAGE_SIZE, right : right + IMAGE_SIZE]


def _sample(rows: list) -> list:
    """At most MAX_POSTS of the rows, so that a large corpus takes no longer than a small one."""
    return [rows[n] for n in torch.randperm(len(rows))[:MAX_POSTS].tolist()]


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> torch.Tensor:
    """Token ids (N, T), padded to the tokenizer's full length."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]


def _pixels(processor: CLIPImageProcessorPil | SiglipImageProcessorPil, images: list[bytes]) -> torch.Tensor:
    """Images (N, 3, H, W) as the processor hands them to the model."""
    return torch.cat(
        [processor(Image.open(io.BytesIO(i)).convert("RGB"), return_tensors="pt")["pixel_values"] for i in images]
    )


def _save(folder: str, *parts: object) -> None:
    os.makedirs(folder, exist_ok=True)
    for part in parts:
        part.save_pretrained(folder)  # type: ignore[attr-defined]


def _clip_model(tokenizer: PreTrainedTokenizerBase) -> CLIPModel:
    # With eos_token_id 2, its default in old configs, CLIP pools the highest token id instead of the end of the text.
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_TOKENS,
        projection_dim=WIDTH,
        hidden_act="gelu",
        **SIZE,
        **ids,
    )
    vision = CLIPVisionConfig(image_size=IMAGE_SIZE, patch_size=PATCH, projection_dim=WIDTH, hidden_act="gelu", **SIZE)
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH))


def _siglip_model(tokenizer: PreTrainedTokenizerBase) -> SiglipModel:
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = SiglipTextConfig(vocab_size=len(tokenizer), max_position_embeddings=MAX_TOKENS, **SIZE, **ids)
    vision = SiglipVisionConfig(image_size=IMAGE_SIZE, patch_size=PATCH, **SIZE)
    model = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    with torch.no_grad():  # where SigLIP starts from (Zhai et al. 2023, section 3.2)
        model.logit_scale.fill_(math.log(10))
        model.logit_bias.fill_(-5)
    return model


def _bert_model(tokenizer: PreTrainedTokenizerBase) -> BertForMaskedLM:
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    off: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForMaskedLM(BertConfig(max_position_embeddings=MAX_TOKENS, **ids, **SIZE, **off))


def _clip_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )


def _siglip_processor() -> SiglipImageProcessorPil:
    return SiglipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})


def _clip_tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    """CLIP's own byte-level BPE with merges learnt from the texts; whatever the language, every byte has a token."""
    frame = CLIPTokenizer().backend_tokenizer
    learnt = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learnt.normalizer, learnt.pre_tokenizer = frame.normalizer, frame.pre_tokenizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Every byte also ends words: as CLIP's unknown token it would be the end token, which CLIP pools. Named
    # beforehand, they get fixed ids; otherwise the trainer numbers them, and breaks ties between merges, at random.
    names = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=names, end_of_word_suffix="</w>", min_frequency=2, show_progress=False
    )
    learnt.train_from_iterator(texts, trainer)
    merges: list[Any] = [tuple(pair) for pair in json.loads(learnt.to_str())["model"]["merges"]]
    vocabulary = {token: n for n, token in enumerate(dict.fromkeys([*names, *("".join(pair) for pair in merges)]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def _siglip_tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    """Pieces of words and an end token, which is the padding too: SigLIP pools the last of MAX_TOKENS tokens."""
    learnt = Tokenizer(models.BPE(unk_token="<unk>"))
    learnt.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    learnt.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    learnt.decoder = decoders.Metaspace()
    special = ["<unk>", "</s>"]
    learnt.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, min_frequency=2, show_progress=False)
    )
    learnt.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=learnt, unk_token="<unk>", eos_token="</s>", pad_token="</s>",
        model_max_length=MAX_TOKENS, model_input_names=["input_ids"],
    )  # fmt: skip


def _bert_tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    learnt = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    frame = BertTokenizer().backend_tokenizer
    learnt.normalizer, learnt.pre_tokenizer = frame.normalizer, frame.pre_tokenizer
    words = (w for text in texts for w, _ in frame.pre_tokenizer.pre_tokenize_str(frame.normalizer.normalize_str(text)))
    letters = sorted({letter for word in words for letter in word})
    # As for CLIP: letters that are not named beforehand get random ids.
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=names, min_frequency=2, show_progress=False
    )
    learnt.train_from_iterator(texts, trainer)
    return BertTokenizer(vocab=learnt.get_vocab(), model_max_length=MAX_TOKENS)
