"""The files of infra/docker and infra/terraform as the tools of their fields judge them, without a cloud."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_files import KUBERAY, ROOT
from terraform import TERRAFORM, copied, initialised, terraform

from cluster import configure

DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile with what follows it, continuation lines joined and comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.split()[0], " ".join(line.split()[1:])) for line in joined if line.strip()]


def tool(name: str) -> str:
    """The path of a tool, beside this Python or on PATH; without it the test is skipped."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_hadolint_finds_nothing_in_the_dockerfile():
    checked = subprocess.run([tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_image_stands_on_the_pinned_ray_and_python():
    base = dict(each.split("=", 1) for kind, each in instructions() if kind == "ARG" and "=" in each)["BASE_IMAGE"]
    assert base == configure.settings()["base_image"]
    assert re.fullmatch(r"rayproject/ray:\d+\.\d+\.\d+-py3\d+-\w+", base)


def test_the_image_runs_as_a_numbered_user_that_is_not_root():
    users = [each for kind, each in instructions() if kind == "USER"]
    assert all(re.fullmatch(r"[1-9]\d*:\d+", user) for user in users)
    assert users


def test_ray_asks_for_its_token_in_the_image_and_reports_nothing():
    variables = dict(each.split("=") for kind, line in instructions() if kind == "ENV" for each in line.split())
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["RAY_USAGE_STATS_ENABLED"] == "0"


def test_requirements_are_a_layer_below_what_changes_with_every_commit():
    lines = [" ".join(each) for each in instructions()]
    parts = (
        "--requirement requirements.txt",
        "ARG EXTRAS",
        "pip install --no-cache-dir --no-build",
        "jobs",
        "REVISION",
    )
    order = [next(number for number, line in enumerate(lines) if part in line) for part in parts]
    assert order == sorted(order)


def test_the_build_sees_what_it_copies_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    kept = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    sources = {word for kind, line in instructions() if kind == "COPY" for word in line.split()[:-1]}
    assert rules[0] == "*"
    assert kept == {source for source in sources if not source.startswith("--")}


def test_infra_is_in_step_with_the_settings():
    values = configure.settings()
    files = [path for path in configure.marked_files() if path.is_relative_to(ROOT / "infra")]
    marks = set()
    for path in files:
        text = path.read_text()
        assert configure.configured(text, values, quotes=path.name != "Dockerfile") == text, path
        marks |= {mark[1] for line in text.splitlines() if (mark := configure.MARK.match(line))}
    assert marks >= {"base_image", "tag", "region", "zones"}


@pytest.mark.skipif(TERRAFORM is None, reason="terraform is not installed")
def test_terraform_is_formatted():
    unformatted = terraform(ROOT / "infra" / "terraform", "fmt", "-check", "-recursive", "-list=true")
    assert unformatted.returncode == 0, unformatted.stdout + unformatted.stderr


@pytest.mark.skipif(TERRAFORM is None, reason="terraform is not installed")
def test_terraform_is_valid(tmp_path):
    folder = initialised(copied(tmp_path))
    checked = terraform(folder, "validate", "-no-color")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_module_is_used_and_explains_what_it_skips():
    main = (ROOT / "infra" / "terraform" / "main.tf").read_text()
    modules = {path.name for path in (ROOT / "infra" / "terraform" / "modules").iterdir()}
    assert set(re.findall(r'source = "\./modules/(\w+)"', main)) == modules
    for path in (ROOT / "infra").rglob("*"):
        if path.is_file():
            skips = re.findall(r"checkov:skip=(.*)", path.read_text())
            assert all(re.fullmatch(r"CKV2?_\w+: \S.*", skip) for skip in skips), path


def test_each_group_of_the_raycluster_has_nodes_of_its_own():
    groups = re.findall(
        r"nodeSelector: \{emo/node-type: ([\w-]+)\}", (KUBERAY / "base" / "ray-cluster.yaml").read_text()
    )
    variables = (ROOT / "infra" / "terraform" / "modules" / "kubernetes" / "variables.tf").read_text()
    nodes = re.findall(r"^    ([\w-]+)\s+= \{ instance_types", variables, re.MULTILINE)
    assert sorted(groups) == sorted(nodes)


@pytest.mark.slow
def test_checkov_finds_nothing_that_is_not_explained():
    """About 20 s, most of them for its own start."""
    command = [tool("checkov"), "--directory", str(ROOT / "infra"), "--framework", "terraform", "dockerfile"]
    command += ["--quiet", "--compact", "--skip-download"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert checked.returncode == 0, checked.stdout
