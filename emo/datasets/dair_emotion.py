"""dair-ai/emotion (Saravia et al. 2018): lower-case English tweets with one of six emotions."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from emo.datasets.corpus import SPLITS, Corpus, Post, posts
from emo.datasets.files import Files, stem

LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")
"""In the order of the published numbers, from 0."""
FORMS = (
    *("split/{}-*.parquet", "data/{}-*.parquet", "{}-*.parquet"),
    *("data/{}.jsonl", "data/{}.jsonl.gz", "{}.jsonl", "{}.jsonl.gz", "{}.csv"),
)
WHOLE = ("unsplit/*.parquet", "data/data.jsonl", "data/data.jsonl.gz", "data.jsonl", "data.jsonl.gz")
SAMPLE = 50


def recognises(files: Files) -> bool:
    """Whether the first rows look it: text without capitals, and labels from 0 to 5. Its columns have common names."""
    for name in _names(files)[:1]:
        rows = [record for _, record in islice(files.records(name), SAMPLE)]
        return bool(rows) and set(files.header(name)) == {"text", "label"} and all(map(_looks_it, rows))
    return False


def read(files: Files) -> Iterator[Post]:
    return posts(files, _names(files), partial(_post, _is_whole(files)))


def _names(files: Files) -> Sequence[str]:
    """The files with splits, or else the twenty times larger ones without."""
    found = (files.find(*(form.format(split) for split in SPLITS)) for form in FORMS)
    return next(filter(None, found), ()) or files.find(*WHOLE)


def _is_whole(files: Files) -> bool:
    return files.root.rpartition("/")[2] == "unsplit" or set(_names(files)) <= set(files.find(*WHOLE))


def _looks_it(record: dict[str, Any] | str) -> bool:
    if not isinstance(record, dict) or str(record.get("label")) not in map(str, range(len(LABELS))):
        return False
    return isinstance(record.get("text"), str) and record["text"] == record["text"].lower()


def _post(whole: bool, name: str, row: int, record: dict[str, Any]) -> Post:
    if str(record["label"]) not in map(str, range(len(LABELS))):
        raise ValueError(f"{record['label']!r} is not the number of a label")
    split = None if whole else SPLITS[stem(name).partition("-")[0]]
    return {"text": record["text"], "labels": [LABELS[int(record["label"])]], "split": split}


CORPUS = Corpus(
    name="dair-emotion",
    title="dair-ai/emotion, tweets (Saravia et al. 2018)",
    labels=LABELS,
    num_posts=20_000,
    modalities=("text",),
    licence="research and education only",
    home="https://huggingface.co/datasets/dair-ai/emotion",
    single_label=True,
    layout="split/train-*.parquet, data/train.jsonl.gz or training.csv, and validation, test (text, label of 0 to 5)",
    recognises=recognises,
    read=read,
)
