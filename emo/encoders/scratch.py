"""Encoders without pretrained weights: they learn with the classifier, from the posts alone.

``textcnn`` and ``tags`` are the text and tag extractors of Page Fortin and Chaib-draa (section 3.1), with word vectors
that are learnt, too; ``lstm`` and ``cnn`` are what Khuzairi's baselines are (section 3.3). ``tfidf`` has nothing to
learn, so that it serves cached training as well.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo.config import UserError
from emo.encoders import FAMILIES, Branch
from emo.encoders.base import Inputs, Reader, Tower
from emo.encoders.hub import load_image_processor
from emo.encoders.readers import ImageReader, Normalise

MAX_WORDS = {"lstm": 150, "textcnn": 150, "tags": 10}
"""What is read of a text or of a list of tags (Page Fortin and Chaib-draa, section 4.1)."""
MIN_COUNT, MIN_COUNT_OF_FEW, FEW_POSTS = 5, 2, 2000
"""Words that train has less often are unknown; in a corpus of fewer posts, those that it has once."""
MAX_VOCABULARY = 2048
"""Words that TF-IDF counts."""
IMAGE_SIZE = 96
PADDING, UNKNOWN = 0, 1
"""Numbers of no word, and of a word that is not in the vocabulary."""
FILE = "vocabulary.json"

_WORD = re.compile(r"\w+|[^\w\s]")


def words_of(value: str | list[str]) -> list[str]:
    """The words and signs of a text, or tags as they are; in lower case."""
    return _WORD.findall(value.lower()) if isinstance(value, str) else [tag.lower() for tag in value]


def build_scratch(family: str, values: Iterable[Any], folder: str) -> None:
    """Write what a family's branch needs before training into a local folder; ``values`` are the texts or lists of
    tags of the train posts, None where a post has none."""
    os.makedirs(folder, exist_ok=True)
    if family == "cnn":
        _image_processor().save_pretrained(folder)
        return
    counts, num_with, num_posts = count_words(values)
    made: dict[str, Any] = {"family": family}
    if family == "tfidf":
        words = _most_common(counts, MAX_VOCABULARY)
        idf = [math.log((1 + num_posts) / (1 + num_with[word])) + 1 for word in words]
        made |= {"words": words, "idf": idf}
    else:
        fewest = MIN_COUNT_OF_FEW if num_posts < FEW_POSTS else MIN_COUNT
        made |= {"words": [word for word in _most_common(counts) if counts[word] >= fewest]}
    if not made["words"]:
        what = " and ".join(FAMILIES[family])
        raise UserError(f"{family} learns words of the train posts, and their {what} has none that is there twice.")
    Path(folder, FILE).write_text(json.dumps(made))


def count_words(values: Iterable[Any]) -> tuple[Counter[str], Counter[str], int]:
    """How often each word is there, in how many posts, and the number of posts."""
    counts: Counter[str] = Counter()
    num_with: Counter[str] = Counter()
    num_posts = 0
    for value in values:
        words = words_of(value or "")
        counts.update(words)
        num_with.update(set(words))
        num_posts += 1
    return counts, num_with, num_posts


def _most_common(counts: Counter[str], limit: int | None = None) -> list[str]:
    """Words, the most frequent first; in the order of the alphabet where they are equally so."""
    return list(islice(sorted(counts, key=lambda word: (-counts[word], word)), limit))


def _image_processor() -> Any:
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})


class WordReader:
    """Numbers (B, T) of the words of texts, or of tags."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.made = made
        self.modality = FAMILIES[made["family"]][0]
        self.blank: Any = [] if self.modality == "tags" else ""
        self.number = {word: n for n, word in enumerate(made["words"], start=UNKNOWN + 1)}
        self.max_words = MAX_WORDS[made["family"]]
        self.pads_fully = made["family"] != "lstm"
        self.padding = {} if self.pads_fully else {"input_ids": PADDING}

    def __call__(self, values: list[Any], rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        rows = [[self.number.get(word, UNKNOWN) for word in words_of(value)[: self.max_words]] for value in values]
        length = self.max_words if self.pads_fully else max(1, *map(len, rows))
        return {"input_ids": torch.tensor([row + [PADDING] * (length - len(row)) for row in rows])}

    def is_cut(self, values: list[Any]) -> list[bool]:
        return [len(words_of(value)) > self.max_words for value in values]

    def save(self, folder: str) -> None:
        os.makedirs(folder, exist_ok=True)
        Path(folder, FILE).write_text(json.dumps(self.made))


class CountReader(WordReader):
    """How often each word of the vocabulary is in a text, (B, V)."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.made = made
        self.modality, self.blank = "text", ""
        self.number = {word: n for n, word in enumerate(made["words"])}
        self.padding = {}

    def __call__(self, values: list[str], rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        counts = torch.zeros(len(values), len(self.number))
        for row, value in zip(counts, values, strict=True):
            for word in words_of(value):
                if word in self.number:
                    row[self.number[word]] += 1
        return {"counts": counts}

    def is_cut(self, values: list[str]) -> list[bool]:
        return [False] * len(values)


class TfIdf(Tower):
    """Counts weighted by rarity, of length 1."""

    idf: Tensor

    def __init__(self, idf: list[float]) -> None:
        super().__init__()
        self.width = len(idf)
        self.register_buffer("idf", torch.tensor(idf), persistent=False)

    def forward(self, inputs: Inputs) -> Tensor:
        return F.normalize(inputs["counts"] * self.idf, dim=1)


class LSTM(Tower):
    """A bidirectional LSTM, its states pooled by mean and maximum."""

    def __init__(self, num_words: int, word_width: int = 300, hidden: int = 128) -> None:
        super().__init__()
        self.width = 4 * hidden
        self.embedding = nn.Embedding(num_words, word_width, padding_idx=PADDING)
        self.dropout = nn.Dropout(0.25)
        self.lstm = nn.LSTM(word_width, hidden, batch_first=True, bidirectional=True)

    def forward(self, inputs: Inputs) -> Tensor:
        ids = inputs["input_ids"]
        lengths = (ids != PADDING).sum(dim=1).clamp(min=1)
        words = self.dropout(self.embedding(ids))
        packed = nn.utils.rnn.pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=ids.shape[1])
        is_padding = torch.arange(ids.shape[1], device=ids.device)[None] >= lengths[:, None]
        highest = states.masked_fill(is_padding[..., None], -torch.inf).amax(dim=1)
        return torch.cat([states.sum(dim=1) / lengths[:, None], highest], dim=1)


class TextCNN(Tower):
    """Windows of 3, 4 and 5 words with 100 filters each; maximum, mean and minimum over the text; one linear layer."""

    width = 300

    def __init__(self, num_words: int, word_width: int = 300) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_words, word_width, padding_idx=PADDING)
        self.dropout = nn.Dropout(0.25)
        self.windows = nn.ModuleList(nn.Conv1d(word_width, 100, size) for size in (3, 4, 5))
        self.linear = nn.Linear(900, self.width)

    def forward(self, inputs: Inputs) -> Tensor:
        words = self.dropout(self.embedding(inputs["input_ids"])).transpose(1, 2)
        maps = [F.relu(window(words)) for window in self.windows]
        pooled = [pool for found in maps for pool in (found.amax(dim=2), found.mean(dim=2), found.amin(dim=2))]
        return self.linear(torch.cat(pooled, dim=1))


class TagCNN(Tower):
    """300 filters over each tag by itself, and the maximum over the tags."""

    width = 300

    def __init__(self, num_words: int, word_width: int = 250) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_words, word_width, padding_idx=PADDING)
        self.filters = nn.Conv1d(word_width, self.width, 1)

    def forward(self, inputs: Inputs) -> Tensor:
        return F.relu(self.filters(self.embedding(inputs["input_ids"]).transpose(1, 2))).amax(dim=2)


class CNN(Tower):
    """Four convolutions that halve the image, and the mean and the maximum over what is left.

    Groups of channels are normalised within each image, so that features do not depend on how a batch is split.
    """

    width = 512

    def __init__(self, processor: Any) -> None:
        super().__init__()
        self.normalise = Normalise(processor)
        sizes = [3, 32, 64, 128, self.width // 2]
        self.blocks = nn.Sequential(
            *[
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(8, b), nn.ReLU(), nn.MaxPool2d(2))
                for a, b in pairwise(sizes)
            ]
        )

    def forward(self, inputs: Inputs) -> Tensor:
        maps = self.blocks(self.normalise(inputs["pixel_values"]))
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)


_TOWERS = {"lstm": LSTM, "textcnn": TextCNN, "tags": TagCNN}


def load_reader(branch: Branch) -> Reader:
    """What reads posts for a built branch."""
    if branch.family == "cnn":
        import transformers

        return ImageReader(load_image_processor(transformers, branch.checkpoint, {"trust_remote_code": False}))
    made = json.loads(Path(branch.checkpoint, FILE).read_text())
    return CountReader(made) if branch.family == "tfidf" else WordReader(made)


def load_tower(branch: Branch, reader: Reader) -> Tower:
    """A tower with random weights, by torch's seed."""
    if isinstance(reader, ImageReader):
        return CNN(reader.processor)
    assert isinstance(reader, WordReader)
    if isinstance(reader, CountReader):
        return TfIdf(reader.made["idf"])
    return _TOWERS[branch.family](len(reader.number) + UNKNOWN + 1)
