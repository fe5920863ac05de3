"""What nodes cost: a file that the user edits, with a price an hour for each type of node."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from emo import storage
from emo.config import CostConfig, UserError, chosen_nodes

LOCAL, HEAD = "local", "head"
"""The type of a node that has none, such as a laptop; and that of the node that holds a cluster together."""
FACTS = ("currency", "as_of", "source")
FIGURES = {"per_hour": "a price of an hour", "cpus": "the cores that Ray has there", "gpus": "its GPUs"}
HOUR = 3600.0


@dataclass(frozen=True)
class NodeType:
    """A type of node."""

    per_hour: float
    """In the currency of the file."""
    cpus: float
    """Those that Ray gives to tasks: 0 for a head that only holds the cluster together."""
    gpus: float


@dataclass(frozen=True)
class Prices:
    """What each type of node costs."""

    currency: str
    as_of: str
    """The date of the figures."""
    source: str
    nodes: dict[str, NodeType]

    def cost(self, node_seconds: Mapping[str, float]) -> float:
        """What nodes of these types have cost that ran for so long; those without a price count for nothing."""
        return sum(
            self.nodes[kind].per_hour * seconds / HOUR for kind, seconds in node_seconds.items() if kind in self.nodes
        )

    def without_price(self, node_seconds: Mapping[str, float]) -> list[str]:
        """The types of nodes whose price nobody knows."""
        return [kind for kind in node_seconds if kind not in self.nodes]


def read_prices(cost: CostConfig) -> Prices | None:
    """The file of ``--prices``, if one is named; a UserError says what is wrong with it, or that it lacks a type of
    ``--nodes``."""
    if cost.prices is None:
        return None
    prices = prices_of(_read(cost.prices), f"--prices {cost.prices}")
    for kind in chosen_nodes(cost.nodes):
        if kind not in prices.nodes:
            raise UserError(f"--nodes {kind}: --prices {cost.prices} has no such type, but {', '.join(prices.nodes)}.")
    return prices


def _read(uri: str) -> Any:
    try:
        return yaml.safe_load(storage.read_bytes(uri))
    except FileNotFoundError:
        raise UserError(f"--prices {uri}: there is no such file; cluster/prices/ has examples.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"--prices {uri} is no YAML: {said}") from None


def prices_of(content: Any, name: str) -> Prices:
    """What a price file says; a UserError, which calls the file by ``name``, where it has too much or too little."""
    known = (*FACTS, "nodes")
    _check_keys(content, known, name)
    nodes = content["nodes"]
    if not isinstance(nodes, dict) or not nodes:
        raise UserError(f"{name}: nodes has no types of nodes.")
    for kind, each in nodes.items():
        _check_keys(each, tuple(FIGURES), f"{name}: {kind}")
        for figure, meaning in FIGURES.items():
            value = each[figure]
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or value < 0:
                raise UserError(f"{name}: {kind} has {figure}: {value}, which is {meaning}: a number from 0 up.")
    types = {str(kind): NodeType(**{figure: float(each[figure]) for figure in FIGURES}) for kind, each in nodes.items()}
    return Prices(**{fact: str(content[fact]) for fact in FACTS}, nodes=types)


def _check_keys(content: Any, known: tuple[str, ...], name: str) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{name} has no {', '.join(known)}; cluster/prices/ has examples.")
    if missing := [key for key in known if key not in content]:
        raise UserError(f"{name} has no {missing[0]}.")
    if unknown := [str(key) for key in content if key not in known]:
        raise UserError(f"{name} has {unknown[0]}, which is none of {', '.join(known)}.")
