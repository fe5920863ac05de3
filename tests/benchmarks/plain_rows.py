"""The reference for prepare: what a worker of a bare pool does with a line. It imports no Ray, so it starts fast."""

import json
from pathlib import Path
from typing import Any

from emo.image import prepare_image
from emo.text import clean


def plain_row(task: tuple[str, str]) -> dict[str, Any]:
    """A line of JSONL, parsed and cleaned, with its image read from beside the file and prepared."""
    folder, line = task
    raw = json.loads(line)
    image = prepare_image((Path(folder) / raw["image"]).read_bytes(), 384, 50_000_000)
    return {"post_id": raw["id"], "text": clean(raw["text"], "describe"), "image": image, "labels": raw["labels"]}
