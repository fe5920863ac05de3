"""The cluster's image, built here upon a small Debian with the user of rayproject/ray, and a Ray head in it.

Its packages are fetched by pip as it is set up here; the build itself has no network. Together that takes
ten minutes on two busy cores.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray_nodes import end, ray_started

from cluster.local import free_ports

ROOT = Path(__file__).parent.parent
MAX_SECONDS = 60
"""Until `ray status` has heard of a head that already answers."""
TOOLS = ("buildah", "debootstrap")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"{' or '.join(TOOLS)} is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the file system of a base image"),
    pytest.mark.skipif(
        sys.version_info[:2] != (3, 11), reason="Debian 12 has Python 3.11, and packages are fetched for this one"
    ),
]

_BASE = """
FROM scratch
COPY rootfs /
RUN useradd --create-home --uid 1000 --gid 100 ray \\
 && python3 -m venv /home/ray/anaconda3 && chown -R 1000:100 /home/ray
ENV HOME=/home/ray PATH=/home/ray/anaconda3/bin:/usr/bin:/bin
USER 1000
WORKDIR /home/ray
"""
_TASK = """
import os, ray
ray.init(log_to_driver=False)
@ray.remote
def task():
    import emo
    return emo.__version__, os.geteuid()
print(*ray.get(task.remote()))
"""


@dataclass(frozen=True)
class Buildah:
    """buildah with a store of its own, and without namespaces, which a container here may not have."""

    store: Path

    def command(self, *words: str) -> list[str]:
        return ["buildah", "--root", str(self.store / "root"), "--runroot", str(self.store / "run"), *words]

    def __call__(self, *words: str) -> str:
        """What it said; an AssertionError if it failed."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout.strip()

    def build(self, tag: str, context: Path, *flags: str) -> None:
        self("build", "--isolation", "chroot", "--tag", tag, *flags, str(context))


@dataclass(frozen=True)
class Container:
    """One of the image."""

    buildah: Buildah
    name: str

    def command(self, *words: str, flags: tuple[str, ...] = ()) -> list[str]:
        return self.buildah.command("run", "--isolation", "chroot", *flags, self.name, "--", *words)

    def run(self, *words: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words, flags=flags), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def buildah(tmp_path_factory) -> Iterator[Buildah]:
    store = tmp_path_factory.mktemp("buildah")
    buildah = Buildah(store)
    yield buildah
    buildah("rm", "--all")
    buildah("rmi", "--all", "--force")
    shutil.rmtree(store, ignore_errors=True)


@pytest.fixture(scope="module")
def base(buildah, tmp_path_factory) -> str:
    """Debian with Python, and a user as in rayproject/ray: 1000:100, who owns the Python that pip installs into."""
    folder = tmp_path_factory.mktemp("base")
    command = ["debootstrap", "--variant=minbase", "--include=python3-venv,ca-certificates", "bookworm"]
    subprocess.run([*command, str(folder / "rootfs")], check=True, capture_output=True)
    (folder / "Dockerfile").write_text(_BASE)
    buildah.build("base", folder)
    shutil.rmtree(folder)
    return "localhost/base"


