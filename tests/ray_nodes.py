"""Ray's head, and nodes that join it, as processes on this machine with resources that are only numbers.

All listens on loopback and wants a token of its own. ``ray stop``, which ends every Ray on the machine, is never run.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
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

from emo.session import LOCAL, QUIET

RAY = Path(sys.executable).with_name("ray")
START_SECONDS = 120
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


@contextlib.contextmanager
def started_head(folder: Path, environment: Mapping[str, str], flags: Callable[[str], list[str]]) -> Iterator[Head]:
    """A head with an environment, and the flags that a function makes of its address, beside those that it needs."""
    sockets = tempfile.mkdtemp(prefix="cloud-")  # whose paths may have 107 characters
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    port, client, autoscaler, dashboard = free_ports(4)
    address = f"127.0.0.1:{port}"
    joining = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    joining |= QUIET | LOCAL | {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_ADDRESS": address}
    own = {"AUTOSCALER_METRIC_PORT": str(autoscaler), "DASHBOARD_METRIC_PORT": str(dashboard)}
    command = [RAY, "start", "--head", "--block", f"--port={port}", f"--ray-client-server-port={client}"]
    command += ["--num-cpus=0", "--num-gpus=0", "--include-dashboard=false", f"--temp-dir={sockets}"]
    log = folder / "head.log"
    process = _started(command + flags(address) + _of_every_node(2 * OBJECT_STORE), joining | own | environment, log)
    try:
        wait_until_started(process, log)
        yield Head(address, joining, process, folder)
    finally:
        end(process)
        shutil.copytree(f"{sockets}/session_latest/logs", folder / "logs", ignore_dangling_symlinks=True)
        shutil.rmtree(sockets, ignore_errors=True)


def joined_node(
    head: Head, name: str, node_type: str, resources: Mapping[str, float], labels: Mapping[str, str]
) -> subprocess.Popen:
    """A node, started as Ray's own launchers start theirs; two at once would fight for one socket."""
    environment = head.environment | {
        "RAY_CLOUD_INSTANCE_ID": name,
        "RAY_NODE_TYPE_NAME": node_type,
        "RAY_OVERRIDE_RESOURCES": json.dumps(dict(resources)),
        "RAY_OVERRIDE_LABELS": json.dumps(dict(labels)),
    }
    log = head.folder / f"{name}.log"
    process = _started([RAY, "start", "--block", f"--address={head.address}", *_of_every_node()], environment, log)
    wait_until_started(process, log)
    return process


def _of_every_node(object_store: int = OBJECT_STORE) -> list[str]:
    listen, grpc, metrics = free_ports(3)
    ports = [f"--dashboard-agent-listen-port={listen}", f"--dashboard-agent-grpc-port={grpc}"]
    return [*ports, f"--metrics-export-port={metrics}", f"--object-store-memory={object_store}"]


def _started(command: list[Any], environment: Mapping[str, str], log: Path) -> subprocess.Popen:
    environment = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    with log.open("w") as file:
        return subprocess.Popen(
            list(map(str, command)), env=environment, stdout=file, stderr=file, start_new_session=True
        )


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until_started(process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "Ray runtime started" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Ray did not start: {log.read_text()[-4000:]}")
        time.sleep(0.1)


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
