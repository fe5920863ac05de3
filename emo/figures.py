"""The report's figures: plain values in, a Matplotlib figure out, nothing kept between calls."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from sklearn.metrics import average_precision_score, precision_recall_curve

BLUE, ORANGE, GREEN, VERMILLION, INK, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#26323F", "#8A949E"
"""Okabe and Ito's colours, which colour-blind readers tell apart, and two neutral ones."""

STYLE: Any = {
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#C4CCD4",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8ECF0",
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.9,
    "text.parse_math": False,  # a label or a model may have a dollar sign in its name
}
WIDTH = 10.0
"""Inches of every figure, so that type has one size throughout the page."""
DPI = 150
SCORES = {
    "test/micro_f1": ("Micro F1", BLUE),
    "test/macro_f1": ("Macro F1", ORANGE),
    "test/subset_accuracy": ("Accuracy", GREEN),
}

PARAMS = {
    "lr": "learning rate",
    "dropout": "dropout",
    "hidden": "hidden width",
    "num_layers": "layers",
    "batch_size": "batch size",
    "warmup_steps": "warm-up steps",
    "encoder_lr": "encoder's learning rate",
    "loss": "loss",
    "fusion": "fusion",
}


@dataclass(frozen=True)
class Curve:
    """Precision over recall for one label, and the operating point (recall, precision) of its threshold."""

    label: str
    num_positives: int
    recall: np.ndarray
    precision: np.ndarray
    average_precision: float
    prevalence: float
    threshold: float
    point: tuple[float, float]
    f1: float


def curve(label: str, gold: np.ndarray, probs: np.ndarray, predicted: np.ndarray, threshold: float) -> Curve:
    """The curve of one label from its gold (N,), its probs (N,) and what was predicted by a threshold (N,)."""
    positives = int(gold.sum())
    hits = int((gold & predicted).sum())
    point = hits / max(1, positives), hits / max(1, int(predicted.sum()))
    f1 = 2 * hits / max(1, positives + int(predicted.sum()))
    if not positives:
        return Curve(label, 0, np.empty(0), np.empty(0), math.nan, 0.0, threshold, point, f1)
    precision, recall, _ = precision_recall_curve(gold, probs)
    return Curve(
        label,
        positives,
        recall,
        precision,
        float(average_precision_score(gold, probs)),
        float(gold.mean()),
        threshold,
        point,
        f1,
    )


def importance(trials: pd.DataFrame, space: Mapping[str, Any]) -> dict[str, float]:
    """Each hyperparameter's share of the spread of val macro F1 among an encoder's finished trials, by fANOVA."""
    dists, verbosity = _distributions(space, trials), optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a study rebuilt for a figure is no news
    try:
        study = optuna.create_study(direction="maximize")
        for row in trials.to_dict("records"):
            params = {name: row[name] for name in dists}
            study.add_trial(optuna.create_trial(params=params, distributions=dists, value=float(row["val/macro_f1"])))
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {name: float(found.get(name, 0.0)) for name in dists}


def _distributions(space: Mapping[str, Any], trials: pd.DataFrame) -> dict[str, BaseDistribution]:
    """What Optuna searched and the trials differ in; JSON has made lists of the tuples."""
    categories = ("hidden", "num_layers", "batch_size", "loss", "fusion")
    rates = {name: space[name] for name in ("lr", "encoder_lr") if name in space}
    dists: dict[str, BaseDistribution] = {
        **{name: FloatDistribution(low, high, log=True) for name, (low, high) in rates.items()},
        "dropout": FloatDistribution(*space["dropout"]),
        "warmup_steps": IntDistribution(*space["warmup_steps"]),
        **{name: CategoricalDistribution(list(space[name])) for name in categories if name in space},
    }
    return {name: dists[name] for name in PARAMS if name in trials and trials[name].nunique() > 1}


def png(figure: Figure) -> bytes:
    """The figure as PNG on white, so that it reads the same on a dark page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


@rc_context(STYLE)
def score_bars(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Micro F1, macro F1 and accuracy of every model, the highest micro F1 on top (Passaro et al., Fig. 2)."""
    rows = sorted(rows, key=lambda row: -_or_zero(row.get("test/micro_f1")))
    figure = _figure(0.72 * len(rows) + 0.9)
    axes = figure.add_subplot()
    for offset, (metric, (_, colour)) in zip((-0.27, 0.0, 0.27), SCORES.items(), strict=True):
        values = [_or_zero(row.get(metric)) for row in rows]
        bars = axes.barh(np.arange(len(rows)) + offset, values, height=0.25, color=colour)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8.5, color=INK)
        for bar, row in zip(bars, rows, strict=True):
            bar.set_alpha(1.0 if row["kind"] == "encoder" else 0.45)
    names = [row["name"] if row["kind"] == "encoder" else f"{row['name']} (baseline)" for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, min(1.08, 1.12 * max([0.1, *(_or_zero(row.get(m)) for row in rows for m in SCORES)])))
    axes.set_xlabel("Score on test")
    keys = [Patch(color=colour, label=name) for name, colour in SCORES.values()]  # never a baseline's pale colours
    figure.legend(handles=keys, loc="outside upper right", ncols=len(keys))
    return figure


