"""What a sweep takes: for how long which nodes were there for it, and what that costs.

The nodes are counted while the driver runs, and the count is in the run's folder, so that a sweep that was killed goes
on counting. What a cloud bills before Ray runs on a node, and after the sweep has let it go, is not among it.
"""

import contextlib
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.core.generated import autoscaler_pb2

from emo import storage
from emo.config import from_dict
from emo.cost.estimate import Estimate
from emo.cost.prices import HEAD, HOUR, LOCAL, Prices, prices_of
from emo.cost.taken import FILE
from emo.monitoring import run_name, set_gauge

SAMPLE_SECONDS = 2.0
"""A node's coming and going is seen so late."""
WRITE_SECONDS = 30.0
"""A kill loses at most so much of the count."""
NODE_GROUP = "ray.io/node-group"
"""The label of a node's type."""


@dataclass(frozen=True)
class Node:
    """A node of the cluster."""

    kind: str
    """Its type, as the cluster's file names it."""
    cpus: float
    gpus: float
    used_cpus: float = 0.0
    used_gpus: float = 0.0
    """What its tasks and actors have reserved."""


def nodes_now() -> list[Node]:
    """The nodes that are alive."""
    worker: Any = ray._private.worker.global_worker
    dead = autoscaler_pb2.NodeStatus.Value("DEAD")  # type: ignore[attr-defined]
    states = get_cluster_resource_state(worker.gcs_client).node_states
    return [_node(state) for state in states if state.status != dead]


def _node(state: Any) -> Node:
    total, free = state.total_resources, state.available_resources
    kind = state.ray_node_type_name or state.labels.get(NODE_GROUP, "") or LOCAL
    return Node(
        kind=HEAD if kind == "headgroup" else kind,  # KubeRay's name for it
        cpus=total.get("CPU", 0.0),
        gpus=total.get("GPU", 0.0),
        used_cpus=total.get("CPU", 0.0) - free.get("CPU", 0.0),
        used_gpus=total.get("GPU", 0.0) - free.get("GPU", 0.0),
    )


@dataclass
class Usage:
    """Seconds that went by, and of what there was meanwhile."""

    seconds: float = 0.0
    node_seconds: dict[str, float] = field(default_factory=dict)
    """By the type of node."""
    core_seconds: float = 0.0
    gpu_seconds: float = 0.0
    used_core_seconds: float = 0.0
    used_gpu_seconds: float = 0.0

    def add(self, nodes: Iterable[Node], seconds: float) -> None:
        """Count nodes that were there for so many seconds more."""
        self.seconds += seconds
        for node in nodes:
            self.node_seconds[node.kind] = self.node_seconds.get(node.kind, 0.0) + seconds
            self.core_seconds += seconds * node.cpus
            self.gpu_seconds += seconds * node.gpus
            self.used_core_seconds += seconds * node.used_cpus
            self.used_gpu_seconds += seconds * node.used_gpus

    def since(self, before: "Usage") -> "Usage":
        """What came after ``before``, an earlier count of the same run."""
        return self._with(before, -1.0)

    def plus(self, more: "Usage") -> "Usage":
        return self._with(more, 1.0)

    def _with(self, other: "Usage", sign: float) -> "Usage":
        mine, its = self.node_seconds, other.node_seconds
        kinds = {kind: mine.get(kind, 0.0) + sign * its.get(kind, 0.0) for kind in {**mine, **its}}
        names = [name for name in asdict(self) if name != "node_seconds"]
        rest = {name: getattr(self, name) + sign * getattr(other, name) for name in names}
        return Usage(node_seconds=kinds, **rest)


class Meter:
    """Counts the cluster's nodes from its start until it is closed; in a run's folder from :meth:`keep_in` on."""

    def __init__(self, prices: Prices | None) -> None:
        self.prices, self.run = prices, ""
        self.usage = Usage()
        self.estimate: Estimate | None = None
        self.before: Usage | None = None
        """What the run had taken as it was estimated."""
        self.last_sample = self.last_write = time.monotonic()
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Meter":
        self.thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stopping.set()
        self.thread.join()
        with contextlib.suppress(Exception):  # of what ended the sweep, which is to be told
            self.write()

    def keep_estimate(self, estimate: Estimate | None) -> None:
        """Note what the rest of the run is estimated to take."""
        with self.lock:
            self._sample()
            if estimate:
                self.estimate, self.before = estimate, self.usage.plus(Usage())

    def keep_in(self, run: str) -> None:
        """Write into a run's folder from now on, and go on with what is there; of several estimates the first is kept,
        which was that of the whole run."""
        uri = storage.join(run, FILE)
        with self.lock:
            if storage.exists(uri):
                known = storage.read_json(uri)
                usage = Usage(**known["usage"])
                self.usage, self.before = usage.plus(self.usage), self.before and usage.plus(self.before)
                if known["estimate"]:
                    self.estimate, self.before = from_dict(Estimate, known["estimate"]), Usage(**known["before"])
                if self.prices is None and known["prices"]:
                    self.prices = prices_of(known["prices"], uri)
            self.run = run
        self.write()

    def write(self) -> None:
        """Count up to now, and write it down."""
        with self.lock:
            self._sample()
            if self.run:
                storage.write_json(storage.join(self.run, FILE), self.content())
                self.last_write = time.monotonic()

    def content(self) -> dict[str, Any]:
        """What ``cost.json`` holds."""
        return {
            "usage": asdict(self.usage),
            "prices": self.prices and asdict(self.prices),
            "estimate": self.estimate and asdict(self.estimate),
            "before": self.before and asdict(self.before),
        }

    def _watch(self) -> None:
        while not self.stopping.wait(SAMPLE_SECONDS):
            with contextlib.suppress(Exception):  # a head or a store that is away; the next time counts for both
                if time.monotonic() - self.last_write >= WRITE_SECONDS:
                    self.write()
                else:
                    with self.lock:
                        self._sample()

    def _sample(self) -> None:
        nodes, now = nodes_now(), time.monotonic()
        self.usage.add(nodes, now - self.last_sample)
        self.last_sample = now
        if self.run:
            self._measure()

    def _measure(self) -> None:
        """Tell Prometheus."""
        name = run_name(self.run)
        for kind, seconds in self.usage.node_seconds.items():
            set_gauge("emo_node_hours", seconds / HOUR, run=name, node_type=kind)
        if self.prices and any(kind in self.prices.nodes for kind in self.usage.node_seconds):
            cost = self.prices.cost(self.usage.node_seconds)
            set_gauge("emo_cost", cost, run=name, currency=self.prices.currency)
