"""Two ways to do the same, timed in turn, and the line that says how they compare."""

import statistics
import time
from collections.abc import Callable
from typing import Any


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(*ways: Callable[[], Any], rounds: int = 3) -> list[list[float]]:
    """Seconds of each way in every round: one after the other, so that what else the machine does falls on all."""
    times = [[seconds(way) for way in ways] for _ in range(rounds)]
    return [list(each) for each in zip(*times, strict=True)]


def per_second(count: int, times: list[float]) -> float:
    """What the median run does in a second."""
    return count / statistics.median(times)


def show(name: str, ours: float, reference: float, unit: str, limit: str = "none", *, inverse: bool = False) -> float:
    """Print the line; returns ours / reference, or the ``inverse``: how often ours goes into the reference."""
    ratio = reference / ours if inverse else ours / reference
    print(f"{name}: ours {ours:.4g} {unit}, reference {reference:.4g} {unit}, ratio {ratio:.2f} (limit {limit})")
    return ratio
