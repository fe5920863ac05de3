"""cluster/aws.yaml, launched by Ray's own launcher and scaled by its autoscaler, on an EC2 that is moto.

What would run on an instance is written down; an instance that the autoscaler starts is a node of Ray on this machine.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fake_ssh
import pytest
from cluster_files import ROOT
from fake_ec2 import SETTINGS, FakeEC2, account, fake_ec2
from kills import kill_tree
from ray_nodes import RAY, Head, joined_node, started_head

from cluster import configure

MAX_SECONDS = 300
IDLE_SECONDS = 3
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Launched:
    """What `ray up` left behind."""

    ec2: FakeEC2
    home: Path
    """Of the user, with the cluster's file."""
    head: str = ""
    """The id of the head's instance."""

    def ray(self, command: str) -> None:
        """Run Ray's launcher, as a user who shares statistics with Ray's makers elsewhere."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "PATH": f"{self.home}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "1",
        }
        arguments = [RAY, command, "--yes", self.home / "aws.yaml"]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=MAX_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr

    def calls(self) -> list[list[str]]:
        """Every ssh and rsync."""
        return fake_ssh.commands(self.home)

    def commands(self) -> list[str]:
        """What was to run on nodes."""
        return fake_ssh.on_the_node(self.calls())

    @property
    def sent(self) -> Path:
        """The files that went to the head."""
        return self.home / fake_ssh.SENT

    @property
    def config(self) -> dict[str, Any]:
        """What the autoscaler on the head is given."""
        return json.loads((self.sent / "ray_bootstrap_config.yaml").read_text())


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> Iterator[Launched]:
    """A cluster after `ray up`."""
    home = tmp_path_factory.mktemp("home")
    token = home / ".emo" / "cluster" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text("no secret")
    fake_ssh.install(home)
    with fake_ec2() as ec2:
        text = (ROOT / "cluster" / "aws.yaml").read_text()
        (home / "aws.yaml").write_text(configure.configured(text, SETTINGS | account()))
        Launched(ec2, home).ray("up")
        (head,) = ec2.instances()
        yield Launched(ec2, home, head)


def test_the_launcher_finds_out_what_the_instances_have(launched):
    types = launched.config["available_node_types"]
    has = {name: (each["resources"]["CPU"], each["resources"].get("GPU", 0)) for name, each in types.items()}
    assert has == {"head": (0, 0), "cpu": (16, 0), "gpu-small-spot": (4, 1), "gpu-large-spot": (48, 4)}
    for each in types.values():
        accelerator = each["labels"].get("ray.io/accelerator-type")
        found = [name for name in each["resources"] if name.startswith("accelerator_type:")]
        assert found == ([f"accelerator_type:{accelerator}"] if accelerator else [])


def test_the_head_is_reached_through_systems_manager_alone(launched):
    for program, *arguments in launched.calls():
        way = arguments if program == "ssh" else arguments[1].split("-o ")
        assert any("ProxyCommand=aws ssm start-session" in each for each in way)
        to = arguments[-1].partition(":")[0] if program == "rsync" else arguments[-6]
        assert to == f"ubuntu@{launched.head}"


def test_the_head_wants_its_token_shows_nothing_to_others_and_sends_no_statistics(launched):
    (run,) = (each for each in launched.commands() if "docker run" in each)
    assert "-e RAY_AUTH_MODE=token -e RAY_AUTH_TOKEN_PATH=/home/ray/.emo/auth_token" in run
    assert "/.emo:/home/ray/.emo " in run
    assert SETTINGS["image"] in run
    (start,) = (each for each in launched.commands() if "ray start" in each)
    assert "--dashboard-host=127.0.0.1" in start
    assert start.index("RAY_USAGE_STATS_ENABLED=1") < start.index("RAY_USAGE_STATS_ENABLED=0 ray start --head")
    assert "export RAY_enable_autoscaler_v2=1" in start
    login = next(n for n, each in enumerate(launched.commands()) if "docker login" in each)
    pull = next(n for n, each in enumerate(launched.commands()) if "docker pull" in each)
    assert login < pull


@contextlib.contextmanager
def nodes_of_instances(launched: Launched, head: Head) -> Iterator[None]:
    """A node of Ray for every worker's instance, as long as it runs."""
    stop = threading.Event()

    def follow() -> None:
        nodes: dict[str, subprocess.Popen] = {}
        try:
            while not stop.wait(0.2):
                types = {
                    name: tags["ray-user-node-type"]
                    for name, tags in launched.ec2.instances().items()
                    if tags["ray-node-type"] == "worker"
                }
                for name in nodes.keys() - types.keys():
                    kill_tree(nodes.pop(name).pid)
                for name in list(types.keys() - nodes.keys())[:1]:
                    has = launched.config["available_node_types"][types[name]]
                    nodes[name] = joined_node(head, name, types[name], has["resources"], has["labels"])
        finally:
            for node in nodes.values():
                kill_tree(node.pid)

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        yield
    finally:
        stop.set()
        follower.join()


@contextlib.contextmanager
def running_head(launched: Launched, folder: Path) -> Iterator[Head]:
    """The head that `ray up` would have started, with the autoscaler's configuration that it was sent."""
    config = launched.config | {"idle_timeout_minutes": IDLE_SECONDS / 60, "file_mounts": {}}
    config["provider"] = config["provider"] | {"disable_node_updaters": True}  # which would wait for SSH
    (folder / "cluster.yaml").write_text(json.dumps(config))
    environment = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "HOME": str(launched.sent),  # where the key to the workers lies
        "PYTHONPATH": str(ROOT),
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": launched.head,
        "RAY_NODE_TYPE_NAME": "head",
    }
    with started_head(folder, environment, lambda _: [f"--autoscaling-config={folder / 'cluster.yaml'}"]) as head:
        yield head


def test_gpu_nodes_are_spot_first_then_on_demand_and_go_when_they_are_idle(launched, tmp_path):
    launched.ec2.spot_left, launched.ec2.launches[:] = 1, []
    command = [sys.executable, ROOT / "tests" / "wait_for_gpus.py", "2"]
    with running_head(launched, tmp_path) as head, nodes_of_instances(launched, head):
        environment = head.environment | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=MAX_SECONDS)
        assert done.returncode == 0, done.stderr + (tmp_path / "head.log").read_text()
        assert json.loads(done.stdout) == {"grows": True, "ran on": ["gpu-small-spot", "gpu-small-spot"]}
        asked_for = [each.get("InstanceMarketOptions.MarketType", "on-demand") for each in launched.ec2.launches]
        assert sorted(asked_for) == ["on-demand", "spot"]
        assert launched.ec2.refused
        deadline = time.monotonic() + MAX_SECONDS
        while len(launched.ec2.instances()) > 1 and time.monotonic() < deadline:
            time.sleep(0.2)
    assert list(launched.ec2.instances()) == [launched.head]
    for each in launched.ec2.launches:
        assert each["InstanceType"] == "g6.xlarge"
        assert each["IamInstanceProfile.Name"] == SETTINGS["worker_instance_profile"]
        assert each["MetadataOptions.HttpTokens"] == "required"
        assert each["BlockDeviceMapping.1.Ebs.Encrypted"] == "true"


def test_ray_down_leaves_nothing_behind(launched):
    assert launched.head in launched.ec2.instances()
    launched.ray("down")
    assert not launched.ec2.instances()
