"""What the pages that emo writes have in common: templates, figures as people read them, posts with small pictures."""

import base64
import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

THUMBNAIL = 320
"""Pixels of the longer side of a post's picture."""
MOST_PROBABLE = 4
"""So many labels a post shows at least."""


def render(template: str, **values: Any) -> str:
    """A whole page from a template beside this file, with nothing to fetch; every text that users wrote is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(num=number, pct=percent)
    return environment.get_template(template).render(**values)


def number(value: Any, digits: int = 3) -> str:
    """A score for people, and a dash where there is none."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) and math.isfinite(value) else "–"


def percent(value: Any) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) and math.isfinite(value) else "–"


def post_card(
    post: Mapping[str, Any], probs: Mapping[str, float], unknown: Collection[str] = (), note: str = ""
) -> dict[str, Any]:
    """A post as the pages show it: with its most probable labels, all that are gold or predicted among them.

    ``post`` has ``post_id``, ``gold`` and ``predicted``, and may have ``text``, ``tags`` and ``image``.
    """
    gold, predicted = list(post["gold"]), list(post["predicted"])
    ranked = sorted(probs.items(), key=lambda pair: -pair[1])
    return {
        "id": post["post_id"],
        "text": post.get("text"),
        "tags": _list(post.get("tags")),
        "image": thumbnail(post.get("image")),
        "gold": gold,
        "predicted": predicted,
        "unknown": list(unknown),
        "note": note,
        "bars": [p for place, p in enumerate(ranked) if place < MOST_PROBABLE or p[0] in gold or p[0] in predicted],
    }


def _list(values: Sequence[str] | None) -> list[str]:
    return [] if values is None else list(values)


def thumbnail(image: bytes | None) -> str | None:
    """The picture as a small data URI; None for none, and for one that cannot be read."""
    if not image:
        return None
    try:
        with Image.open(io.BytesIO(image)) as picture:
            small = picture.convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
    except (OSError, Image.DecompressionBombError):
        return None
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85)
    return data_uri(buffer.getvalue(), "jpeg")


def data_uri(content: bytes, kind: str) -> str:
    """A picture of a kind, such as ``png``, as what an ``img`` shows without fetching."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
