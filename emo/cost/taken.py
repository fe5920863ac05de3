"""What a run took, from its ``cost.json``, beside what it was estimated to take: values in, values and words out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from emo.console import duration
from emo.cost.prices import HOUR, Prices, prices_of

FILE, MONEY = "cost.json", "Money"
Content = Mapping[str, Any]
"""As :meth:`emo.cost.meter.Meter.content` gives it."""


@dataclass(frozen=True)
class Line:
    """One quantity, as the report shows it."""

    name: str
    taken: str
    """By the whole run."""
    since: str
    """Of that, since the run was estimated."""
    estimated: str
    within: bool | None
    """Whether that lies in the interval of the estimate; None without one."""


def table(content: Content) -> list[Line]:
    """Time, hours of cores and GPUs, hours of each type of node, and money where there are prices."""
    usage, before, estimate = content["usage"], content["before"], content["estimate"]
    prices, nodes = prices_in(content), estimate["nodes"] if estimate else {}

    def line(name: str, of: Callable[[Content], float], a_second: float, shown: Callable[[float], str]) -> Line:
        """``a_second`` is what the estimated nodes take of it in a second."""
        taken = of(usage)
        if not estimate:
            return Line(name, shown(taken), "–", "–", None)
        since, (low, mid, high) = taken - of(before), (a_second * seconds for seconds in estimate["seconds"])
        expected = f"{shown(mid)} ({shown(low)} to {shown(high)})" if high else shown(high)
        return Line(name, shown(taken), shown(since), expected, low <= since <= high)

    found = [
        line("Wall time", lambda of: of["seconds"], 1.0, duration),
        line("Core-hours", lambda of: of["core_seconds"], estimate["cpus"] if estimate else 0.0, hours),
        line("GPU-hours", lambda of: of["gpu_seconds"], estimate["gpus"] if estimate else 0.0, hours),
    ]
    found += [
        line(f"Node-hours, {kind}", partial(_of_kind, kind), nodes.get(kind, 0.0), hours)
        for kind in {**usage["node_seconds"], **nodes}
    ]
    if prices and any(kind in prices.nodes for kind in usage["node_seconds"]):
        cost, currency = prices.cost, prices.currency
        found += [
            line(MONEY, lambda of: cost(of["node_seconds"]), cost(nodes), lambda value: f"{value:.2f} {currency}")
        ]
    return found


def _of_kind(kind: str, usage: Content) -> float:
    return usage["node_seconds"].get(kind, 0.0)


def remarks(content: Content) -> list[str]:
    """What is to be known about the table."""
    usage, estimate, prices = content["usage"], content["estimate"], prices_in(content)
    said = []
    if usage["core_seconds"]:
        said.append(f"{100 * usage['used_core_seconds'] / usage['core_seconds']:.0f} % of the core-hours were in use")
    if usage["gpu_seconds"]:
        said.append(f"{100 * usage['used_gpu_seconds'] / usage['gpu_seconds']:.0f} % of the GPU-hours were in use")
    if prices:
        said.append(f"prices of {prices.as_of}: {prices.source}")
        if lacking := prices.without_price(usage["node_seconds"]):
            said.append(f"no price is known of {' and '.join(lacking)}")
    return [*said, *(f"estimate: {each}" for each in (estimate["because"] if estimate else []))]


def one_line(content: Content) -> str:
    """As the console says it at the end."""
    wall, cores, gpus, *rest = table(content)
    money = [line.taken for line in rest if line.name == MONEY]
    taken = ", ".join([f"{cores.taken} core-hours", f"{gpus.taken} GPU-hours", *money])
    return taken if wall.within is None else f"{taken}; {wall.since} since the estimate of {wall.estimated}"


def prices_in(content: Content) -> Prices | None:
    return prices_of(content["prices"], FILE) if content["prices"] else None


def hours(seconds: float) -> str:
    return f"{seconds / HOUR:.3g}"
