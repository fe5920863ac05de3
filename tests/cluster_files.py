"""The files of cluster/ as their tests want them: with settings, built by kustomize, and held against schemas."""

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parent.parent
KUBERAY = ROOT / "cluster" / "kuberay"
CRDS = "KUBERAY_CRDS"
"""The environment variable that names a folder with KubeRay's resource definitions: ray-operator/config/crd/bases."""

Manifest = dict[str, Any]


def built(folder: str) -> dict[str, Manifest]:
    """What ``kubectl apply -k`` would send, by kind."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", KUBERAY / folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}


def crd_errors(manifest: Manifest) -> list[str]:
    """Where a RayCluster or RayJob is not as KubeRay defines it, fields that KubeRay does not know included."""
    if CRDS not in os.environ:
        pytest.skip(f"{CRDS} names no folder with KubeRay's resource definitions")
    return [f"{error.json_path}: {error.message}" for error in _validator(manifest["kind"]).iter_errors(manifest)]


@functools.cache
def _validator(kind: str) -> Draft202012Validator:
    definition = Path(os.environ[CRDS]) / f"ray.io_{kind.lower()}s.yaml"
    versions = yaml.load(definition.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = (each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1")
    strict = _strict(schema)
    strict["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(strict)


def _strict(schema: Any) -> Any:
    """An OpenAPI schema of Kubernetes as a JSON schema that knows no other fields than its own."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: _strict(value) for name, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        schema = {"type": ["integer", "string"]}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


def google_errors(machine: Manifest) -> list[str]:
    """Where a node's configuration is not an instance as Google's Compute API describes it in its Python client."""
    client = pytest.importorskip("googleapiclient", reason="google-api-python-client is not installed")
    documents = Path(client.__file__).parent / "discovery_cache" / "documents"
    api = json.loads((documents / "compute.v1.json").read_text().replace('"$ref": "', '"$ref": "#/$defs/'))
    for schema in api["schemas"].values():
        if "properties" in schema:
            schema["additionalProperties"] = False
            for each in schema["properties"].values():
                if each.get("format") == "int64":
                    each["type"] = ["string", "integer"]
    schema = {"$defs": api["schemas"], "$ref": "#/$defs/Instance"}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(machine)]


def check_built_in(manifest: Manifest) -> None:
    """Hold a manifest of a kind of Kubernetes' own against its schema, strictly."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    validate.validate(manifest, validate.latest_version(), strict=True)


def pod_specs(cluster: Manifest) -> dict[str, Manifest]:
    """The pod of the head and of each worker group of a RayCluster, by the group's name."""
    spec = cluster["spec"]
    groups = {"head": spec["headGroupSpec"]} | {each["groupName"]: each for each in spec["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in groups.items()}
