"""GoEmotions (Demszky et al. 2020): Reddit comments with agreed labels and splits, or with every rater's choice."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from emo.datasets.corpus import SPLITS, Corpus, Post, flags, needed, posts
from emo.datasets.files import Files, stem

LABELS = (
    *("admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire"),
    *("disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy"),
    *("love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral"),
)
COLUMNS = ("text", "codes", "id")


def recognises(files: Files) -> bool:
    if any({"id", "rater_id", *LABELS} <= set(files.header(name)) for name in _raw(files)[:1]):
        return True
    return bool(_agreed(files)) and set(_labels(files, _agreed(files)[0])) == set(LABELS)


def read(files: Files) -> Iterator[Post]:
    names = _agreed(files)
    if not names:
        yield from _read_raw(files)
        return
    labels = _labels(files, names[0])
    yield from posts(files, names, partial(_agreed_post, labels), COLUMNS)


def _agreed(files: Files) -> Sequence[str]:
    kinds = ("train.tsv", "dev.tsv", "test.tsv")
    return next(
        (
            found
            for folder in ("", "original/", "data/", "data/original/")
            if (found := files.find(*(folder + each for each in kinds)))
        ),
        (),
    )


def _raw(files: Files) -> Sequence[str]:
    return files.find(*(f"{folder}goemotions_[123].csv" for folder in ("", "full_dataset/", "data/full_dataset/")))


def _labels(files: Files, name: str) -> Sequence[str]:
    folder = name.rpartition("/")[0]
    lists = (f"{folder}/{each}".lstrip("/") for each in ("labels.txt", "emotions.txt"))
    found = next((each for each in lists if files.exists(each)), None)
    return [line.strip() for _, line in files.lines(found) if line.strip()] if found else ()


def _agreed_post(labels: Sequence[str], name: str, row: int, record: dict[str, Any]) -> Post:
    try:
        chosen = [labels[int(code)] for code in record["codes"].split(",")]
    except (ValueError, IndexError):
        raise ValueError(f"{record['codes']!r} are not numbers of labels") from None
    return {"text": record["text"], "labels": chosen, "split": SPLITS[stem(name)], "id": needed(record["id"], "id")}


def _read_raw(files: Files) -> Iterator[Post]:
    """A comment's raters are spread over all files, so every comment is held until the last row is read."""
    comments: dict[str, Post] = {}
    for rating in posts(files, _raw(files), _rating):
        if "reject" in rating:
            yield rating
            continue
        chosen, unclear = rating.pop("chosen"), rating.pop("unclear")
        comment = comments.setdefault(rating["id"], rating | {"votes": {}, "annotators": 0, "unclear": 0})
        comment["annotators"] += 1
        comment["unclear"] += unclear
        for label in chosen:
            comment["votes"][label] = comment["votes"].get(label, 0) + 1
    yield from map(_voted, comments.values())


def _rating(name: str, row: int, record: dict[str, Any]) -> Post:
    chosen, unknown = flags(record, LABELS)
    if unknown:
        raise ValueError(f"no choice for {unknown[0]!r}")
    author = record.get("author")
    return {
        "id": needed(record["id"], "id"),
        "text": record["text"],
        "group": author if author and author != "[deleted]" else None,
        "chosen": chosen,
        "unclear": record["example_very_unclear"].strip().casefold() == "true",
    }


def _voted(comment: Mapping[str, Any]) -> Post:
    """The comment with its votes; unlabelled where no rater could tell."""
    left_out = {"unclear"} if comment["unclear"] < comment["annotators"] else {"unclear", "votes", "annotators"}
    return {key: value for key, value in comment.items() if key not in left_out}


CORPUS = Corpus(
    name="goemotions",
    title="GoEmotions, Reddit comments (Demszky et al. 2020)",
    labels=LABELS,
    num_posts=58_009,
    modalities=("text",),
    licence="Apache 2.0",
    home="https://github.com/google-research/google-research/tree/master/goemotions",
    single_label=False,
    layout="train.tsv, dev.tsv and test.tsv with labels.txt or emotions.txt; or goemotions_1.csv to goemotions_3.csv",
    recognises=recognises,
    read=read,
)
