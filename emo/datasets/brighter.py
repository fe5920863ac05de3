"""BRIGHTER (Muhammad et al. 2025; SemEval-2025 Task 11): short texts in 28 languages with six emotions."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from emo.datasets.corpus import SPLITS, Corpus, Post, flagged, needed, posts
from emo.datasets.files import Files, stem

LABELS = ("anger", "disgust", "fear", "joy", "sadness", "surprise")

CODES = ("[a-z][a-z][a-z]", "[a-z][a-z][a-z][a-z]")
"""How languages are named: eng, ptbr."""


def recognises(files: Files) -> bool:
    """Whether the first file has an id, a text and at least four of the emotions, and no other column but a summary."""
    for name in _names(files)[:1]:
        columns = set(files.header(name)) - {"emotions"}
        return {"id", "text"} <= columns <= {"id", "text", *LABELS} and len(columns) >= 6
    return False


def read(files: Files) -> Iterator[Post]:
    return posts(files, _names(files), partial(_post, files))


def _names(files: Files) -> Sequence[str]:
    """train/eng.csv as released for the task, or eng/train-00000-of-00001.parquet as on Hugging Face."""
    tables = files.find(*(f"{folder}/*.csv" for folder in ("train", "dev", "test")))
    if not tables and _folder(files) in SPLITS:
        tables = files.find("*.csv")
    return tables or files.find(*(f"{code}/{split}-*.parquet" for code in CODES for split in ("train", "dev", "test")))


def _folder(files: Files) -> str:
    return files.root.rpartition("/")[2]


def _post(files: Files, name: str, row: int, record: dict[str, Any]) -> Post:
    """No emotion at all is neutral; an emotion that the language's file lacks was not asked for."""
    split = stem(name).partition("-")[0] if name.endswith(".parquet") else name.rpartition("/")[0] or _folder(files)
    kept = {"id": needed(record["id"], "id"), "text": record["text"], "split": SPLITS[split]}
    return kept | flagged(record, LABELS)


CORPUS = Corpus(
    name="brighter",
    title="BRIGHTER, texts in 28 languages (Muhammad et al. 2025)",
    labels=LABELS,
    num_posts=139_595,
    modalities=("text",),
    licence="CC BY 4.0",
    home="https://huggingface.co/datasets/brighter-dataset/BRIGHTER-emotion-categories",
    single_label=False,
    layout="train/<language>.csv, dev/ and test/ (id, text and columns of 0 or 1), or <language>/train-*.parquet",
    recognises=recognises,
    read=read,
)
