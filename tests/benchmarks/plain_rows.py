"""The references for prepare: what a worker does with lines. It imports no Ray, so it starts fast."""

import json
from pathlib import Path
from typing import Any

from emo.duplicates import image_signature, text_signature
from emo.image import prepare_image
from emo.text import clean


def plain_row(task: tuple[str, str]) -> dict[str, Any]:
    """A line of JSONL, parsed and cleaned, with its image read from beside the file and prepared."""
    folder, line = task
    raw = json.loads(line)
    image, pixels = prepare_image((Path(folder) / raw["image"]).read_bytes(), 384, 50_000_000)
    text = clean(raw["text"], "describe")
    return {
        "post_id": raw["id"],
        "text": text,
        "image": image,
        "labels": raw["labels"],
        "text_signature": text_signature(text),
        "image_signature": str(image_signature(pixels)),
    }


def plain_rows(batch: dict[str, list[str]], folder: str) -> dict[str, list[Any]]:
    """The same of a batch, as Hugging Face datasets hand it on."""
    rows = [plain_row((folder, line)) for line in batch["line"]]
    return {name: [row[name] for row in rows] for name in rows[0]}