@rc_context(STYLE)
def learning_curves(histories: Mapping[str, Sequence[Mapping[str, float]]], best_epochs: Mapping[str, int]) -> Figure:
    """For each encoder's best trial: losses above, val macro F1 below, the kept epoch as a dashed line."""
    columns, bands = _grid(len(histories))
    figure = _figure(3.9 * bands + 0.4)
    grid = figure.subplots(2 * bands, columns, squeeze=False, height_ratios=[3, 2] * bands)
    for axes in grid.flat[:]:
        axes.set_axis_off()
    for index, (name, history) in enumerate(histories.items()):
        upper, lower = grid[2 * (index // columns), index % columns], grid[2 * (index // columns) + 1, index % columns]
        _losses(upper, name, history, best_epochs.get(name))
        _line(lower, history, "val_macro_f1", GREEN, "Val macro F1")
        _mark_epoch(lower, best_epochs.get(name))
        lower.set(ylim=(0, 1), xlabel="Epoch", ylabel="Macro F1" if index % columns == 0 else "")
        upper.set_ylabel("Loss" if index % columns == 0 else "")
    handles = {h.get_label(): h for axes in grid.flat for h in axes.get_legend_handles_labels()[0]}
    figure.legend(handles=list(handles.values()), loc="outside upper right", ncols=4)
    return figure


def _losses(axes: Axes, name: str, history: Sequence[Mapping[str, float]], best_epoch: int | None) -> None:
    _line(axes, history, "train_loss", BLUE, "Train loss")
    _line(axes, history, "val_loss", ORANGE, "Val loss")
    _mark_epoch(axes, best_epoch)
    axes.set_title(name)


def _line(axes: Axes, history: Sequence[Mapping[str, float]], key: str, colour: str, label: str) -> None:
    axes.set_axis_on()
    epochs = [step["epoch"] for step in history]
    values = [math.nan if step.get(key) is None else step[key] for step in history]
    axes.plot(epochs, values, color=colour, label=label, marker="o", markersize=3)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def _mark_epoch(axes: Axes, epoch: int | None) -> None:
    if epoch is not None:
        axes.axvline(epoch, color=GREY, linestyle="--", linewidth=1.2, label="Epoch kept")


@rc_context(STYLE)
def precision_recall(curves: Sequence[Curve]) -> Figure:
    """One panel a label: the curve, its prevalence (what guessing gets), and where the threshold operates."""
    figure, panels = small_multiples(len(curves), 2.9)
    for axes, curve in zip(panels, curves, strict=False):
        axes.set_title(f"{curve.label}  (n = {curve.num_positives})", pad=20)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.05), xlabel="Recall", ylabel="Precision")
        if not curve.num_positives:
            axes.text(0.5, 0.5, "no positive test post", ha="center", color=INK)
            continue
        axes.axhline(curve.prevalence, color=GREY, linestyle=":", linewidth=1.4)
        axes.step(curve.recall, curve.precision, where="post", color=BLUE)
        axes.plot(
            *curve.point, marker="o", markersize=8, color=VERMILLION, markeredgecolor="white", clip_on=False, zorder=5
        )
        note = f"AP {curve.average_precision:.2f} · threshold {curve.threshold:.2f} · F1 {curve.f1:.2f}"
        axes.text(0, 1.035, note, transform=axes.transAxes, fontsize=9.5, color=INK)
    return figure


@rc_context(STYLE)
def importance_bars(importances: Mapping[str, Mapping[str, float]]) -> Figure:
    """How much of the spread of val macro F1 each hyperparameter explains, one panel an encoder."""
    names = {name for shares in importances.values() for name in shares}
    order = sorted(names, key=lambda p: (np.mean([shares.get(p, 0.0) for shares in importances.values()]), p))
    figure, panels = small_multiples(len(importances), 0.5 + 0.3 * len(order), sharex=True, sharey=True)
    for axes, (encoder, shares) in zip(panels, importances.items(), strict=False):
        rows = [row for row, name in enumerate(order) if name in shares]  # not all encoders have all of them
        bars = axes.barh(rows, [shares[order[row]] for row in rows], color=BLUE, height=0.62)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9, color=INK)
        axes.set_yticks(range(len(order)), [PARAMS[name] for name in order])
        axes.set(title=encoder, xlim=(0, 1.12))
        axes.grid(visible=False, axis="y")
    figure.supxlabel("Share of the spread of val macro F1", fontsize=10.5, color=INK)
    return figure


@rc_context(STYLE)
def learning_rates(trials: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Every finished trial: learning rate against val macro F1, one panel an encoder."""
    figure, panels = small_multiples(len(trials), 2.3, sharex=True, sharey=True)
    for axes, (encoder, (rates, scores)) in zip(panels, trials.items(), strict=False):
        axes.set_xscale("log")
        axes.plot(
            rates, scores, linestyle="none", marker="o", markersize=5, color=BLUE, alpha=0.55, markeredgecolor="white"
        )
        axes.set_title(encoder)
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-")))
        axes.xaxis.set_minor_formatter(NullFormatter())
    figure.supxlabel("Learning rate", fontsize=10.5, color=INK)
    figure.supylabel("Val macro F1", fontsize=10.5, color=INK)
    return figure


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)  # Agg whatever the session's default backend is
    return figure


def _grid(count: int) -> tuple[int, int]:
    """Columns and rows for ``count`` panels, at most three side by side."""
    columns = min(3, max(1, count))
    return columns, max(1, math.ceil(count / columns))


def small_multiples(count: int, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """Small multiples, of which those not needed are removed."""
    columns, rows = _grid(count)
    figure = _figure(height * rows + 0.3)
    panels = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for axes in panels[count:]:
        axes.remove()
    for axes in panels[max(0, count - columns) : count]:  # the lowest of each column names its ticks
        axes.tick_params(labelbottom=True)
    return figure, panels[:count]


def _or_zero(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else float(value)
