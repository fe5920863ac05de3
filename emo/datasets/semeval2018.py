"""SemEval-2018 Task 1 E-c (Mohammad et al. 2018): tweets in English, Arabic and Spanish with eleven emotions."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from emo.datasets.corpus import SPLITS, Corpus, Post, flagged, needed, posts
from emo.datasets.files import Files

LABELS = (
    *("anger", "anticipation", "disgust", "fear", "joy", "love"),
    *("optimism", "pessimism", "sadness", "surprise", "trust"),
)
NAME = re.compile(r"2018-E-c-(En|Ar|Es)-(train|dev|test)(-gold)?\.txt$")

LANGUAGES = ("English", "Arabic", "Spanish")
FOLDERS = ("", "E-c/", *(f"{top}{each}/E-c/" for top in ("", "SemEval2018-Task1-all-data/") for each in LANGUAGES))


def recognises(files: Files) -> bool:
    return any({"ID", "Tweet", *LABELS} <= set(files.header(name)) for name in _names(files)[:1])


def read(files: Files) -> Iterator[Post]:
    return posts(files, _names(files), _post)


def _names(files: Files) -> Sequence[str]:
    """A test file without labels only where its gold file is not there."""
    found = files.find(*(f"{folder}2018-E-c-*.txt" for folder in FOLDERS))
    superseded = {name.replace("-test-gold.", "-test.") for name in found if "-test-gold." in name}
    return [name for name in found if NAME.search(name) and name not in superseded]


def _post(name: str, row: int, record: dict[str, Any]) -> Post:
    match = NAME.search(name)
    assert match
    kept = {"id": needed(record["ID"], "id"), "text": record["Tweet"], "split": SPLITS[match[2]]}
    return kept | flagged(record, LABELS)


CORPUS = Corpus(
    name="semeval2018",
    title="SemEval-2018 Task 1 E-c, tweets (Mohammad et al. 2018)",
    labels=LABELS,
    num_posts=22_458,
    modalities=("text",),
    licence="research only",
    home="https://competitions.codalab.org/competitions/17751",
    single_label=False,
    layout="2018-E-c-En-train.txt, -dev.txt and -test-gold.txt (ID, Tweet, 11 columns of 0 or 1), or of Ar, Es",
    recognises=recognises,
    read=read,
)
