"""The files of cluster/: in step with the settings, as their readers want them, and closed to strangers."""

import copy
import re
import tomllib
from pathlib import Path

import pytest
import tyro
import yaml
from cluster_files import KUBERAY, ROOT, built, check_built_in, crd_errors, google_errors, pod_specs
from jsonschema import ValidationError
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster import configure
from emo.config import SweepConfig

SETTINGS = configure.settings()
CLUSTERS = {cloud: yaml.safe_load((ROOT / "cluster" / f"{cloud}.yaml").read_text()) for cloud in ("aws", "gcp")}
RAY_CLUSTER = yaml.safe_load((KUBERAY / "base" / "ray-cluster.yaml").read_text())
SWEEP = yaml.safe_load((KUBERAY / "sweep" / "ray-job.yaml").read_text())
FOLDERS = ["overlays/small", "overlays/large", "sweep"]
SPOT = {"gpu-small-spot", "gpu-large-spot"}
ON_DEMAND = {"gpu-small", "gpu-large"}
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"

clusters = pytest.mark.parametrize("cloud", CLUSTERS)


# --- in step with the settings ---


def test_every_file_is_in_step():
    assert configure.main(check=True) == 0


def test_settings_agree_with_what_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (ray,) = (each for each in map(Requirement, project["dependencies"]) if each.name == "ray")
    assert ray.specifier.contains(SETTINGS["ray"])
    assert f"ray=={SETTINGS['ray']}\n" in (ROOT / "requirements.txt").read_text()
    assert SpecifierSet(project["requires-python"]).contains(SETTINGS["python"])
    assert SETTINGS["image"] == f"{SETTINGS['repository']}:{SETTINGS['tag']}"
    assert not SETTINGS["image"].endswith(("latest", "nightly"))


@clusters
def test_images_and_commands_are_those_of_the_settings(cloud):
    cluster = CLUSTERS[cloud]
    assert cluster["docker"]["image"] == SETTINGS["image"]
    assert cluster["head_start_ray_commands"][-1] == SETTINGS["head_command"]
    assert cluster["worker_start_ray_commands"][-1] == SETTINGS["worker_command"]


def test_pods_and_jobs_have_what_the_settings_say():
    assert RAY_CLUSTER["spec"]["rayVersion"] == SETTINGS["ray"]
    images = {pod["containers"][0]["image"] for pod in pod_specs(RAY_CLUSTER).values()}
    images.add(SWEEP["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"])
    assert images == {SETTINGS["image"]}
    assert SWEEP["spec"]["entrypoint"] == SETTINGS["sweep_command"]


def test_the_sweep_is_a_command_that_the_sweep_takes():
    script, *flags = SETTINGS["sweep_command"].split()[1:]
    assert (ROOT / "jobs" / Path(script).name).exists()
    sweep = tyro.cli(SweepConfig, args=flags, config=(tyro.conf.CascadeSubcommandArgs,))
    for place in (*sweep.data, sweep.output):
        assert place.startswith(f"{SETTINGS['bucket']}/")


def grows_to(types: dict[str, dict]) -> str:
    """What EMO_GROWS_TO says of node types; those on demand stand in for their spot types, and do not come on top."""
    return ",".join(
        f"{name}={sum(each['max_workers'] * each['resources'].get(name, 0) for each in types.values())}"
        for name in ("CPU", "GPU")
    )


def test_nodes_know_where_the_folders_are_and_how_far_the_cluster_grows():
    machines = {"cpu": 16, "gpu-small-spot": 4, "gpu-large-spot": 48}
    for cloud, bucket in (("aws", SETTINGS["bucket"]), ("gcp", SETTINGS["gcp_bucket"])):
        options = " ".join(CLUSTERS[cloud]["docker"]["run_options"]) + " "
        assert f"-e EMO_CACHE={bucket}/cache " in options
        assert f"-e EMO_RUNS={bucket}/runs " in options
        types = {name: CLUSTERS[cloud]["available_node_types"][name] for name in machines}
        assert sum(each["max_workers"] for each in types.values()) == CLUSTERS[cloud]["max_workers"]
        gpus = {"cpu": 0, "gpu-small-spot": 1, "gpu-large-spot": 4}
        has = {name: each | {"resources": {"CPU": machines[name], "GPU": gpus[name]}} for name, each in types.items()}
        assert f"-e EMO_GROWS_TO={grows_to(has)} " in options
        if cloud == "gcp":
            assert grows_to(types) == grows_to(has)


@pytest.mark.parametrize("folder", ["base", *FOLDERS[:2]])
def test_pods_know_where_the_folders_are_and_how_far_the_cluster_grows(folder):
    manifests = built(folder)
    for pod in pod_specs(manifests["RayCluster"]).values():
        assert pod["containers"][0]["envFrom"] == [
            {"configMapRef": {"name": manifests["ConfigMap"]["metadata"]["name"]}}
        ]
    types = _derive_autoscaling_config_from_ray_cr(manifests["RayCluster"])["available_node_types"]
    told = grows_to({name: each for name, each in types.items() if name not in ON_DEMAND})
    bucket = SETTINGS["bucket"]
    known = {"EMO_CACHE": f"{bucket}/cache", "EMO_RUNS": f"{bucket}/runs", "EMO_GROWS_TO": told}
    assert manifests["ConfigMap"]["data"] == known
    assert told.endswith(f"GPU={manifests['ResourceQuota']['spec']['hard']['requests.nvidia.com/gpu']}")


