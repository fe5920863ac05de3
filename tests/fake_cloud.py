"""A cloud on one machine: a Ray head whose autoscaler adds and removes nodes, which are processes with resources that
are only numbers. A GPU that exists as a number can be scheduled on, but holds no tensor.

``ray.cluster_utils.AutoscalingCluster`` does not work from Ray 2.60's wheel, which lacks its example.yaml, and runs
``ray stop``, which ends every Ray on the machine; so the head is started here, with the provider that it would use.
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from kills import kill_tree

from emo.session import LOCAL, QUIET

HEAD_ID = "f" * 51 + "00000"
"""FakeMultiNodeProvider calls the head so, and workers by the numbers after it."""
START_SECONDS = 120
EMPTY: dict[str, Any] = {
    name: []
    for name in (
        *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
        *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude"),
        "rsync_filter",
    )
} | {"auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False}
"""What a cluster's file must have, and means nothing to nodes that are processes."""


@dataclass(frozen=True)
class Node:
    """A node that the autoscaler added."""

    raylet: psutil.Process

    def at_work(self) -> list[str]:
        """What its actors and tasks are doing, as in ``ImplicitFunc.train``."""
        found = []
        for process in self.raylet.children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                title = " ".join(process.cmdline()).strip()
                if title.startswith("ray::") and "." in title:
                    found.append(title.removeprefix("ray::"))
        return found

    def lose(self) -> None:
        """Kill its raylet, as if the machine were gone; its workers end by themselves."""
        self.raylet.kill()


@dataclass(frozen=True)
class FakeCloud:
    """A running head."""

    address: str
    environment: dict[str, str]
    """For processes that shall join it."""
    head: psutil.Process

    def nodes(self) -> list[Node]:
        """The nodes that there are, the oldest first."""
        found = []
        for process in self.head.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                is_raylet = process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE
                if is_raylet and process.environ().get("RAY_OVERRIDE_NODE_ID_FOR_TESTING", HEAD_ID) != HEAD_ID:
                    found.append(process)
        return [Node(process) for process in sorted(found, key=lambda process: process.create_time())]


def node_type(most: int, **resources: float) -> dict[str, Any]:
    """A kind of node with these resources, of which there may be ``most``."""
    memory = {"object_store_memory": 100_000_000}
    return {"resources": resources | memory, "node_config": {}, "min_workers": 0, "max_workers": most}


@contextlib.contextmanager
def fake_cloud(
    folder: Path, node_types: dict[str, dict[str, Any]], *, v2: bool = False, idle_seconds: float = 5.0
) -> Iterator[FakeCloud]:
    """A head without cores, whose autoscaler adds nodes of these types on demand and removes idle ones.

    It listens on loopback and wants a token of its own.
    """
    sockets = tempfile.mkdtemp(prefix="cloud-")  # whose paths may have 107 characters
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    port, *ports = free_ports(7)
    address = f"127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= QUIET | LOCAL | {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_enable_autoscaler_v2": str(int(v2))}
    (folder / "cluster.json").write_text(json.dumps(cluster_file(address, node_types, idle_seconds)))
    flags = {
        "port": port,
        "num-cpus": 0,
        "num-gpus": 0,
        "object-store-memory": 200_000_000,
        "include-dashboard": "false",
        "autoscaling-config": folder / "cluster.json",
        "temp-dir": sockets,
        "ray-client-server-port": ports[0],
        "dashboard-agent-listen-port": ports[1],
        "dashboard-agent-grpc-port": ports[2],
        "metrics-export-port": ports[3],
    }
    head_environment = environment | {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "AUTOSCALER_METRIC_PORT": str(ports[4]),
        "DASHBOARD_METRIC_PORT": str(ports[5]),
        "RAY_FAKE_CLUSTER": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=head_environment, stdout=log, stderr=log, start_new_session=True)
    head = psutil.Process(process.pid)
    try:
        wait_for_head(process, folder / "head.log")
        yield FakeCloud(address, environment | {"RAY_ADDRESS": address}, head)
    finally:
        end(process)
        shutil.rmtree(sockets, ignore_errors=True)


def cluster_file(address: str, node_types: dict[str, dict[str, Any]], idle_seconds: float) -> dict[str, Any]:
    """What ``ray up`` would be given."""
    return EMPTY | {
        "cluster_name": "fake",
        "max_workers": sum(each["max_workers"] for each in node_types.values()),
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": node_types
        | {"ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}},
        "head_node_type": "ray.head.default",
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": idle_seconds / 60,
    }


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_for_head(process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "Ray runtime started" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no head: {log.read_text()[-4000:]}")
        time.sleep(0.1)


def end(process: subprocess.Popen) -> None:
    """End a head with all that it started, what outlived its parent included."""
    started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(30)
    for each in started:
        kill_tree(each.pid)
    kill_tree(process.pid)
    process.wait()
