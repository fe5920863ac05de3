"""Flickr Emotion (You et al. 2016): images whose emotion five workers confirmed or not.

Published are a list of URLs for each emotion and the two counts. Images that are still to be had belong under images/,
by the last part of their URL; their texts in metadata.csv (or .jsonl, .parquet): id, title, description, tags.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from emo.datasets.corpus import Corpus, Post, count, needed, posts, text_of
from emo.datasets.files import Files, stem

LABELS = ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
COLUMNS = ("emotion", "url", "disagree", "agree")


def recognises(files: Files) -> bool:
    firsts = [files.header(name) for name in _names(files)[:1]]
    return any(len(first) == len(COLUMNS) and "://" in first[1] for first in firsts)


def read(files: Files) -> Iterator[Post]:
    texts = _texts(files)
    return posts(files, _names(files), partial(_post, files, texts), COLUMNS)


def photo_id(url: str) -> str:
    """Flickr's number of the photo, with which the file names of its images begin."""
    return url.rpartition("/")[2].partition("_")[0].partition(".")[0]


def image_at(files: Files, url: str, *folders: str) -> str:
    """The image's file in the first of the folders that has it; its URL where none does."""
    names = (f"{folder}/{url.rpartition('/')[2]}" for folder in folders)
    return next((name for name in names if files.exists(name)), url)


def _names(files: Files) -> Sequence[str]:
    return [name for name in files.find("*.csv", "agg/*.csv") if _emotion(name) in LABELS]


def _emotion(name: str) -> str:
    return stem(name).partition("_")[0].lower()


def _texts(files: Files) -> Mapping[str, dict[str, Any]]:
    names = (f"metadata.{kind}" for kind in ("csv", "jsonl", "parquet"))
    found = next((name for name in names if files.exists(name)), None)
    records = files.records(found) if found else ()
    return {str(record["id"]): record for _, record in records if isinstance(record, dict) and "id" in record}


def _post(files: Files, texts: Mapping[str, dict[str, Any]], name: str, row: int, record: dict[str, Any]) -> Post:
    """Workers were asked about one emotion, so where most of them denied it nothing is known of the others."""
    emotion, url = _emotion(name), needed(record["url"].strip(), "URL")
    agree, disagree = count(record["agree"], "agree"), count(record["disagree"], "disagree")
    if not agree + disagree:
        raise ValueError("no votes")
    photo, text = photo_id(url), texts.get(photo_id(url), {})
    return {
        "id": f"{emotion}-{photo}",
        "text": text_of(text.get("title"), text.get("description")),
        "tags": text.get("tags") or None,
        "image": image_at(files, url, "images", f"images/{emotion}"),
        "votes": {emotion: agree},
        "annotators": agree + disagree,
        "unknown": [label for label in LABELS if label != emotion] if disagree >= agree else None,
        "group": photo,
    }


CORPUS = Corpus(
    name="flickr-emotion",
    title="Flickr Emotion, images (You et al. 2016)",
    labels=LABELS,
    num_posts=23_308,
    modalities=("text", "image", "tags"),
    licence="research only, by request; images as on Flickr",
    home="https://qzyou.github.io/",
    single_label=True,
    layout="agg/amusement_*.csv and those of seven more emotions (emotion, URL, disagree, agree) beside images/",
    recognises=recognises,
    read=read,
)
