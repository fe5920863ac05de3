"""OpenStack Swift as an S3 store: its own processes on loopback, in a virtual environment of its own.

PYTEST_DONT_REWRITE, since tests import it before pytest takes it for a plugin.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

VERSION = "2.38.3"
ACCESS_KEY, SECRET = "test:tester", "testing"
CACHE = "EMO_TEST_CACHE"
"""The environment variable that names a folder to keep the installed server in."""

_SWIFT = """
[swift-hash]
swift_hash_path_prefix = emo
swift_hash_path_suffix = emo
[storage-policy:0]
name = default
default = yes
"""
_COMMON = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {root}
devices = {root}/srv
mount_check = false
fallocate_reserve = 0
log_level = WARNING
log_address = {root}/no-syslog
"""
_PART = """
[pipeline:main]
pipeline = {part}-server
[app:{part}-server]
use = egg:swift#{part}
allow_versions = true
"""
_FILTERS = (
    *("catch_errors", "gatekeeper", "healthcheck", "memcache", "listing_formats", "bulk", "s3api", "tempauth"),
    *("copy", "slo", "dlo", "symlink", "versioned_writes"),
)
_OPTIONS = {
    "memcache": "memcache_servers = 127.0.0.1:{memcached}",
    "s3api": "location = us-east-1\ns3_acl = false\nmax_upload_part_num = 10000",
    "tempauth": f"user_{ACCESS_KEY.replace(':', '_')} = {SECRET} .admin",
    "slo": "min_segment_size = 1",
    "versioned_writes": "allow_object_versioning = true",
}
_PROXY = f"""
[pipeline:main]
pipeline = {" ".join(_FILTERS)} proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
""" + "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n{_OPTIONS.get(name, '')}\n" for name in _FILTERS)


@pytest.fixture(scope="session")
def swift_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a running Swift."""
    if shutil.which("memcached") is None:
        pytest.skip("memcached is not installed")
    bin_folder = _installed(Path(os.environ.get(CACHE) or tmp_path_factory.mktemp("swift-venv")))
    root = tmp_path_factory.mktemp("swift")
    ports = {name: _free_port() for name in ("proxy", "account", "container", "object", "memcached")}
    _write_configuration(root, bin_folder, ports)
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    commands = {"memcached": ["memcached", "-l", "127.0.0.1", "-p", str(ports["memcached"]), *user]} | {
        part: [str(bin_folder / f"swift-{part}-server"), str(root / f"{part}.conf")]
        for part in ("account", "container", "object", "proxy")
    }
    log = (root / "log").open("wb")
    processes = {part: subprocess.Popen(command, stdout=log, stderr=log) for part, command in commands.items()}
    try:
        for part, process in processes.items():
            _wait_for(ports[part], process, root / "log")
        yield f"http://127.0.0.1:{ports['proxy']}"
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait(20)


def _installed(folder: Path) -> Path:
    """The bin folder of a virtual environment that has Swift, made where there is none."""
    made = folder / f"swift-{VERSION}"
    if not (made / ".whole").exists():
        shutil.rmtree(made, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", made], check=True)
        pip = [made / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", f"swift=={VERSION}"]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"Swift cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        (made / ".whole").touch()
    return made / "bin"


def _write_configuration(root: Path, bin_folder: Path, ports: Mapping[str, int]) -> None:
    (root / "srv" / "disk").mkdir(parents=True)
    (root / "swift.conf").write_text(_SWIFT)
    user = {"root": root, "user": subprocess.check_output(["id", "-un"], text=True).strip()}
    for part in ("account", "container", "object"):
        (root / f"{part}.conf").write_text((_COMMON + _PART).format(part=part, port=ports[part], **user))
        for arguments in (["create", "4", "1", "1"], ["add", f"r1z1-127.0.0.1:{ports[part]}/disk", "1"], ["rebalance"]):
            builder = [bin_folder / "swift-ring-builder", root / f"{part}.builder", *arguments]
            subprocess.run(builder, check=True, capture_output=True)
    (root / "proxy.conf").write_text(
        (_COMMON + _PROXY).format(port=ports["proxy"], memcached=ports["memcached"], **user)
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait_for(port: int, process: subprocess.Popen, log: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args[0]} does not answer: {log.read_text()[-2000:]}")
