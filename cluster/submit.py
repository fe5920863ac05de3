"""`ray job submit` from this checkout, once nothing speaks against it: the token, the cluster's Ray, the upload's size.

python cluster/submit.py -- python jobs/sweep.py --data s3://bucket/posts.jsonl --output s3://bucket/runs/one
python cluster/submit.py --entrypoint-num-cpus 1 --no-wait -- python jobs/sweep.py   # flags of `ray job submit` first
"""

import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from emo.joining import pinned_ray

ROOT = Path(__file__).resolve().parent.parent
MEBIBYTE = 2**20
SECONDS = 20


class SubmitError(Exception):
    """One sentence on what to do."""


def check_cluster(environment: Mapping[str, str], pinned: str) -> None:
    """A SubmitError where the cluster does not answer, does not take the token, or runs another Ray than this one."""
    address = environment.get("RAY_API_SERVER_ADDRESS", "")
    if not address.startswith(("http://", "https://")):
        raise SubmitError("No cluster: set RAY_API_SERVER_ADDRESS to its dashboard, as http://127.0.0.1:8265.")
    if environment.get("RAY_AUTH_MODE") != "token":
        raise SubmitError("Set RAY_AUTH_MODE=token, without which Ray sends no token, and RAY_AUTH_TOKEN_PATH.")
    request = urllib.request.Request(
        f"{address}/api/version", headers={"Authorization": f"Bearer {token(environment)}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            (runs,) = re.findall(r'"ray_version": *"([^"]*)"', answer.read().decode())
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise SubmitError(
                f"{address} does not take this token: it is that of another cluster, or an old one."
            ) from None
        raise SubmitError(
            f"{address} answers {error.code} {error.reason}; is it the dashboard of a Ray cluster?"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise SubmitError(
            f"{address} does not answer ({reason}); is the cluster up, and the tunnel to it open?"
        ) from None
    if runs != pinned:
        raise SubmitError(f"The cluster runs Ray {runs}, and requirements.txt pins {pinned}: build its image anew.")


def token(environment: Mapping[str, str]) -> str:
    """The token that Ray would send."""
    if found := environment.get("RAY_AUTH_TOKEN"):
        return found
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray/auth_token")
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SubmitError(
            f"No token: {path} cannot be read ({error.strerror}); name it by RAY_AUTH_TOKEN_PATH."
        ) from None


def check_size(folder: Path) -> None:
    """A SubmitError where Ray would refuse the folder as too large, with what is largest in it."""
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE

    sizes = upload_sizes(folder)
    if sum(sizes.values()) >= DASHBOARD_CLIENT_MAX_SIZE:
        name, size = max(sizes.items(), key=lambda item: item[1])
        raise SubmitError(
            f"{folder} is too large to send ({sum(sizes.values()) / MEBIBYTE:.0f} MiB, where Ray takes "
            f"{DASHBOARD_CLIENT_MAX_SIZE / MEBIBYTE:.0f}): {name} has {size / MEBIBYTE:.0f} MiB; move it away, or name "
            "it in .rayignore."
        )


def upload_sizes(folder: Path) -> dict[str, int]:
    """The bytes that each entry of a folder sends, without what Ray leaves out."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    sizes: dict[str, int] = {}

    def add(path: Path) -> None:
        if path.is_file():
            name = path.relative_to(folder).parts[0]
            sizes[name] = sizes.get(name, 0) + path.stat().st_size

    excluded = [_get_excludes(folder, get_runtime_env_default_excludes())]
    _dir_travel(folder, excluded, add, include_gitignore=True)
    return sizes


def main(arguments: list[str]) -> None:
    if "--" not in arguments:
        raise SubmitError("Name the command after --, as in: python cluster/submit.py -- python jobs/sweep.py")
    check_cluster(os.environ, str(pinned_ray()))
    check_size(ROOT)
    ray = str(Path(sys.executable).with_name("ray"))
    os.execv(ray, [ray, "job", "submit", "--working-dir", str(ROOT), *arguments])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SubmitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
