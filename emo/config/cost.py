"""What a sweep is told about its cost."""

from dataclasses import dataclass
from typing import Literal

from emo.config.base import UserError

EstimateWish = Literal["yes", "no", "only"]


@dataclass(frozen=True, kw_only=True)
class CostConfig:
    """What nodes cost, and what is estimated before the start."""

    prices: str | None = None
    """What each type of node costs an hour, as in cluster/prices/aws.yaml; without it, hours are told and no money."""
    nodes: tuple[str, ...] = ()
    """The cluster that the estimate is for, by the types of --prices, as in gpu-small-spot=4 cpu=2; a head is added
    where the prices have one. Without it, the nodes that there are as the sweep starts."""
    estimate: EstimateWish = "yes"
    """yes measures for some seconds how fast this cluster is, and says what the sweep will take; no does not; only does
    so and stops before the sweep starts."""

    def __post_init__(self) -> None:
        chosen_nodes(self.nodes)
        if self.nodes and self.prices is None:
            raise UserError(
                "--nodes names types of nodes, whose cores and GPUs --prices knows; name that file too, as in "
                "--prices cluster/prices/aws.yaml."
            )


def chosen_nodes(named: tuple[str, ...]) -> dict[str, int]:
    """How many nodes of each type ``--nodes`` names; a UserError where one is not of the form type=number."""
    found: dict[str, int] = {}
    for each in named:
        kind, _, number = each.rpartition("=")
        if not kind or not number.isdecimal() or int(number) < 1:
            raise UserError(f"--nodes {each} is no type with its number; write it as in gpu-small-spot=4.")
        if kind in found:
            raise UserError(f"--nodes names {kind} twice; add its numbers up.")
        found[kind] = int(number)
    return found
