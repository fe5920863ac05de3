"""How much the cluster has room for, and whether it grows."""

import json
import os
from collections.abc import Mapping

import ray
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get

from emo.config import TRAINS_ENCODERS, SweepConfig, TrainingConfig, UserError

UNTOLD = 16.0
"""Cores, or GPUs, that a growing cluster is asked for where nobody tells how far it grows, which it does as long as any
work waits."""


def num_cpus() -> int:
    """The cores of the cluster as it is."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def has_other_nodes() -> bool:
    """Whether there are nodes beside this one, or will be."""
    return ray.is_initialized() and (sum(node["Alive"] for node in ray.nodes()) > 1 or grows())


def has_gpus() -> bool:
    """Whether there are GPUs, or the cluster is known to grow by some."""
    return max(ray.cluster_resources().get("GPU", 0), grows_to().get("GPU", 0)) >= 1


def capacity() -> dict[str, float]:
    """The cores and GPUs of the cluster: as it is or, where it grows, as it may become."""
    has = {name: ray.cluster_resources().get(name, 0.0) for name in ("CPU", "GPU")}
    if not grows():
        return has
    told = grows_to() or dict.fromkeys(has, UNTOLD)
    return {name: max(amount, told.get(name, 0.0)) for name, amount in has.items()}


def grows_to() -> dict[str, float]:
    """What EMO_GROWS_TO says of a cluster that grows, as in CPU=64,GPU=8, since Ray does not tell; empty without it."""
    told = os.environ.get("EMO_GROWS_TO", "") if grows() else ""
    try:
        return {name: float(amount) for name, amount in (each.split("=") for each in told.split(",") if each)}
    except ValueError:
        raise UserError(f"EMO_GROWS_TO is {told}; it must be as CPU=64,GPU=8.") from None


def grows() -> bool:
    """Whether the cluster adds nodes where tasks wait; how far, it does not tell.

    Ray's second autoscaler says that it is there; the first by the names that the types of nodes have in its reports.
    """
    if is_autoscaler_v2(fetch_from_server=True):
        return True
    status = json.loads(_internal_kv_get(b"__autoscaling_status") or b"{}")
    types = status.get("autoscaler_report", {}).get("active_nodes", {})
    return any(not name.startswith("node_") for name in types)


def of_trial(trials_per_gpu: int | None) -> dict[str, float]:
    """What a trial on cached features takes."""
    return {"CPU": 1.0} | ({} if trials_per_gpu is None else {"GPU": 1 / trials_per_gpu})


def of_worker(training: TrainingConfig) -> dict[str, float]:
    """What a Ray Train worker takes."""
    return {"CPU": float(training.cpus_per_worker)} | ({"GPU": 1.0} if on_gpus(training) else {})


def on_gpus(training: TrainingConfig) -> bool:
    return training.use_gpu == "yes" or (training.use_gpu == "auto" and has_gpus())


def trials_that_fit(trials_per_gpu: int | None) -> int:
    """How many trials on cached features run at once."""
    return _num_that_fit(of_trial(trials_per_gpu), capacity())


def trainings_that_fit(training: TrainingConfig) -> int:
    """How many trainings of encoders run at once, each with its fewest workers."""
    has = capacity()
    if on_gpus(training):  # what reads posts for GPUs takes a core of its own
        has["CPU"] = has.get("CPU", 0) - 1
    workers = training.num_workers[0]
    return _num_that_fit({name: workers * amount for name, amount in of_worker(training).items()}, has)


def _num_that_fit(each: Mapping[str, float], has: Mapping[str, float]) -> int:
    return max(0, int(min(has.get(name, 0) / amount for name, amount in each.items()) + 1e-6))


def require_room(config: SweepConfig) -> None:
    """A UserError where the cluster can never hold a trial, which would otherwise be waited for without end."""
    if config.training.use_gpu == "yes" and capacity()["GPU"] < 1:
        raise UserError("--use-gpu yes asks for GPUs, but the cluster has none; leave it out to compute on cores.")
    if grows():
        return
    cluster = ray.cluster_resources()
    has = f"the cluster has {cluster.get('CPU', 0):g} cores and {cluster.get('GPU', 0):g} GPUs"
    if config.mode in TRAINS_ENCODERS:
        training = config.training
        each = f"{training.cpus_per_worker} core{'s' if training.cpus_per_worker > 1 else ''}"
        each += " and a GPU" if on_gpus(training) else ""
        if not trainings_that_fit(training):
            raise UserError(
                f"--num-workers {training.num_workers[0]} asks for {each} for each worker, but {has}; ask for fewer "
                "workers, or for fewer cores for each with --cpus-per-worker."
            )
    elif not trials_that_fit(config.trials_per_gpu):
        each = "a core" if config.trials_per_gpu is None else "a core and, with --trials-per-gpu, a GPU"
        raise UserError(f"A trial takes {each}, but {has}.")
