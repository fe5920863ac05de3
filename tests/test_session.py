"""Sessions: a Ray that is started here can be reached from this machine alone."""

import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emo.session import LOCAL, QUIET, SHOWN, prepare_environment

START = """
from emo.session import prepare_environment
prepare_environment()
import json, os, time
import ray
from emo.room import num_cpus
from emo.session import start_ray

start_ray()
start_ray()  # joins what is there
ray.get(ray.remote(lambda: 1).remote())
told = {"mode": ray.get(ray.remote(lambda: os.environ.get("RAY_AUTH_MODE")).remote()), "cpus": num_cpus()}
print(json.dumps(told | {"pid": os.getpid(), "own": os.environ["RAY_AUTH_MODE"]}), flush=True)
input()
ray.shutdown()
"""


def clean_environment() -> dict[str, str]:
    """This process's environment without what would decide for the session."""
    ours = {*QUIET, *LOCAL, *SHOWN, "RAY_ADDRESS"}
    return {name: value for name, value in os.environ.items() if name not in ours}


def descendants(pid: int) -> dict[int, str]:
    """Process id -> name of a process and of all that it started."""
    parents, names = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = stat.read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        number, _, name = before.partition(" (")
        parents[int(number)], names[int(number)] = int(after.split()[1]), name
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {number: names[number] for number in found}


def listening() -> dict[str, tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    """Socket inode -> address and port, of every listening TCP socket."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A":
                address, port = local.split(":")
                words = [bytes.fromhex(address[n : n + 8])[::-1] for n in range(0, len(address), 8)]
                found[rest[5]] = ipaddress.ip_address(b"".join(words)), int(port, 16)
    return found


def servers(pid: int) -> list[tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    """Name, address and port of every listening socket of a process and of all that it started."""
    sockets, found = listening(), []
    for number, name in descendants(pid).items():
        for link in Path(f"/proc/{number}/fd").iterdir():
            try:
                inode = os.readlink(link).removeprefix("socket:[").removesuffix("]")
            except OSError:
                continue
            if inode in sockets:
                found.append((name, *sockets[inode]))
    return found


def is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
def test_every_server_of_a_local_ray_listens_on_loopback_and_wants_a_token(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", START],
        env=clean_environment() | {"HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        told = json.loads(process.stdout.readline())
        found = servers(process.pid)
    finally:
        process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert {"raylet", "gcs_server"} <= {name for name, _, _ in found}
    assert [server for server in found if not is_loopback(server[1])] == []
    assert (told["own"], told["mode"]) == ("token", "token")
    assert told["cpus"] >= 1


def environment_after(changes: dict[str, str]) -> dict[str, str]:
    """The environment of a process once it was prepared."""
    code = "import json, os; from emo.session import prepare_environment as p; p(); print(json.dumps(dict(os.environ)))"
    options = {"env": clean_environment() | changes, "capture_output": True, "text": True, "check": True}
    return json.loads(subprocess.run([sys.executable, "-c", code], **options).stdout)


def test_a_job_sets_what_libraries_read_at_import():
    found = environment_after({})
    assert found.items() >= (QUIET | LOCAL).items()
    assert found["RAY_AUTH_MODE"] == "token"  # whatever a later Ray takes for granted


def test_what_the_user_has_set_stays():
    assert environment_after({"TRANSFORMERS_VERBOSITY": "info"})["TRANSFORMERS_VERBOSITY"] == "info"


def test_a_cluster_that_is_joined_keeps_its_own_ways():
    found = environment_after({"RAY_ADDRESS": "auto"})
    assert found.items() >= (QUIET | SHOWN).items()
    assert not set(LOCAL) & set(found)


def test_preparing_imports_no_library_that_reads_the_environment():
    code = (
        "import sys; from emo.session import prepare_environment as p; p(); "
        "print({'ray', 'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_preparing_twice_changes_nothing(monkeypatch):
    for name in QUIET | LOCAL | SHOWN:
        monkeypatch.setenv(name, os.environ.get(name, "mine"))
    before = dict(os.environ)
    prepare_environment()
    assert dict(os.environ) == before


WATCH = """
import socket, sys, threading, time
import ray
from emo import session

ray.is_initialized = lambda: True
session.WATCH_SECONDS = 0.05
path = sys.argv[1]


def listening(family, address):
    server = socket.create_server(address) if family == socket.AF_INET else socket.socket(family)
    if family == socket.AF_UNIX:
        server.bind(address)
        server.listen()
    return server


head, node = listening(socket.AF_INET, ("127.0.0.1", 0)), listening(socket.AF_UNIX, path)
port = head.getsockname()[1]
threading.Thread(target=session.watch_ray, args=(f"127.0.0.1:{port}", path), daemon=True).start()
time.sleep(0.5)
head.close()
time.sleep(0.5)
head = listening(socket.AF_INET, ("127.0.0.1", port))
time.sleep(0.5)
node.close()
time.sleep(20)
"""


def test_a_job_ends_with_a_sentence_where_ray_is_gone_from_its_node(tmp_path):
    command = [sys.executable, "-c", WATCH, str(tmp_path / "raylet")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert [line.partition(",")[0].partition(";")[0] for line in done.stdout.splitlines()] == [
        "warning: Ray's head is gone",
        "warning: Ray's head is back",
        "warning: Ray on this node is gone",
    ]
