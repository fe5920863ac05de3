"""The little of a Kubernetes API that Ray's autoscaler uses, on loopback, with KubeRay's part behind it.

Pods come and go as the RayCluster asks for them; a pod that finds a node is a node of Ray on this machine.
"""

import contextlib
import copy
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonpatch
from cluster_files import Manifest
from kills import kill_tree
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray_nodes import Head, joined_node

HEAD_POD, HEAD_GROUP = "head", "headgroup"


@dataclass
class Pod:
    group: str
    node: subprocess.Popen | None
    """None as long as it is pending."""


@dataclass
class FakeKubernetes:
    """One RayCluster and its pods."""

    cluster: Manifest
    room: dict[str, int]
    """How many pods of a group find a node; as many as there are where it is not named."""
    pods: dict[str, Pod] = field(default_factory=lambda: {HEAD_POD: Pod(HEAD_GROUP, None)})
    history: list[Manifest] = field(default_factory=list)
    """The RayCluster after every change by the autoscaler."""
    asked: int = 0
    """Pods that were ever asked for."""

    def __post_init__(self) -> None:
        for group in self.cluster["spec"]["workerGroupSpecs"]:
            group.setdefault("replicas", 0)  # as KubeRay's resource definition has it

    def get(self, path: str) -> Any:
        """A resource, or None."""
        metadata = self.cluster["metadata"]
        if path == f"/apis/ray.io/v1/namespaces/{metadata['namespace']}/rayclusters/{metadata['name']}":
            return self.cluster
        if path == f"/api/v1/namespaces/{metadata['namespace']}/pods":
            items = [self._manifest(name, pod) for name, pod in list(self.pods.items())]
            return {"metadata": {"resourceVersion": "1"}, "items": items}
        return None

    def patch(self, operations: list[dict[str, Any]]) -> None:
        """Change the RayCluster; Kubernetes lets a field be replaced that is not there."""
        self.cluster = jsonpatch.apply_patch(self.cluster, [each | {"op": "add"} for each in operations])
        self.history.append(copy.deepcopy(self.cluster))

    def _manifest(self, name: str, pod: Pod) -> Manifest:
        runs = pod.node is not None or name == HEAD_POD
        labels = {"ray.io/cluster": self.cluster["metadata"]["name"], "ray.io/group": pod.group}
        labels["ray.io/node-type"] = "head" if name == HEAD_POD else "worker"
        return {
            "metadata": {"name": name, "resourceVersion": "1", "labels": labels},
            "spec": {"containers": [{"name": "ray", "resources": {}}]},
            "status": {
                "podIP": "127.0.0.1",
                "phase": "Running" if runs else "Pending",
                "containerStatuses": [{"state": {"running": {}}}] if runs else [],
            },
        }

    def reconcile(self, head: Head) -> None:
        """What KubeRay does: end the pods that are to be deleted, and make one that is missing."""
        types = _derive_autoscaling_config_from_ray_cr(self.cluster)["available_node_types"]
        for group in self.cluster["spec"]["workerGroupSpecs"]:
            name = group["groupName"]
            for pod in group.get("scaleStrategy", {}).get("workersToDelete") or []:
                if (gone := self.pods.pop(pod, None)) and gone.node:
                    kill_tree(gone.node.pid)
            own = [pod for pod in self.pods.values() if pod.group == name]
            if len(own) < group["replicas"]:
                self.asked += 1
                pod, has = f"{name}-{self.asked}", types[name]
                finds_node = sum(each.node is not None for each in own) < self.room.get(name, len(own) + 1)
                self.pods[pod] = Pod(name, None)
                if finds_node:
                    self.pods[pod].node = joined_node(head, pod, name, has["resources"], has["labels"])

    def end(self) -> None:
        for pod in self.pods.values():
            if pod.node:
                kill_tree(pod.node.pid)


@contextlib.contextmanager
def served(kubernetes: FakeKubernetes, folder: Path) -> Iterator[dict[str, str]]:
    """The API, as long as the context lasts; yields the environment in which Ray finds it."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-out", certificate, "-keyout", key]
    command += ["-days", "1", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            found = kubernetes.get(urlsplit(self.path).path)
            self.answer(200 if found else 404, found)

        def do_PATCH(self) -> None:
            kubernetes.patch(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(200, kubernetes.cluster)

        def answer(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT_HTTPS": str(server.server_port),
            "RAY_KUBERAY_CA_CERT_PATH": str(certificate),
            "RAY_KUBERAY_CLIENT_CERT_PATH": str(certificate),
            "RAY_KUBERAY_CLIENT_KEY_PATH": str(key),
        }
    finally:
        server.shutdown()


@contextlib.contextmanager
def operated(kubernetes: FakeKubernetes, head: Head) -> Iterator[None]:
    """KubeRay at work."""
    stop = threading.Event()

    def operate() -> None:
        try:
            while not stop.wait(0.2):
                kubernetes.reconcile(head)
        finally:
            kubernetes.end()

    operator = threading.Thread(target=operate)
    operator.start()
    try:
        yield
    finally:
        stop.set()
        operator.join()
