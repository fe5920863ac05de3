"""A cloud on one machine: a Ray head whose autoscaler adds and removes nodes, which are processes with resources that
are only numbers. A GPU that exists as a number can be scheduled on, but holds no tensor.

``ray.cluster_utils.AutoscalingCluster`` does not work from Ray 2.60's wheel, which lacks its example.yaml, and runs
``ray stop``, which ends every Ray on the machine; so the head is started here, with the provider that it would use.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray_nodes import OBJECT_STORE, started_head

HEAD_ID = "f" * 51 + "00000"
"""FakeMultiNodeProvider calls the head so, and workers by the numbers after it."""
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
        with contextlib.suppress(psutil.NoSuchProcess):  # a node may end at any moment
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
    dashboard: str
    """The address of Ray's dashboard, where it was asked for."""

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
    memory = {"object_store_memory": OBJECT_STORE}
    return {"resources": resources | memory, "node_config": {}, "min_workers": 0, "max_workers": most}


@contextlib.contextmanager
def fake_cloud(
    folder: Path,
    node_types: dict[str, dict[str, Any]],
    *,
    v2: bool = False,
    idle_seconds: float = 5.0,
    dashboard: bool = False,
) -> Iterator[FakeCloud]:
    """A head whose autoscaler adds nodes of these types on demand and removes idle ones."""

    def flags(address: str) -> list[str]:
        (folder / "cluster.json").write_text(json.dumps(cluster_file(address, node_types, idle_seconds)))
        return [f"--autoscaling-config={folder / 'cluster.json'}"]

    environment = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # at its end, what its nodes do is over
        "RAY_enable_autoscaler_v2": str(int(v2)),
        "RAY_FAKE_CLUSTER": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }
    with started_head(folder, environment, flags, dashboard=dashboard) as head:
        joining = head.environment | {"RAY_enable_autoscaler_v2": str(int(v2))}
        yield FakeCloud(head.address, joining, psutil.Process(head.process.pid), head.dashboard)


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
