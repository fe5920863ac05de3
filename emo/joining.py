"""What speaks against a cluster that a job joins, in one sentence each and before any work starts."""

import contextlib
import importlib.metadata
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from emo.config import UserError

PINS = Path(__file__).resolve().parent.parent / "requirements.txt"
"""Beside the package in a checkout and in what a job is submitted with; a package that was installed has none."""
OLDEST_PYTHON = (3, 11)
CONNECT_SECONDS = 10


def check_versions(pins: Path = PINS) -> None:
    """A UserError where the cluster, whose Python and Ray this process runs with, has others than the pinned ones.

    Ray's parts change between its versions; emo uses private names of the pinned one.
    """
    if sys.version_info < OLDEST_PYTHON:
        found, needed = (".".join(map(str, version)) for version in (sys.version_info[:2], OLDEST_PYTHON))
        raise UserError(f"The cluster runs Python {found}, and emo needs {needed} or newer; build its image anew.")
    if (pinned := pinned_ray(pins)) and (found := importlib.metadata.version("ray")) != pinned:
        raise UserError(f"The cluster runs Ray {found}, and requirements.txt pins {pinned}; build its image anew.")


def pinned_ray(pins: Path = PINS) -> str | None:
    """The version of Ray that is pinned; None without a file of pins, or a pin of Ray there."""
    found = re.findall(r"^ray==(.+)$", pins.read_text(), re.MULTILINE) if pins.exists() else []
    return found[0] if found else None


@contextlib.contextmanager
def joining(address: str) -> Iterator[None]:
    """Turn what Ray says of a cluster that it cannot join into the sentence that it comes down to."""
    check_answers(address)
    try:
        yield
    except Exception as error:
        if said := refusal(address, error):
            raise UserError(said) from error
        raise


def check_answers(address: str) -> None:
    """A UserError where nothing listens at an address of the form host:port, which Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"No cluster answers at {address} ({reason}); unset RAY_ADDRESS to start Ray here.") from error


def refusal(address: str, error: Exception) -> str | None:
    """Why Ray cannot join a cluster that answers; None where it is something else."""
    if mismatch := re.findall(r"^ +(Ray|Python): (.*)$", str(error), re.MULTILINE):
        (_, ray_there), (_, python_there), (_, ray_here), (_, python_here) = mismatch[:4]
        return (
            f"The cluster at {address} runs Ray {ray_there} on Python {python_there}, and this process Ray {ray_here} "
            f"on Python {python_here}; both must be the same."
        )
    if isinstance(error, ConnectionError) or type(error).__name__ == "AuthenticationError":
        if os.environ.get("RAY_AUTH_MODE") != "token":
            return f"The cluster at {address} wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH."
        return f"The cluster at {address} does not take this token: it is missing, an old one or another cluster's."
    return None
