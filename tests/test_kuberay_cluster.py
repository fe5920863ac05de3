"""The RayCluster of cluster/kuberay, scaled by Ray's own autoscaler against a small stand-in for Kubernetes."""

import json
import os
import subprocess
import sys
import time

import pytest
from cluster_files import CRDS, ROOT, built, crd_errors
from fake_kubernetes import HEAD_GROUP, HEAD_POD, FakeKubernetes, operated, served
from ray_nodes import RAY, end, started_head

from cluster.local import free_ports

MAX_SECONDS = 300
IDLE_SECONDS = 3
PENDING_SECONDS = 20
"""A pod that finds a node must have joined by then."""
pytestmark = pytest.mark.slow


def test_gpu_pods_are_spot_first_then_on_demand_and_go_when_they_are_idle(tmp_path):
    cluster = built("overlays/small")["RayCluster"]
    options = cluster["spec"]["autoscalerOptions"]
    options["idleTimeoutSeconds"] = IDLE_SECONDS
    own = {each["name"]: str(PENDING_SECONDS) for each in options["env"]} | {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "AUTOSCALER_METRIC_PORT": str(*free_ports(1)),
        "RAY_enable_autoscaler_v2": "1",
        "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",  # on which it looks for `ray`
    }
    kubernetes = FakeKubernetes(cluster, room={"gpu-small-spot": 1})
    of_head = {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": HEAD_POD, "RAY_NODE_TYPE_NAME": HEAD_GROUP}
    autoscaler = [RAY, "kuberay-autoscaler", "--cluster-name=emo", "--cluster-namespace=emo"]
    tasks = [sys.executable, ROOT / "tests" / "wait_for_gpus.py", "2"]
    with (
        served(kubernetes, tmp_path) as api,
        started_head(tmp_path, of_head, lambda _: ["--no-monitor"]) as head,
        operated(kubernetes, head),
        (tmp_path / "autoscaler.log").open("w") as log,
    ):
        scaling = subprocess.Popen(
            [*autoscaler, f"--gcs-address={head.address}"], env=head.environment | api | own, stdout=log, stderr=log
        )
        try:
            environment = head.environment | {"PYTHONPATH": str(ROOT)}
            done = subprocess.run(tasks, env=environment, capture_output=True, text=True, timeout=MAX_SECONDS)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == {"grows": True, "ran on": ["gpu-small", "gpu-small-spot"]}
            deadline = time.monotonic() + MAX_SECONDS
            while len(kubernetes.pods) > 1 and time.monotonic() < deadline:
                time.sleep(0.2)
            assert list(kubernetes.pods) == [HEAD_POD]
        finally:
            end(scaling)
    if CRDS in os.environ:
        assert not [error for version in kubernetes.history for error in crd_errors(version)]
