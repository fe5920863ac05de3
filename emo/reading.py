"""What branches read of a post: its text with tags and caption, its image, its tags; and what of it is too long."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from emo import storage
from emo.config import UserError
from emo.encoders import Branch
from emo.encoders.base import Reader
from emo.posts import data_folder
from emo.tables import read_folder, stream_folder


@dataclass(frozen=True)
class TextVariant:
    """What text branches read of a post, beside its text."""

    tags: str
    """append or ignore."""
    captions: str | None = None
    """The folder of a set of captions of the same posts."""

    @property
    def key(self) -> list[str | None]:
        """What features depend on: a set of captions is named by what made it."""
        return [self.tags, self.captions and self.captions.rstrip("/").rpartition("/")[2]]

    def of(self, branch: Branch) -> "TextVariant":
        """What one branch reads."""
        return replace(self, tags="ignore") if branch.ignores_tags else self

    def read_captions(self) -> dict[str, str] | None:
        """The captions by post id; None where none are read."""
        return None if self.captions is None else read_captions(self.captions)


def text_for_encoder(
    text: str | None, tags: list[str] | None, tags_mode: str, caption: str | None = None
) -> str | None:
    """What a text branch reads of a post: its text, then its tags where they are appended, then the caption of its
    image where there is one; None without any of them."""
    words = [text] if text else []
    if tags_mode == "append" and tags:
        words += tags
    if caption:
        words.append(caption)
    return " ".join(words) or None


def texts_of(table: pa.Table, tags_mode: str, captions: Mapping[str, str] | None = None) -> list[str | None]:
    """:func:`text_for_encoder` of every row of a table with ``text`` and ``tags``; captions are by its ``post_id``."""
    found = [captions.get(post_id) for post_id in table["post_id"].to_pylist()] if captions else [None] * len(table)
    rows = zip(table["text"].to_pylist(), table["tags"].to_pylist(), found, strict=True)
    return [text_for_encoder(text, tags, tags_mode, caption) for text, tags, caption in rows]


def read_captions(folder: str) -> dict[str, str]:
    """The captions of a set that jobs/caption.py wrote, by post id; a UserError where the folder holds none."""
    found = storage.manifest(folder)
    if found is None or found.get("kind") != "captions":
        raise UserError(f"{folder} is not a folder of captions; jobs/caption.py makes one.")
    table = read_folder(storage.join(folder, found["data"])).drop_null()
    return dict(zip(table["post_id"].to_pylist(), table["caption"].to_pylist(), strict=True))


def encoder_inputs(
    table: pa.Table, modality: str, tags_mode: str, captions: Mapping[str, str] | None = None
) -> list[Any]:
    """What a branch reads of every row (a text, image bytes, a list of tags, or None where the post lacks it)."""
    if modality == "text":
        return texts_of(table, tags_mode, captions)
    return [value or None for value in table[modality].to_pylist()]


def input_columns(modality: str) -> list[str]:
    return ["text", "tags"] if modality == "text" else [modality]


@dataclass(frozen=True)
class Cut:
    """What a branch did not read."""

    num_texts: int = 0
    """Texts, or lists of tags, that are longer than it reads."""
    num_captions: int = 0
    """Of these, texts that lost words of their caption, which comes last."""


def count_cut(data: str, captions: Mapping[str, str] | None = None) -> Cut:
    """What was cut for a branch's features."""
    batches = stream_folder(data, ["post_id", "cut"])
    return _counted([post_id for batch in batches for post_id in pc.filter(batch["post_id"], batch["cut"])], captions)


def find_cut(posts: str, reader: Reader, text: TextVariant) -> Cut:
    """What would be cut of a prepared folder, where no features are cached."""
    captions, cut = text.read_captions(), []
    for batch in stream_folder(data_folder(posts), ["post_id", *input_columns(reader.modality)]):
        table = pa.Table.from_batches([batch])
        inputs = encoder_inputs(table, reader.modality, text.tags, captions)
        has = pa.array([value is not None for value in inputs])
        is_cut = pa.array(reader.is_cut([value for value in inputs if value is not None]), pa.bool_())
        cut += table["post_id"].filter(has).filter(is_cut)
    return _counted(cut, captions)


def _counted(cut: list[pa.StringScalar], captions: Mapping[str, str] | None) -> Cut:
    return Cut(len(cut), sum(post_id.as_py() in captions for post_id in cut) if captions else 0)
