"""CK+ (Lucey et al. 2010): posed faces from neutral to the peak of an emotion; the peak frame is the post."""

import re
from collections.abc import Iterator, Sequence

from emo.datasets.corpus import Corpus, Post, post
from emo.datasets.files import Files

LABELS = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
"""In the order of the published numbers, from 1; 0 is neutral and no label."""
FOLDERS = {"happy": "happiness"}
FRAME = re.compile(r"(S\d+_\d+)_(\d+)\.png$")


def recognises(files: Files) -> bool:
    if _sequences(files):
        return True
    return any(FRAME.match(name) for folder in _kaggle(files)[:1] for name in files.list(folder))


def read(files: Files) -> Iterator[Post]:
    if not _sequences(files):
        yield from _read_kaggle(files)
        return
    labels = next(iter(files.find("Emotion", "Emotion_labels/Emotion")), "Emotion")
    for folder in _sequences(files):
        subject, sequence = folder.split("/")[-2:]
        label_folder = f"{labels}/{subject}/{sequence}"
        label_files = [f"{label_folder}/{each}" for each in files.list(label_folder) if each.endswith("_emotion.txt")]
        frame = _peak(files.list(folder))
        place = (label_files or [f"{folder}/{frame}" if frame else folder])[0]
        image = f"{folder}/{frame}" if frame else None
        yield post(f"{subject}_{sequence}", f"{place}:1", _sequence, files, subject, image, label_files)


def _sequences(files: Files) -> Sequence[str]:
    return files.find("cohn-kanade-images/S*/*", "extended-cohn-kanade-images/cohn-kanade-images/S*/*")


def _kaggle(files: Files) -> Sequence[str]:
    """The emotions' folders of CK+48, which has the last three frames of each labelled sequence."""
    names = (*LABELS, *FOLDERS)
    return files.find(*names) or files.find(*(f"CK+48/{name}" for name in names))


def _read_kaggle(files: Files) -> Iterator[Post]:
    for folder in _kaggle(files):
        name = folder.rpartition("/")[2]
        frames: dict[str, list[str]] = {}
        for each in files.list(folder):
            if match := FRAME.match(each):
                frames.setdefault(match[1], []).append(each)
        for sequence, names in frames.items():
            image = f"{folder}/{_peak(names)}"
            made = {"image": image, "group": sequence.partition("_")[0], "labels": [FOLDERS.get(name, name)]}
            yield post(sequence, f"{image}:1", dict, made)


def _peak(names: Sequence[str]) -> str | None:
    frames = [(int(match[2]), name) for name in names if (match := FRAME.match(name))]
    return max(frames)[1] if frames else None


def _sequence(files: Files, subject: str, image: str | None, label_files: Sequence[str]) -> Post:
    if image is None:
        raise ValueError("no frames")
    return {"image": image, "group": subject, "labels": _label(files, label_files[0]) if label_files else None}


def _label(files: Files, name: str) -> list[str]:
    _, line = next(files.lines(name), (0, ""))
    try:
        code = float(line)
    except ValueError:
        code = -1
    if code not in range(len(LABELS) + 1):
        raise ValueError(f"{line.strip()!r} is not the number of a label")
    return [LABELS[int(code) - 1]] if code else []


CORPUS = Corpus(
    name="ck-plus",
    title="CK+, posed faces (Lucey et al. 2010)",
    labels=LABELS,
    num_posts=593,
    modalities=("image",),
    licence="research only, by agreement",
    home="https://www.jeffcohn.net/Resources/",
    single_label=True,
    layout="cohn-kanade-images/S005/001/*.png and Emotion/S005/001/*_emotion.txt, or CK+48/<emotion>/*.png",
    recognises=recognises,
    read=read,
)
