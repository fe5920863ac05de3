"""The reliability diagram: plain values in, a Matplotlib figure out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.figure import Figure

from emo.figures import BLUE, GREEN, GREY, ORANGE, STYLE, small_multiples
from emo.reliability import Bins

COLOURS = {"Raw": BLUE, "Temperature": ORANGE, "Isotonic": GREEN}


@dataclass(frozen=True)
class Reliability:
    """One panel: the bins of probs of each kind."""

    title: str
    bins: Mapping[str, Bins]


@rc_context(STYLE)
def reliability_diagram(curves: Sequence[Reliability]) -> Figure:
    """The share of positives over the mean prob, one panel all labels and one each label; the diagonal is what it
    should be (DeGroot and Fienberg, 1983)."""
    figure, panels = small_multiples(len(curves), 3.1)
    for axes, curve in zip(panels, curves, strict=True):
        highest = max(value for bins in curve.bins.values() for value in (*bins.prob, *bins.share))
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.4)
        for kind, bins in curve.bins.items():
            axes.plot(bins.prob, bins.share, color=COLOURS[kind], label=kind, marker="o", markersize=3.5, alpha=0.9)
        axes.set_title(curve.title)
        limits = (-0.03 * highest, 1.06 * highest)
        axes.set(xlim=limits, ylim=limits, xlabel="Mean probability", ylabel="Share of positives", aspect="equal")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(names))
    return figure
