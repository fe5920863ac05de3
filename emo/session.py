"""Joining the cluster that a job runs in, or starting Ray on this machine; and keeping libraries quiet."""

import errno
import logging
import os
import socket
import sys
import threading
import time
import warnings
from typing import Any

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Read by the libraries at import, so set before them, and handed on to the workers."""


PROMPT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25"}
"""Ray Train takes reports so often (in seconds; else 2), and workers wait for that at the end of every epoch."""

SHOWN = {"RAY_TRAIN_ENABLE_STATE_TRACKING": "1"}
"""For a cluster that is joined: its dashboard lists trainings, for which Ray Train keeps an actor."""

LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
}
"""For a Ray that is started here: the first makes every one of its servers bind to 127.0.0.1 (its name tells where Ray
needed that, not what it does: it stands for "one node only" on any system); the second keeps its token required; the
third keeps processes for the next epoch's tasks, which would else import everything anew after a second's pause."""


WATCH_SECONDS, MAX_SILENT, MAX_GONE = 2.0, 2, 5
"""How often, and how long, Ray is asked whether it is there; how many times in vain, of the head and of this node."""
NOBODY = (errno.ECONNREFUSED, errno.ENOENT)


def prepare_environment() -> None:
    """Set what libraries read at import; what the user has set stays."""
    for name, value in (QUIET | PROMPT | (SHOWN if "RAY_ADDRESS" in os.environ else LOCAL)).items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)


def silence_native_code() -> None:
    """Send what C++ code writes to standard error nowhere; Python's own standard error stays as it is."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def start_ray(*, verbose: bool = False, dashboard: bool = False) -> None:
    """Join the cluster named by RAY_ADDRESS, as inside a submitted job, or start Ray here, on loopback only.

    Ray's dashboard holds the state of the cluster, which Ray Train asks for when Tune stops a training.
    """
    import ray

    from emo.joining import check_versions, joining

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    if address != "local":
        check_versions()
    with joining(address):
        ray.init(
            address=address,
            include_dashboard=dashboard if address == "local" else None,
            runtime_env={"env_vars": ({} if verbose else QUIET) | ({} if address == "local" else SHOWN)},
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
        )
    silence_data(verbose)
    node = ray._private.worker.global_worker.node
    assert node
    addresses = ray.get_runtime_context().gcs_address, node.raylet_socket_name
    threading.Thread(target=watch_ray, args=addresses, daemon=True).start()


def watch_ray(gcs_address: str, raylet_socket: str) -> None:
    """Say so when Ray's head is gone, without which this process may last for a while, and when it is back; end with a
    sentence where this node's Ray is gone, since nothing that is waited for would ever come."""
    import ray

    from emo.console import warn

    host, _, port = gcs_address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    head_silent = node_silent = 0
    while True:
        time.sleep(WATCH_SECONDS)
        if not ray.is_initialized():
            return
        # a node that is busy still queues who asks; where it is gone, nobody listens at all
        node_silent = node_silent + 1 if _asked(socket.AF_UNIX, raylet_socket) in NOBODY else 0
        if node_silent == MAX_GONE:
            warn("Ray on this node is gone, and this job ends; it can be gone on with by --resume")
            os._exit(2)  # whatever would be tidied up needs Ray
        if _asked(family, (host.strip("[]"), int(port))) == 0:
            if head_silent >= MAX_SILENT:
                warn("Ray's head is back")
            head_silent = 0
        else:
            head_silent += 1
            if head_silent == MAX_SILENT:
                warn("Ray's head is gone; unless it comes back, this job ends, and can be gone on with by --resume")


def _asked(family: int, address: Any) -> int:
    """The error number of a connection, 0 where it comes about."""
    with socket.socket(family) as asking:
        asking.settimeout(WATCH_SECONDS)
        return asking.connect_ex(address)


def silence_data(verbose: bool) -> None:
    """Ray Data speaks through its own logger and progress bars, which log_to_driver does not govern."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    context.print_on_execution_start = False
    if not verbose:
        for name in ("ray.data", "ray.train", "ray.air"):
            logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # how trials end is ours to tell
