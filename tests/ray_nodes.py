"""Ray's head, and nodes that join it, as processes on this machine with resources that are only numbers.

All listens on loopback and wants a token of its own. ``ray stop``, which ends every Ray on the machine, is never run.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from kills import kill_tree

from cluster.local import free_ports
from emo.session import LOCAL, QUIET

RAY = Path(sys.executable).with_name("ray")
ATTEMPTS = 4
OBJECT_STORE = 100_000_000
"""Bytes that each node holds of objects."""


@dataclass(frozen=True)
class Head:
    """A running head without cores."""

    address: str
    environment: dict[str, str]
    """For processes that shall join it, or talk to it."""
    process: subprocess.Popen
    folder: Path
    """For what is known of its nodes: their logs."""
    dashboard: str
    """Host and port, where it has one."""
    start_again: Callable[[], subprocess.Popen]
    """Starts it where it was, as a supervisor does once it is gone."""


@contextlib.contextmanager
def started_head(
    folder: Path, environment: Mapping[str, str], flags: Callable[[str], list[str]], *, dashboard: bool = False
) -> Iterator[Head]:
    """A head with an environment, and the flags that a function makes of its address, beside those that it needs."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    port, client, listen, grpc, metrics, autoscaler, watch, web = free_ports(8)
    address = f"127.0.0.1:{port}"
    joining = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    joining |= QUIET | LOCAL | {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_ADDRESS": address}
    joining["RAY_metrics_report_interval_ms"] = os.environ["RAY_metrics_report_interval_ms"]  # noqa: SIM112
    own = {"AUTOSCALER_METRIC_PORT": str(autoscaler), "DASHBOARD_METRIC_PORT": str(watch)}
    command = [RAY, "start", "--head", "--block", f"--port={port}", f"--ray-client-server-port={client}"]
    command += [
        "--num-cpus=0",
        "--num-gpus=0",
        f"--include-dashboard={str(dashboard).lower()}",
        f"--dashboard-port={web}",
    ]
    command += [f"--dashboard-agent-listen-port={listen}", f"--dashboard-agent-grpc-port={grpc}"]
    command += [f"--metrics-export-port={metrics}", f"--object-store-memory={2 * OBJECT_STORE}", *flags(address)]
    # Paths of sockets may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="cloud-", ignore_cleanup_errors=True) as sockets:
        processes: list[subprocess.Popen] = []

        def start() -> subprocess.Popen:
            # a node of its own on this machine would pass for a head that runs
            Path(sockets, "ray_current_cluster").unlink(missing_ok=True)
            command_here = [*command, f"--temp-dir={sockets}"]
            processes.append(ray_started(command_here, joining | own | environment, folder / "head.log"))
            return processes[-1]

        try:
            yield Head(address, joining, start(), folder, f"127.0.0.1:{web}", start)
        finally:
            for process in processes:
                end(process)
            shutil.copytree(f"{sockets}/session_latest/logs", folder / "logs", ignore_dangling_symlinks=True)


def joined_node(
    head: Head, name: str, node_type: str, resources: Mapping[str, float], labels: Mapping[str, str]
) -> subprocess.Popen:
    """A node that Ray's autoscaler takes for an instance of its own; two started at once would fight for one socket."""
    environment = head.environment | {
        "RAY_CLOUD_INSTANCE_ID": name,
        "RAY_NODE_TYPE_NAME": node_type,
        "RAY_OVERRIDE_RESOURCES": json.dumps(dict(resources)),
        "RAY_OVERRIDE_LABELS": json.dumps(dict(labels)),
    }
    command = [sys.executable, Path(__file__).with_name("join_cluster.py"), head.address, OBJECT_STORE]
    return ray_started(command, environment, head.folder / f"{name}.log")


def ray_started(command: list[Any], environment: Mapping[str, str], log: Path) -> subprocess.Popen:
    """A process in which Ray runs; tried again, since Ray gives up after 30 s, and a busy machine may take longer."""
    environment = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    for _ in range(ATTEMPTS):
        with log.open("w") as file:
            process = subprocess.Popen(
                list(map(str, command)), env=environment, stdout=file, stderr=file, start_new_session=True
            )
        while process.poll() is None:
            if "Ray runtime started" in log.read_text():
                return process
            time.sleep(0.1)
        if "timed out during startup" not in log.read_text():
            break
    raise RuntimeError(f"Ray did not start: {log.read_text()[-4000:]}")


def end(process: subprocess.Popen, seconds: float = 30) -> None:
    """End a head or a node with all that it started, what outlived its parent included."""
    started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    for each in started:
        kill_tree(each.pid)
    kill_tree(process.pid)
    process.wait()