@pytest.fixture(scope="module")
def image(buildah, base, tmp_path_factory) -> str:
    """infra/docker/Dockerfile, built from the repository's root as `make image` does."""
    folder = tmp_path_factory.mktemp("packages")
    fetched = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--requirement",
        str(ROOT / "requirements.txt"),
        "--dest",
        str(folder),
    ]
    subprocess.run([sys.executable, *fetched], check=True)
    folder.chmod(0o755)  # the image's user reads it
    (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /packages\n")
    buildah.build(
        "emo",
        ROOT,
        *("--file", str(ROOT / "infra" / "docker" / "Dockerfile"), "--build-arg", f"BASE_IMAGE={base}"),
        *("--volume", f"{folder}:/packages:ro", "--volume", f"{folder / 'pip.conf'}:/etc/pip.conf:ro"),
        *("--build-arg", "REVISION=0123456"),
    )
    shutil.rmtree(folder)
    return "localhost/emo"


@pytest.fixture(scope="module")
def container(buildah, image) -> Container:
    return Container(buildah, buildah("from", image))


def test_the_image_says_what_it_is(buildah, image):
    config = json.loads(buildah("inspect", "--type", "image", image))["OCIv1"]["config"]
    assert config["User"] == "1000:100"
    assert config["Labels"]["org.opencontainers.image.revision"] == "0123456"
    assert config["Labels"]["org.opencontainers.image.version"].startswith("0.1.0-ray2.60.0-")
    assert "RAY_AUTH_MODE=token" in config["Env"]


def test_the_image_holds_the_jobs_and_an_installed_emo_and_no_cache(container):
    found = container.run("sh", "-c", "id --user; ls -A; ls -A ~; ls -A /tmp; touch here")
    assert found.returncode == 0, found.stderr
    words = found.stdout.split()
    assert words[0] == "1000"
    assert {"jobs", "requirements.txt"} <= set(words)
    assert not {"emo", "build", "emo.egg-info", ".cache", ".git", ".venv", "tests"} & set(words)
    where = container.run("python", "-c", "import emo, torch, ray; print(emo.__file__, ray.__version__)")
    assert where.stdout.split() == ["/home/ray/anaconda3/lib/python3.11/site-packages/emo/__init__.py", "2.60.0"]


def test_jobs_run_in_the_image(container):
    helped = container.run("python", "jobs/sweep.py", "--help")
    assert helped.returncode == 0, helped.stderr
    assert "--encoders" in helped.stdout


def test_ray_refuses_to_start_without_a_token(container):
    started = container.run("ray", "start", "--head", "--dashboard-host=127.0.0.1", flags=("--env", "RAY_AUTH_TOKEN="))
    assert started.returncode != 0
    assert "AuthenticationError" in started.stdout + started.stderr


@dataclass(frozen=True)
class Head:
    """A Ray head that runs in a container."""

    container: Container
    dashboard: str
    address: str
    token: str
    flags: tuple[str, ...]

    def status_of(self, headers: dict[str, str]) -> int:
        """The HTTP status of the dashboard's answer."""
        asked = urllib.request.Request(f"{self.dashboard}/api/version", headers=headers)
        try:
            return urllib.request.urlopen(asked, timeout=30).status
        except urllib.error.HTTPError as refused:
            return refused.code


@pytest.fixture
def head(container, tmp_path) -> Iterator[Head]:
    """On loopback, with a core and a token."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o444)  # for the user of the image; the folder is this test's alone
    port, dashboard, *ports = free_ports(8)
    variables = {
        "RAY_AUTH_TOKEN_PATH": "/token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every server on 127.0.0.1
        "AUTOSCALER_METRIC_PORT": str(ports[0]),
        "DASHBOARD_METRIC_PORT": str(ports[1]),
    }
    flags = (
        "--volume",
        f"{token}:/token:ro",
        *(word for item in variables.items() for word in ("--env", "=".join(item))),
    )
    options = {
        "port": port,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "num-cpus": 1,
        "object-store-memory": 100_000_000,
        "ray-client-server-port": ports[2],
        "dashboard-agent-listen-port": ports[3],
        "dashboard-agent-grpc-port": ports[4],
        "metrics-export-port": ports[5],
    }
    command = ["ray", "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
    process = ray_started(container.command(*command, flags=flags), os.environ, tmp_path / "head.log")
    try:
        yield Head(container, f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", token.read_text(), flags)
    finally:
        end(process)


def test_a_head_in_the_image_answers_whoever_has_its_token(head):
    asked = head.container.run("python", "-c", _TASK, flags=(*head.flags, "--env", f"RAY_ADDRESS={head.address}"))
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.split() == ["0.1.0", "1000"]
    deadline = time.monotonic() + MAX_SECONDS
    while "/1.0 CPU" not in (
        said := head.container.run("ray", "status", "--address", head.address, flags=head.flags).stdout
    ):
        assert time.monotonic() < deadline, said
        time.sleep(1)
    assert head.status_of({"Authorization": f"Bearer {head.token}"}) == 200
    assert head.status_of({}) == 401
    assert head.status_of({"Authorization": "Bearer wrong"}) == 403
