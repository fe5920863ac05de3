"""A run folder as one page: what was tried, what came of it, and how to use the model.

The page shows what a run has so far, so it serves a sweep that is still running or that failed half-way.
"""

import base64
import io
import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure
from PIL import Image

from emo import figures, report_tables, storage
from emo.config import PLUTCHIK
from emo.report_tables import Run, number, percent

RESULTS = {
    "trials.parquet": "the trials",
    "calibration.parquet": "the decision thresholds",
    "leaderboard.json": "the leaderboard with the test scores",
    "examples.parquet": "the example posts",
}
RIGHT, WRONG = "Every label right", "At least one label wrong"
THUMBNAIL = 320
"""Pixels of the longer side of an example's picture."""


def write_report(run: str) -> str:
    """Write ``figures/*.png`` and ``report.html`` into a run folder, finished or not; returns the page's URI."""
    content = report_tables.read_run(run)
    images = {}
    for name, (figure, alt) in draw(content).items():
        image = figures.png(figure)
        storage.write_bytes(storage.join(run, "figures", f"{name}.png"), image)
        images[name] = {"src": _data_uri(image, "png"), "alt": alt}
    uri = storage.join(run, "report.html")
    storage.write_bytes(uri, page(content, images).encode())
    return uri


def draw(run: Run) -> dict[str, tuple[Figure, str]]:
    """Every figure for which the run has the values, by file name, with the text that stands in for it."""
    drawn = {}
    if run.rows:
        alt = "; ".join(
            f"{row['name']} {number(row.get('test/micro_f1'), 2)}"
            for row in sorted(run.rows, key=lambda r: -(r.get("test/micro_f1") or 0))
        )
        drawn["scores"] = (
            figures.score_bars(run.rows),
            f"Bars of micro F1, macro F1 and accuracy on test for every model. Micro F1: {alt}.",
        )
    if curves := report_tables.operating_points(run):
        alt = "; ".join(f"{c.label} {c.average_precision:.2f}" for c in curves if c.num_positives)
        drawn["precision_recall"] = (
            figures.precision_recall(curves),
            f"Precision over recall for each label, threshold marked. Average precision: {alt}.",
        )
    histories, kept = report_tables.best_histories(run)
    if histories:
        alt = f"Train loss, val loss and val macro F1 by epoch for the best trial of {', '.join(histories)}."
        drawn["learning_curves"] = figures.learning_curves(histories, kept), alt
    if shares := report_tables.importances(run):
        alt = "; ".join(
            f"{name}: mostly {figures.PARAMS[max(share, key=lambda p: share[p])]}" for name, share in shares.items()
        )
        drawn["importances"] = (
            figures.importance_bars(shares),
            f"Importance of each hyperparameter for val macro F1. {alt}.",
        )
    groups = {str(name): group for name, group in run.finished_trials.groupby("encoder", sort=False)}
    if groups:
        points = {name: (list(group["lr"]), list(group["val/macro_f1"])) for name, group in groups.items()}
        drawn["learning_rates"] = (
            figures.learning_rates(points),
            "Learning rate against val macro F1 of every finished trial, one panel an encoder.",
        )
    return drawn


def page(run: Run, images: dict[str, dict[str, str]]) -> str:
    """The whole page, with nothing to fetch; every text that users wrote is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(num=number, pct=percent)
    template = environment.from_string(Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8"))
    labels = (run.posts or {}).get("labels", [])
    return template.render(
        run=run,
        quoted_run=shlex.quote(run.uri),
        quoted_model=shlex.quote(storage.join(run.uri, "model")),
        images=images,
        started=_date(run.config.get("started")),
        settings=run.config["config"],
        budget=run.budget,
        outcome=report_tables.outcome(run),
        progress=report_tables.progress(run),
        missing=[what for file, what in RESULTS.items() if not storage.exists(storage.join(run.uri, file))],
        warnings=[*(run.posts or {}).get("warnings", []), *report_tables.cautions(run)],
        prevalences=report_tables.prevalences(run),
        errors=report_tables.failures(run),
        provisional=report_tables.provisional(run),
        per_label=report_tables.per_label(run),
        published=report_tables.published() if set(labels) == set(PLUTCHIK) else None,
        rules=report_tables.RULES,
        thresholds=report_tables.threshold_rows(run),
        curves=report_tables.operating_points(run),
        num_labels=len(labels),
        no_importance=report_tables.unexplained(run),
        cards=cards(run),
    )


def _date(started: str | None) -> str:
    return f"{datetime.fromisoformat(started):%d %B %Y, %H:%M %Z}".lstrip("0").strip() if started else "unknown date"


def cards(run: Run) -> dict[str, list[dict[str, Any]]]:
    """The example posts, right ones and wrong ones, with their most probable labels."""
    groups: dict[str, list[dict[str, Any]]] = {RIGHT: [], WRONG: []}
    labels = (run.leaderboard or run.posts or {}).get("labels", [])
    for post in [] if run.examples is None else report_tables.records(run.examples):
        gold, predicted = list(post["gold"]), list(post["predicted"])
        ranked = sorted(zip(labels, map(float, post["probs"]), strict=True), key=lambda pair: -pair[1])
        bars = [pair for place, pair in enumerate(ranked) if place < 4 or pair[0] in gold or pair[0] in predicted]
        tags = [] if post["tags"] is None else list(post["tags"])
        card = {
            "id": post["post_id"],
            "text": post["text"],
            "tags": tags,
            "image": thumbnail(post["image"]),
            "gold": gold,
            "predicted": predicted,
            "bars": bars,
        }
        groups[RIGHT if post["correct"] else WRONG].append(card)
    return groups


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
    return _data_uri(buffer.getvalue(), "jpeg")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
