"""XED (Öhman et al. 2020): film subtitles with Plutchik's emotions, and neutral ones in files of their own."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from emo.config import PLUTCHIK
from emo.datasets.corpus import Corpus, Post, needed, posts
from emo.datasets.files import Files

CODES = ("neutral", "anger", "anticipation", "disgust", "fear", "joy", "sadness", "surprise", "trust")
"""The label of each published number, which are written "1, 4" or, in projections, "{'1', '4'}"."""
COLUMNS = ("text", "codes")
NEUTRAL_COLUMNS = ("filler", "text", "code", "line", "film")
"""The first two in English, all in Finnish."""


def recognises(files: Files) -> bool:
    return any(_looks_it(name, files.header(name)) for name in _names(files)[:1])


def read(files: Files) -> Iterator[Post]:
    names = _names(files)
    yield from posts(files, [name for name in names if "neu_" not in name], _labelled, COLUMNS)
    for name in (name for name in names if "neu_" in name):
        yield from posts(files, [name], _neutral, NEUTRAL_COLUMNS[: max(2, len(files.header(name)))])


def _names(files: Files) -> Sequence[str]:
    """The folder's own files; of a whole copy of the repository, those that people annotated."""
    kinds = ("*-annotated.tsv", "*-projections*.tsv", "neu_*.txt")
    return files.find(*kinds) or files.find(*(f"AnnotatedData/{kind}" for kind in kinds))


def _looks_it(name: str, first: Sequence[str]) -> bool:
    if "neu_" in name:
        return len(first) > 1 and (first[0].isdigit() or not first[0])
    return len(first) == len(COLUMNS) and re.fullmatch(r"[\d, {}']+", first[1]) is not None


def _labelled(name: str, row: int, record: dict[str, Any]) -> Post:
    codes = [int(code) for code in re.findall(r"\d+", record["codes"])]
    if not codes:
        raise ValueError("no label")
    if max(codes) >= len(CODES):
        raise ValueError(f"{max(codes)} is not the number of a label")
    return {"text": needed(record["text"], "sentence"), "labels": list(dict.fromkeys(CODES[code] for code in codes))}


def _neutral(name: str, row: int, record: dict[str, Any]) -> Post:
    return {"text": needed(record["text"], "sentence"), "labels": ["neutral"]}


CORPUS = Corpus(
    name="xed",
    title="XED, film subtitles (Öhman et al. 2020)",
    labels=PLUTCHIK,
    num_posts=27_203,
    modalities=("text",),
    licence="CC BY 4.0",
    home="https://github.com/Helsinki-NLP/XED",
    single_label=False,
    layout="en-annotated.tsv (sentence, tab, label numbers) and neu_en.txt, or those of other languages or projections",
    recognises=recognises,
    read=read,
)
