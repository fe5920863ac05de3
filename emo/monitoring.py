"""Figures of our own among Ray's metrics, which every node serves to Prometheus on its metrics port.

The driver sets them, since it knows them exactly: what a worker counted is lost where it ends before its next report,
and counted twice where its task is repeated. Ray reports every 10 s, and drops a process's gauges 20 s after its end.
Where Ray collects no metrics, nothing happens.
"""

import functools
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

import ray
from ray.util import metrics

STATUSES = ("running", "done", "failed", "pruned")


class Meaning(NamedTuple):
    """What a metric says."""

    kind: type[metrics.Gauge] | type[metrics.Counter]
    description: str
    labels: tuple[str, ...]


METRICS = {
    "emo_trials": Meaning(
        metrics.Gauge, "Trials that are running, done, failed or pruned", ("run", "encoder", "status")
    ),
    "emo_trials_planned": Meaning(metrics.Gauge, "Trials that the whole sweep will have", ("run",)),
    "emo_best_val_macro_f1": Meaning(metrics.Gauge, "The best val macro F1 of any trial so far", ("run", "encoder")),
    "emo_cost": Meaning(metrics.Gauge, "Money that the nodes have cost so far", ("run", "currency")),
    "emo_node_hours": Meaning(metrics.Gauge, "Hours that nodes have run for the sweep", ("run", "node_type")),
    "emo_posts_read_total": Meaning(metrics.Counter, "Rows of raw corpora that were read and cleaned", ()),
    "emo_posts_prepared_total": Meaning(metrics.Counter, "Posts that became prepared posts", ()),
    "emo_posts_rejected_total": Meaning(metrics.Counter, "Rows that were set aside as rejects", ()),
    "emo_posts_embedded_total": Meaning(
        metrics.Counter, "Posts that passed through an encoder's branch", ("checkpoint", "modality")
    ),
}
"""Every metric; Ray puts ``ray_`` before its name, and labels of its own beside these (SessionName, NodeAddress)."""


@functools.cache
def _metric(name: str) -> metrics.Metric:
    """A metric of this process; Ray wants each made once."""
    kind, description, labels = METRICS[name]
    return kind(name, description, labels)


def set_gauge(name: str, value: float, **labels: str) -> None:
    _metric(name).set(value, labels)  # type: ignore[attr-defined]


def count(name: str, number: int, **labels: str) -> None:
    """Raise a counter by a number of at least 0."""
    if number:  # Ray refuses to raise by nothing
        _metric(name).inc(number, labels)  # type: ignore[attr-defined]


class SweepMetrics:
    """How a sweep stands, for each of its encoders. It can be pickled, and costs microseconds."""

    def __init__(self, run: str, encoders: Sequence[str]) -> None:
        """``run`` is the run's folder, whose last part names it."""
        self.run, self.encoders = run_name(run), list(encoders)

    def update(self, counts: dict[str, dict[str, int]], best: dict[str, float | None], planned: int) -> None:
        """Say how many trials of each encoder have each of STATUSES, its best val macro F1, and how many trials there
        will be in all; an encoder or a status that is not named has none."""
        set_gauge("emo_trials_planned", planned, run=self.run)
        for encoder in self.encoders:
            for status in STATUSES:
                number = counts.get(encoder, {}).get(status, 0)
                set_gauge("emo_trials", number, run=self.run, encoder=encoder, status=status)
            if (value := best.get(encoder)) is not None:
                set_gauge("emo_best_val_macro_f1", value, run=self.run, encoder=encoder)


def run_name(run: str) -> str:
    """A run as metrics and trackers name it: the last part of its folder, on whatever store that is."""
    return urllib.parse.urlsplit(run).path.rstrip("/").rpartition("/")[2]


def metrics_address() -> str | None:
    """Where this process's metrics are served; None where Ray collects none."""
    here = ray.get_runtime_context().get_node_id()
    (node,) = (node for node in ray.nodes() if node["NodeID"] == here)
    port = node["MetricsExportPort"]
    return f"http://{node['NodeManagerAddress']}:{port}/metrics" if port > 0 else None
