"""FER+ (Barsoum et al. 2016): 48 x 48 grey faces, each with the votes of ten people."""

import io
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np
from PIL import Image

from emo.datasets.corpus import SPLITS, Corpus, Post, count, needed, post, posts, readable
from emo.datasets.files import Files, stem

LABELS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
OTHERS = ("unknown", "NF")
"""Votes that choose no emotion: cannot tell, and not a face."""
FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
VOTES, PIXELS = "fer2013new.csv", "fer2013.csv"
COLUMNS = ("Image name", "box", *LABELS, *OTHERS)
SIDE = 48


def recognises(files: Files) -> bool:
    if files.find(VOTES, PIXELS) and files.exists(VOTES):
        return {"Usage", "Image name", *LABELS, *OTHERS} <= set(files.header(VOTES))
    return any(len(files.header(name)) == len(COLUMNS) for name in _labels(files)[:1])


def read(files: Files) -> Iterator[Post]:
    """The votes' rows with the pixels of the same row of fer2013.csv, or with the images in the folders."""
    if not files.exists(VOTES):
        yield from posts(files, _labels(files), _foldered, COLUMNS)
        return
    top = "data/" if files.exists("data/FER2013Train") else ""
    seen: set[str] = set()  # a few rows are published twice
    for row, ((line, record), grey) in enumerate(zip(files.records(VOTES), _pixels(files), strict=False), 1):
        made = post(f"{stem(VOTES)}-{row}", f"{VOTES}:{line}", _joined, top, record, grey)
        yield made | ({"id": f"{stem(VOTES)}-{row}"} if made["id"] in seen else {})
        seen.add(made["id"])


def _pixels(files: Files) -> Iterator[dict[str, Any] | str]:
    """The rows of fer2013.csv, and then why there are no more; empty rows where there is no such file."""
    if not files.exists(PIXELS):
        return repeat({})
    return chain((record for _, record in files.records(PIXELS)), repeat("no row of pixels"))


def _labels(files: Files) -> Sequence[str]:
    return files.find(*(f"{start}{folder}/label.csv" for start in ("", "data/") for folder in FOLDERS.values()))


def _foldered(name: str, row: int, record: dict[str, Any]) -> Post:
    folder = name.rpartition("/")[0]
    split = SPLITS[folder.rpartition("FER2013")[2].lower()]
    file = needed(record["Image name"].strip(), "image name")
    return {"id": file.rpartition(".")[0], "image": f"{folder}/{file}", "split": split} | _votes(record)


def _joined(top: str, row: dict[str, Any] | str, grey: dict[str, Any] | str) -> Post:
    record = readable(row)
    usage, file = record["Usage"].strip(), record["Image name"].strip()
    if usage not in USAGES:
        raise ValueError(f"unknown usage: {usage!r}")
    votes = _votes(record)
    image = _png(readable(grey)["pixels"]) if grey else f"{top}{FOLDERS[usage]}/{needed(file, 'image name')}"
    return {"id": file.rpartition(".")[0] or None, "image": image, "split": USAGES[usage]} | votes


def _votes(record: dict[str, Any]) -> Post:
    counts = {name: count(record[name], name) for name in (*LABELS, *OTHERS)}
    total = sum(counts.values())
    if not total:
        raise ValueError("no votes")
    if 2 * counts["NF"] > total:
        raise ValueError("not a face, say most votes")
    return {"votes": {name: counts[name] for name in LABELS if counts[name]}, "annotators": total}


def _png(pixels: str) -> bytes:
    try:
        grey = np.array(pixels.split(), dtype=np.uint8).reshape(SIDE, SIDE)
    except (ValueError, OverflowError):
        raise ValueError(f"pixels are not {SIDE} x {SIDE} numbers up to 255") from None
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return buffer.getvalue()


CORPUS = Corpus(
    name="fer-plus",
    title="FER+, faces in the wild (Barsoum et al. 2016)",
    labels=LABELS,
    num_posts=35_887,
    modalities=("image",),
    licence="votes MIT; images of FER2013 research only",
    home="https://github.com/microsoft/FERPlus",
    single_label=False,
    layout="fer2013new.csv with fer2013.csv or the folders FER2013Train, FER2013Valid, FER2013Test, or their label.csv",
    recognises=recognises,
    read=read,
)
