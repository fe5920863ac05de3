"""A run folder as one page: what was tried, what came of it, and how to use the model.

The page shows what a run has so far, so it serves a sweep that is still running or that failed half-way.
"""

import shlex
from datetime import datetime
from typing import Any

from matplotlib.figure import Figure

from emo import figures, pages, report_calibration, report_posts, report_tables, storage
from emo.config import PLUTCHIK
from emo.cost import taken
from emo.figures_calibration import reliability_diagram
from emo.looks import times_read
from emo.pages import number
from emo.report_run import Run, read_run, records

WHAT_TRAINS = {
    "frozen": "classifier only",
    "partial": "classifier and projection layers",
    "layer-mix": "classifier and weights of layers",
    "lora": "classifier and adapters",
    "full": "classifier and encoders",
}
"""By mode."""

RESULTS = {
    "trials.parquet": "the trials",
    "calibration.parquet": "the decision thresholds",
    "leaderboard.json": "the leaderboard with the test scores",
    "examples.parquet": "the example posts",
}
RIGHT, WRONG = "Every label right", "At least one label wrong"


def write_report(run: str) -> str:
    """Write ``figures/*.png`` and ``report.html`` into a run folder, finished or not; returns the page's URI."""
    content = read_run(run)
    images = {}
    for name, (figure, alt) in draw(content).items():
        image = figures.png(figure)
        storage.write_bytes(storage.join(run, "figures", f"{name}.png"), image)
        images[name] = {"src": pages.data_uri(image, "png"), "alt": alt}
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
    if diagram := report_calibration.reliability(run):
        drawn["reliability"] = (
            reliability_diagram(diagram),
            "Share of positives over mean probability on test for the best model, raw and calibrated: "
            f"{'; '.join(each.title for each in diagram)}.",
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
        points = {
            title: (list(group[rate]), list(group["val/macro_f1"]))
            for name, group in groups.items()
            for rate, title in (("lr", name), ("encoder_lr", f"{name}, encoder's"))
            if rate == "lr" or (rate in group and group[rate].nunique() > 1)
        }
        drawn["learning_rates"] = (
            figures.learning_rates(points),
            "Learning rate against val macro F1 of every finished trial, one panel an encoder.",
        )
    return drawn


def page(run: Run, images: dict[str, dict[str, str]]) -> str:
    """The whole page; ``images`` are the figures by name, each with ``src`` and ``alt``."""
    labels = (run.posts or {}).get("labels", [])
    return pages.render(
        "report.html.jinja",
        run=run,
        quoted_run=shlex.quote(run.uri),
        quoted_model=shlex.quote(storage.join(run.uri, "model")),
        images=images,
        started=_date(run.config.get("started")),
        settings=run.config["config"],
        what_trains=WHAT_TRAINS,
        reads_tags=any(encoder.get("tags") for encoder in run.config["encoders"]),
        budget=run.budget,
        outcome=report_tables.outcome(run),
        columns=report_tables.COLUMNS,
        times_read=times_read(run.looks),
        took=taken.table(run.cost) if run.cost else [],
        took_remarks=taken.remarks(run.cost) if run.cost else [],
        progress=report_tables.progress(run),
        missing=[what for file, what in RESULTS.items() if not storage.exists(storage.join(run.uri, file))],
        warnings=[*(run.posts or {}).get("warnings", []), *report_tables.cautions(run)],
        prevalences=report_posts.prevalences(run.posts),
        folds=report_posts.fold_prevalences(run.posts),
        corpora=report_posts.corpora(run.posts),
        positive_rule=report_posts.positive_rule(run.posts) if run.posts else None,
        errors=report_tables.failures(run),
        provisional=report_tables.provisional(run),
        per_label=report_tables.per_label(run),
        published=report_tables.published() if set(labels) == set(PLUTCHIK) else None,
        rules=report_calibration.rules(run),
        thresholds=report_calibration.encoders(run),
        by_label=report_calibration.labels(run),
        best_rule=report_calibration.RULES[run.best_model["rule"]] if run.best_model else None,
        probabilities=report_calibration.probabilities(run),
        curves=report_tables.operating_points(run),
        num_labels=len(labels),
        no_importance=report_tables.unexplained(run),
        choices=report_tables.choices(run),
        cards=cards(run),
    )


def _date(started: str | None) -> str:
    return f"{datetime.fromisoformat(started):%d %B %Y, %H:%M %Z}".lstrip("0").strip() if started else "unknown date"


def cards(run: Run) -> dict[str, list[dict[str, Any]]]:
    """The example posts, right ones and wrong ones, with their most probable labels."""
    groups: dict[str, list[dict[str, Any]]] = {RIGHT: [], WRONG: []}
    labels = (run.leaderboard or run.posts or {}).get("labels", [])
    for post in [] if run.examples is None else records(run.examples):
        probs = dict(zip(labels, map(float, post["probs"]), strict=True))
        unknown = [label for label, target in zip(labels, post["targets"], strict=True) if not target >= 0]
        groups[RIGHT if post["correct"] else WRONG].append(pages.post_card(post, probs, unknown))
    return groups