# --- as their readers want them ---


@clusters
def test_ray_takes_a_cluster_file_and_no_misspelt_one(cloud):
    validate_config(prepare_config(copy.deepcopy(CLUSTERS[cloud])))
    misspelt = CLUSTERS[cloud] | {"idle_timeout_minute": 5}
    with pytest.raises(ValidationError, match="idle_timeout_minute"):
        validate_config(prepare_config(copy.deepcopy(misspelt)))
    misspelt = copy.deepcopy(CLUSTERS[cloud])
    misspelt["available_node_types"]["cpu"]["max_worker"] = 1
    with pytest.raises(ValidationError, match="max_worker"):
        validate_config(prepare_config(misspelt))


def test_nodes_are_as_google_describes_instances():
    for each in CLUSTERS["gcp"]["available_node_types"].values():
        assert google_errors(each["node_config"]) == []
    machine = CLUSTERS["gcp"]["available_node_types"]["gpu-small-spot"]["node_config"]
    misspelt = machine | {"scheduling": {"provisioningModel": "SPOTS"}, "machineTypes": "g2-standard-4"}
    assert len(google_errors(misspelt)) == 2


@pytest.mark.parametrize("folder", FOLDERS)
def test_manifests_are_as_kubernetes_defines_them(folder):
    manifests = built(folder)
    own = {kind: each for kind, each in manifests.items() if each["apiVersion"] != "ray.io/v1"}
    assert set(own) == {"ConfigMap", "Namespace", "NetworkPolicy", "ResourceQuota", "ServiceAccount"}
    for manifest in own.values():
        check_built_in(manifest)
    assert {each["metadata"].get("namespace", "emo") for each in manifests.values()} == {"emo"}


def test_pods_are_as_kubernetes_defines_them():
    pods = pod_specs(RAY_CLUSTER) | {"submitter": SWEEP["spec"]["submitterPodTemplate"]["spec"]}
    for name, spec in pods.items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        check_built_in(pod)
        misspelt = copy.deepcopy(pod)
        misspelt["spec"]["containers"][0]["volumeMount"] = []
        with pytest.raises(Exception, match="volumeMount"):
            check_built_in(misspelt)


@pytest.mark.parametrize("folder", FOLDERS)
def test_clusters_and_jobs_are_as_kuberay_defines_them(folder):
    (manifest,) = (each for each in built(folder).values() if each["apiVersion"] == "ray.io/v1")
    assert manifest["kind"] == ("RayJob" if folder == "sweep" else "RayCluster")
    assert crd_errors(manifest) == []
    misspelt = copy.deepcopy(manifest)
    misspelt["spec"].get("rayClusterSpec", misspelt["spec"])["workerGroupSpecs"][0]["maxReplica"] = 1
    assert any("maxReplica" in error for error in crd_errors(misspelt))


@pytest.mark.parametrize(("folder", "most"), [("overlays/small", (2, 2, 0)), ("overlays/large", (8, 8, 4))])
def test_rays_autoscaler_sees_the_groups(folder, most):
    cluster = built(folder)["RayCluster"]
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    validate_config(prepare_config(config))
    groups = config["available_node_types"]
    assert groups.pop("headgroup")["resources"]["CPU"] == 0
    cpu, small, large = most
    assert {name: group["max_workers"] for name, group in groups.items()} == {
        "cpu": cpu,
        "gpu-small-spot": small,
        "gpu-small": small,
        "gpu-large-spot": large,
        "gpu-large": large,
    }
    for name, group in groups.items():
        assert group["min_workers"] == 0
        assert (
            group["resources"].get("GPU", 0) == {"cpu": 0, "gpu-small": 1, "gpu-large": 4}[name.removesuffix("-spot")]
        )
        assert group["labels"]["ray.io/node-group"] == name
        assert group["labels"]["ray.io/market-type"] == ("spot" if name in SPOT else "on-demand")
        assert group.get("priority", 0) == (10 if name in SPOT else 0)


def test_a_sweep_has_a_cluster_of_its_own_that_goes_with_it():
    job, cluster = built("sweep")["RayJob"]["spec"], built("overlays/large")["RayCluster"]["spec"]
    assert job["rayClusterSpec"] == cluster
    assert job["entrypointNumCpus"] == 1
    assert job["shutdownAfterJobFinishes"]
    assert 0 < job["ttlSecondsAfterFinished"] <= 3600


# --- closed to strangers, and no dearer than they must be ---


