"""Whose turn it is: which encoder the next trial of a sweep goes to."""

import math
from collections.abc import Collection, Sequence

from emo.config import Round

Values = dict[str, list[float | None]]
"""For each encoder what its trials reached on val, in the order in which they were given out: None while one runs, and
minus infinity where it came to nothing."""


class SweepOver(Exception):
    """No trial is left to give out."""


def next_turn(
    values: Values, rounds: Sequence[Round], top: int, given_up: Collection[str] = ()
) -> tuple[str, Round] | None:
    """The encoder that had the fewest trials of those in the round; None while the next round waits for the last ones.

    A SweepOver where every round is spent. It follows from the trials alone, so a sweep that was killed goes on alike.
    """
    names = [name for name in values if name not in given_up]
    so_far = 0
    for each in rounds:
        if so_far and any(value is None for name in names for value in values[name][:so_far]):
            return None
        if len(names) > each.num_encoders:
            names = best(names, values, so_far, top)[: each.num_encoders]
        open_names = [name for name in names if len(values[name]) < each.trials]
        if open_names:
            return min(open_names, key=lambda name: len(values[name])), each
        so_far = each.trials
    raise SweepOver


def best(names: list[str], values: Values, so_far: int, top: int) -> list[str]:
    """The encoders by the mean of the best ``top`` of their first trials, the highest first, as the leaderboard has it;
    those that have none come last."""

    def mean(name: str) -> float:
        reached = sorted((value for value in values[name][:so_far] if value is not None), reverse=True)[:top]
        finite = [value for value in reached if math.isfinite(value)]
        return sum(finite) / len(finite) if finite else -math.inf

    return sorted(names, key=lambda name: -mean(name))
