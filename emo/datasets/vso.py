"""VSO and MVSO (Borth et al. 2013, Jou et al. 2015): Flickr images of adjective-noun pairs with a known sentiment.

Published are the pairs' sentiments (VSO from -2 to 2) with VSO's images in a folder for each pair, or with MVSO's list
of pair and URL for each language. Images of MVSO that are still to be had belong into images/<pair>/; the texts into
columns title, description and tags of the list. A pair is no text of its post: the labels are made from it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from emo.datasets.corpus import Corpus, Post, needed, post, posts, text_of
from emo.datasets.files import Files, stem
from emo.datasets.flickr import image_at, photo_id

LABELS = ("negative", "positive")
PAIR = re.compile(r"\s*(\S+_\S+)\s+\[sentiment:\s*([-+.\d]+)\]")
IMAGE = (".jpg", ".jpeg", ".png")


def recognises(files: Files) -> bool:
    return bool(_lists(files) and files.list("mvso_sentiment")) or bool(_pairs(files) and _folders(files))


def read(files: Files) -> Iterator[Post]:
    return _read_lists(files) if _lists(files) else _read_folders(files)


def _lists(files: Files) -> Sequence[str]:
    return files.find("image_url_mappings/*.csv")


def _pairs(files: Files) -> Sequence[str]:
    return files.find("3244ANPs.txt", "VSO/3244ANPs.txt")


def _folders(files: Files) -> Sequence[str]:
    return files.find("bi_concepts*", "Flickr/bi_concepts*")


def _read_lists(files: Files) -> Iterator[Post]:
    for name in _lists(files):
        language = stem(name)
        scores = _scores(files, f"mvso_sentiment/{language}.csv")
        yield from posts(files, [name], partial(_listed, files, language, scores))


def _scores(files: Files, name: str) -> Mapping[str, float]:
    records = files.records(name, ("pair", "score")) if files.exists(name) else ()
    return {record["pair"]: _number(record["score"]) for _, record in records if isinstance(record, dict)}


def _listed(
    files: Files, language: str, scores: Mapping[str, float], name: str, row: int, record: dict[str, Any]
) -> Post:
    pair, url = (needed(str(each).strip(), "pair and URL") for each in list(record.values())[:2])
    photo = photo_id(url)
    return {
        "id": f"{language}/{pair}/{photo}",
        "text": text_of(record.get("title"), record.get("description")),
        "tags": record.get("tags") or None,
        "image": image_at(files, url, f"images/{pair}", "images"),
        "labels": _sentiment(scores.get(pair, 0.0)),
        "group": photo,
    }


def _read_folders(files: Files) -> Iterator[Post]:
    matches = (PAIR.match(line) for _, line in files.lines(_pairs(files)[0]))
    scores = {match[1]: _number(match[2]) for match in matches if match}
    for folder in _folders(files):
        for pair in files.list(folder):
            labels = _sentiment(scores.get(pair, 0.0))
            for name in files.list(f"{folder}/{pair}"):
                if name.lower().endswith(IMAGE):
                    made = {"image": f"{folder}/{pair}/{name}", "labels": labels, "group": photo_id(name)}
                    yield post(f"{pair}/{stem(name)}", f"{made['image']}:1", dict, made)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _sentiment(score: float) -> list[str] | None:
    """A pair without a score, or with one of 0, leaves its images unlabelled."""
    return [LABELS[score > 0]] if score else None


CORPUS = Corpus(
    name="vso",
    title="VSO and MVSO, images of adjective-noun pairs (Borth et al. 2013, Jou et al. 2015)",
    labels=LABELS,
    num_posts=7_368_364,
    modalities=("text", "image", "tags"),
    licence="research only; images as on Flickr",
    home="http://mvso.cs.columbia.edu/",
    single_label=True,
    layout="image_url_mappings/english.csv with mvso_sentiment/english.csv; or 3244ANPs.txt with bi_concepts1553/",
    recognises=recognises,
    read=read,
)
