"""What a sweep will take, from how long pieces of it took: arithmetic, and how it is said."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from emo.config import SearchSpace
from emo.console import duration
from emo.cost.prices import HEAD, HOUR, Prices

Z = 1.96
"""Standard errors of a 95 % interval."""
RANDOM_TRIALS = 10
"""Optuna draws so many trials of a study at random, before it turns to what was good."""
TUNE_SECONDS = 0.05
"""What Tune takes for a trial beside the trial itself."""


@dataclass(frozen=True)
class Group:
    """Nodes of one type."""

    kind: str
    count: int
    cpus: float
    gpus: float
    """Of each."""


@dataclass(frozen=True)
class Fleet:
    """The nodes that a sweep runs on."""

    groups: tuple[Group, ...]

    @property
    def cpus(self) -> float:
        return sum(group.count * group.cpus for group in self.groups)

    @property
    def gpus(self) -> float:
        return sum(group.count * group.gpus for group in self.groups)

    def slots(self, each: Mapping[str, float]) -> int:
        """How many tasks that take so much run at once, none across two nodes; at least 1."""
        room = (
            group.count
            * int(min({"CPU": group.cpus, "GPU": group.gpus}[name] / amount for name, amount in each.items()))
            for group in self.groups
        )
        return max(1, sum(room))

    def teams(self, each: Mapping[str, float]) -> int:
        """The same for what may lie on several nodes."""
        has = {"CPU": self.cpus, "GPU": self.gpus}
        return max(1, int(min(has[name] / amount for name, amount in each.items())))


def fleet_of(prices: Prices, nodes: Mapping[str, int]) -> Fleet:
    """The nodes that were named, all of them types of the prices, with a head where these have one."""
    counts = {HEAD: 1} | dict(nodes) if HEAD in prices.nodes else dict(nodes)
    types = prices.nodes
    return Fleet(tuple(Group(kind, number, types[kind].cpus, types[kind].gpus) for kind, number in counts.items()))


@dataclass(frozen=True)
class Stage:
    """A part of the sweep."""

    name: str
    seconds: float
    """By the clock, on the nodes that it will run on."""
    sd: float
    """Its standard error."""


@dataclass(frozen=True)
class Estimate:
    """What a sweep will take."""

    nodes: dict[str, int]
    """How many of each type."""
    cpus: float
    gpus: float
    """Of all of them."""
    stages: dict[str, float]
    """Seconds of each part."""
    seconds: tuple[float, float, float]
    """By the clock: the low end of the 95 % interval, the expected, and the high end."""
    because: tuple[str, ...]
    """What it rests on, and what is not in it."""

    def node_seconds(self) -> list[dict[str, float]]:
        """Seconds by type of node, for each of the three."""
        return [{kind: count * seconds for kind, count in self.nodes.items()} for seconds in self.seconds]


def estimate_of(fleet: Fleet, stages: Sequence[Stage], because: Iterable[str]) -> Estimate:
    """All stages one after the other. Their errors are independent, and the interval is one of factors: no sweep takes
    less than nothing."""
    total, sd = sum(stage.seconds for stage in stages), math.hypot(*(stage.sd for stage in stages))
    factor = math.exp(Z * sd / total) if total else 1.0
    return Estimate(
        nodes={group.kind: group.count for group in fleet.groups},
        cpus=fleet.cpus,
        gpus=fleet.gpus,
        stages={stage.name: stage.seconds for stage in stages},
        seconds=(total / factor, total, total * factor),
        because=tuple(because),
    )


def drift(space: SearchSpace) -> float:
    """The standard deviation of a trial's seconds between batch sizes, by their mean: a search settles on one of them,
    nobody knows on which."""
    steps = 1 / np.array(space.batch_size)
    return float(steps.std() / steps.mean())


def of_trials(
    drawn: Mapping[str, Sequence[float]], owed: Mapping[str, int], slots: int, drift: float, epochs_error: float
) -> Stage:
    """The trials that each encoder is owed, ``slots`` of them at once.

    ``drawn`` has the seconds of some trials of each encoder, at least two. Their errors: how much single trials differ,
    alike for all encoders by their mean; where a search drifts to, of each encoder by itself; and the relative error
    that all drawn trials share, as none of them ran to its end.
    """
    means = {encoder: float(np.mean(seconds)) for encoder, seconds in drawn.items()}
    freedom = sum(len(seconds) - 1 for seconds in drawn.values())
    residuals = [second / means[encoder] - 1 for encoder, seconds in drawn.items() for second in seconds]
    spread = math.sqrt(sum(each**2 for each in residuals) / freedom) * stats.t.ppf(0.975, freedom) / Z
    work = {encoder: owed[encoder] * means[encoder] for encoder in owed if owed[encoder]}
    variance = 0.0
    for encoder, seconds in work.items():
        number = owed[encoder]
        searched = max(0, number - RANDOM_TRIALS) / number
        variance += (seconds * spread) ** 2 * (1 / len(drawn[encoder]) + 1 / number) + (seconds * searched * drift) ** 2
    total, number = sum(work.values()), sum(owed.values())
    last = (1 - 1 / slots) * total / max(1, number)  # while it runs, other slots are empty
    sd = math.hypot(math.sqrt(variance), epochs_error * total) / slots
    return Stage("trials", (total + TUNE_SECONDS * number) / slots + last, sd)


def of_posts(num_posts: float, rates: Sequence[float], start: float, actors: int) -> tuple[float, float]:
    """Seconds that posts take on so many actors, and the standard error; ``rates`` are seconds of a post in several
    batches."""
    mean, seconds = float(np.mean(rates)), num_posts * float(np.mean(rates)) / actors
    if len(rates) < 2:
        return start + seconds, seconds / 2
    wide = stats.t.ppf(0.975, len(rates) - 1) / Z
    return start + seconds, seconds * float(np.std(rates, ddof=1)) / mean / math.sqrt(len(rates)) * wide


def epochs_between(low: float, high: float) -> tuple[float, float]:
    """The expected number of epochs where all that is known is that it lies between two, and its relative error."""
    mean = (low + high) / 2
    return mean, (high - low) / math.sqrt(12) / mean


def halved(max_epochs: int, grace: int, reduction: int) -> float:
    """The mean epochs of trials of which at each rung only the best of so many go on."""
    total, epochs, share = 0.0, 0, 1.0
    rung = grace
    while epochs < max_epochs:
        stop = min(rung, max_epochs)
        total += share * (stop - epochs)
        epochs, rung, share = stop, rung * reduction, share / reduction
    return total


def owed_trials(total: int, each: int, ended: Mapping[str, int]) -> dict[str, int]:
    """How many trials each encoder is still owed: what is left of its own ``each``, and a share of those that go to
    whichever is best."""
    own = {encoder: max(0, each - number) for encoder, number in ended.items()}
    left = max(0, total - sum(ended.values()))
    free, names = left - sum(own.values()), list(own)
    return {
        name: max(0, own[name] + (free * (i + 1)) // len(names) - (free * i) // len(names))
        for i, name in enumerate(names)
    }


def facts(estimate: Estimate | None, prices: Prices | None) -> list[tuple[str, str]]:
    """An estimate as the plan has it; nothing without one."""
    if estimate is None:
        return []
    low, mid, high = estimate.seconds
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in estimate.stages.items())
    lines = [
        ("estimate", f"{duration(mid)} (95 %: {duration(low)} to {duration(high)}) on {on_nodes(estimate)}"),
        ("of that", parts),
        ("hours", f"{_hours(estimate, estimate.cpus)} core-hours, {_hours(estimate, estimate.gpus)} GPU-hours"),
    ]
    if prices:
        lines.append(("money", _money(estimate, prices)))
    return [*lines, ("rests on", "; ".join(estimate.because))]


def on_nodes(estimate: Estimate) -> str:
    """As in ``4 gpu-small-spot and 1 head: 16 cores, 4 GPUs``."""
    nodes = " and ".join(f"{count} {kind}" for kind, count in estimate.nodes.items())
    gpus = f", {estimate.gpus:g} GPUs" if estimate.gpus else ""
    return f"{nodes}: {estimate.cpus:g} cores{gpus}"


def _hours(estimate: Estimate, number: float) -> str:
    low, mid, high = (seconds * number / HOUR for seconds in estimate.seconds)
    return f"{mid:.2g} ({low:.2g} to {high:.2g})" if number else "0"


def _money(estimate: Estimate, prices: Prices) -> str:
    low, mid, high = (prices.cost(each) for each in estimate.node_seconds())
    lacking = " and ".join(prices.without_price(estimate.nodes))
    if not any(kind in prices.nodes for kind in estimate.nodes):
        return f"not known: --prices has no price of {lacking}; --nodes tells which cluster is to be reckoned"
    but = f", without {lacking}, which --prices lacks" if lacking else ""
    return f"{mid:.2f} {prices.currency} ({low:.2f} to {high:.2f}){but}, by prices of {prices.as_of}"