@clusters
def test_heads_hold_no_tasks_and_are_never_spot(cloud):
    types = dict(CLUSTERS[cloud]["available_node_types"])
    head = types.pop(CLUSTERS[cloud]["head_node_type"])
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert not {"InstanceMarketOptions", "scheduling"} & set(head["node_config"])
    assert set(types) == {"cpu"} | SPOT | (ON_DEMAND if cloud == "gcp" else set())
    for name, each in types.items():
        assert each.get("min_workers", 0) == 0
        assert 0 < each["max_workers"] <= CLUSTERS[cloud]["max_workers"]
        assert each["labels"]["ray.io/node-group"] == name
        asks = each["node_config"].get("InstanceMarketOptions", each["node_config"].get("scheduling", {}))
        assert ("spot" in str(asks).lower()) == (name in SPOT)
    assert 0 < CLUSTERS[cloud]["idle_timeout_minutes"] <= 15


@clusters
def test_nothing_of_a_cluster_is_open_to_the_world(cloud):
    cluster = CLUSTERS[cloud]
    head, worker = cluster["head_start_ray_commands"][-1], cluster["worker_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head
    assert cluster["provider"]["use_internal_ips"]
    assert cluster["auth"]["ssh_proxy_use_node_id"]
    options = cluster["docker"]["run_options"]
    (folder,) = cluster["file_mounts"]
    assert "-e RAY_AUTH_MODE=token" in options
    assert f"-e RAY_AUTH_TOKEN_PATH={folder}/auth_token" in options
    for command in (head, worker):
        assert command.startswith("RAY_USAGE_STATS_ENABLED=0 ray start ")


@clusters
def test_no_file_holds_a_secret(cloud):
    text = (ROOT / "cluster" / f"{cloud}.yaml").read_text()
    assert not re.search(r"AKIA|PRIVATE KEY|credentials:|\b[0-9a-f]{32,}\b", text)


def test_nodes_on_ec2_are_encrypted_and_hand_no_credentials_to_whoever_asks():
    for name, each in CLUSTERS["aws"]["available_node_types"].items():
        config = each["node_config"]
        assert config["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
        assert all(
            disk["Ebs"]["Encrypted"] and disk["Ebs"]["VolumeType"] == "gp3" for disk in config["BlockDeviceMappings"]
        )
        profile = SETTINGS["head_instance_profile" if name == "head" else "worker_instance_profile"]
        assert config["IamInstanceProfile"] == {"Name": profile}
        assert config["SecurityGroupIds"] == [SETTINGS["security_group"]]
        assert config["SubnetIds"] == SETTINGS["subnets"]


def test_nodes_on_google_are_shielded_and_have_no_address():
    for name, each in CLUSTERS["gcp"]["available_node_types"].items():
        config = each["node_config"]
        assert config["shieldedInstanceConfig"]["enableVtpm"]
        assert config["shieldedInstanceConfig"]["enableIntegrityMonitoring"]
        assert config["shieldedInstanceConfig"]["enableSecureBoot"] == ("gpu" not in name)
        assert config["networkInterfaces"] == [{"subnetwork": SETTINGS["gcp_subnetwork"]}]
        assert config["serviceAccounts"][0]["email"] == SETTINGS["gcp_account"]


def test_pods_have_no_rights_that_they_do_not_need():
    for name, pod in pod_specs(RAY_CLUSTER).items():
        (container,) = pod["containers"]
        assert container["securityContext"] == RAY_CLUSTER["spec"]["autoscalerOptions"]["securityContext"]
        assert container["securityContext"]["runAsNonRoot"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod.get("automountServiceAccountToken", True) == (name == "head")
        assert container["resources"]["requests"] == container["resources"]["limits"]
        (drain,) = (int(each["value"]) for each in container["env"] if each["name"] == DRAIN)
        assert drain < pod["terminationGracePeriodSeconds"] < 120, "what a spot node on EC2 has left"
        assert {each["mountPath"] for each in container["volumeMounts"]} == {"/dev/shm", "/tmp/ray"}


def test_only_pods_with_gpus_may_stand_on_nodes_with_gpus():
    for name, pod in pod_specs(RAY_CLUSTER).items():
        assert [each["key"] for each in pod.get("tolerations", [])] == (["nvidia.com/gpu"] if "gpu" in name else [])
        assert pod["nodeSelector"] == {"emo/node-type": name}


def test_kuberay_is_told_to_guard_and_to_keep():
    spec = RAY_CLUSTER["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["gcsFaultToleranceOptions"]["backend"] == "rocksdb"
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (seconds,) = (int(each["value"]) for each in spec["autoscalerOptions"]["env"])
    assert 300 <= seconds <= 900


def test_metrics_are_open_to_prometheus_alone():
    policy = yaml.safe_load((KUBERAY / "base" / "network-policy.yaml").read_text())["spec"]
    assert policy["podSelector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    nodes, submitters, prometheus = policy["ingress"]
    assert nodes == {"from": [{"podSelector": policy["podSelector"]}]}
    assert [each["port"] for each in submitters["ports"]] == ["dashboard"]
    assert {each["port"] for each in prometheus["ports"]} == {"metrics", "as-metrics", "dash-metrics"}
    (who,) = prometheus["from"]
    assert who["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}
    named = {port["name"] for port in pod_specs(RAY_CLUSTER)["head"]["containers"][0]["ports"]}
    assert {"dashboard", "metrics", "as-metrics", "dash-metrics"} <= named
