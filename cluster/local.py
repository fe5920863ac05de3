"""A Ray cluster of this machine alone, to submit jobs to: on loopback, with a token, ports and a folder of its own.

python cluster/local.py start     # says what to export
python cluster/local.py stop
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import psutil
import tyro

from emo.session import LOCAL, QUIET

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cluster-local"
START_SECONDS, STOP_SECONDS = 120, 40
DASHBOARD_PORT = 8265


class ClusterError(Exception):
    """One sentence on what to do."""


def start(
    num_cpus: int | None = None,
    num_gpus: int = 0,
    folder: Annotated[Path, tyro.conf.arg(help="Where its token, its log and what to export lie.")] = FOLDER,
) -> None:
    """Start a head that runs on when this command has ended.

    It has all cores of this machine, or ``num_cpus``; GPUs that are not there can only be scheduled on.
    """
    if running_head(folder):
        raise ClusterError(f"A cluster runs already; `source {folder}/environment`, or stop it first.")
    clear(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ClusterError(f"{folder} holds other files; name another --folder.")
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    token, log = folder / "token", folder / "head.log"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    sockets = tempfile.mkdtemp(prefix="emo-cluster-")  # whose paths may have 107 characters
    (folder / "session").symlink_to(sockets)
    dashboard, port, *ports = free_ports(8, DASHBOARD_PORT)
    access = {
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # it listens on loopback, and is to be sought there
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= QUIET | LOCAL | access
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # `python` of a job's command is found there
        "EMO_RUNS": os.environ.get("EMO_RUNS", str(ROOT / "runs")),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # there is no other node that work could go to
        "AUTOSCALER_METRIC_PORT": str(ports[0]),
        "DASHBOARD_METRIC_PORT": str(ports[1]),
    }
    flags = {
        "port": port,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": ports[2],
        "dashboard-agent-grpc-port": ports[3],
        "metrics-export-port": ports[4],
        "ray-client-server-port": ports[5],
        "num-gpus": num_gpus,
        "temp-dir": sockets,
    } | ({} if num_cpus is None else {"num-cpus": num_cpus})
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    with log.open("w") as output:
        head = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in flags.items())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=folder,
        )
    (folder / "pid").write_text(str(head.pid))
    deadline = time.monotonic() + START_SECONDS
    while "Ray runtime started" not in log.read_text():
        if head.poll() is not None or time.monotonic() > deadline:
            raise ClusterError(f"The cluster did not start; {log} says why.")
        time.sleep(0.2)
    lines = [f"export {name}={value}" for name, value in access.items()]
    (folder / "environment").write_text("\n".join([*lines, ""]))
    print(f"""A cluster runs; its dashboard: {access["RAY_API_SERVER_ADDRESS"]} (it asks for the token in {token})

source {folder}/environment
ray job submit --working-dir . -- python jobs/sweep.py
python cluster/local.py stop""")


def stop(folder: Path = FOLDER) -> None:
    """End the cluster with all jobs on it."""
    if not (head := running_head(folder)):
        raise ClusterError("No cluster runs here.")
    head.terminate()
    psutil.wait_procs([head], STOP_SECONDS)
    clear(folder)
    print("The cluster has ended.")


def clear(folder: Path) -> None:
    """Remove the folders of a cluster that was here, and end what is left of its processes, which name one of them."""
    session = folder / "session"
    if not session.is_symlink():
        return
    for process in psutil.process_iter(["cmdline"]):
        if str(session.readlink()) in " ".join(process.info["cmdline"] or []):
            for each in [*process.children(recursive=True), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
    shutil.rmtree(session.readlink(), ignore_errors=True)
    shutil.rmtree(folder)


def running_head(folder: Path) -> psutil.Process | None:
    """The process that was started as the head; None where it has ended, whoever has its number now."""
    with contextlib.suppress(OSError, psutil.Error):
        head = psutil.Process(int((folder / "pid").read_text()))
        if "--head" in head.cmdline() and head.status() != psutil.STATUS_ZOMBIE:
            return head
    return None


def free_ports(number: int, first: int = 0) -> list[int]:
    """Ports of loopback that nothing listens on; the first is this one, if one is named and free."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for place, each in enumerate(sockets):
            try:
                each.bind(("127.0.0.1", 0 if place else first))
            except OSError:
                each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    try:
        tyro.extras.subcommand_cli_from_dict({"start": start, "stop": stop}, description=__doc__)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
