"""MSED (Jia et al. 2022): captioned photographs with a sentiment, an emotion and a desire; the emotion is the label."""

from collections.abc import Iterator, Sequence
from typing import Any

from emo.datasets.corpus import SPLITS, Corpus, Post, needed, posts, text_of
from emo.datasets.files import Files, stem
from emo.labels import normal

LABELS = ("happiness", "sad", "neutral", "disgust", "anger", "fear")


def recognises(files: Files) -> bool:
    return any({"Title", "Caption", "Emotion", "Desire"} <= set(files.header(name)) for name in _names(files)[:1])


def read(files: Files) -> Iterator[Post]:
    return posts(files, _names(files), _post)


def _names(files: Files) -> Sequence[str]:
    kinds = ("train", "dev", "test")
    return files.find(*(f"{kind}/{kind}.csv" for kind in kinds)) or files.find(*(f"{kind}.csv" for kind in kinds))


def _post(name: str, row: int, record: dict[str, Any]) -> Post:
    """The images are numbered from 1 by the rows of their split."""
    emotion = normal(needed(record["Emotion"], "emotion"))
    if emotion not in LABELS:
        raise ValueError(f"unknown emotion: {emotion!r}")
    folder = name.rpartition("/")[0]
    return {
        "text": text_of(record["Title"], record["Caption"]),
        "image": f"{folder}/images/{row}.jpg".lstrip("/"),
        "labels": [emotion],
        "split": SPLITS[stem(name)],
    }


CORPUS = Corpus(
    name="msed",
    title="MSED, captioned photographs (Jia et al. 2022)",
    labels=LABELS,
    num_posts=9_190,
    modalities=("text", "image"),
    licence="research only",
    home="https://github.com/MSEDdataset/MSED",
    single_label=True,
    layout="train/train.csv, dev/dev.csv and test/test.csv (Title, Caption, Sentiment, Emotion, Desire) beside images/",
    recognises=recognises,
    read=read,
)
