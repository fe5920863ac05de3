"""Waiting for a store or a database that is away for a minute."""

import time
from collections.abc import Callable
from typing import TypeVar

from emo.console import warn
from emo.errors import is_away

T = TypeVar("T")

OUTAGE_SECONDS = 180.0
PAUSE_SECONDS = 3.0


def patiently(what: str, call: Callable[[], T], away: Callable[[Exception], bool] = is_away) -> T:
    """What ``call`` returns; while it fails because ``what`` cannot be reached, it is called again for three minutes,
    and then its error is raised."""
    deadline = time.monotonic() + OUTAGE_SECONDS
    told = False
    while True:
        try:
            return call()
        except Exception as error:
            if not away(error) or time.monotonic() > deadline:
                raise
            if not told:
                warn(f"{what} cannot be reached; trying again for {OUTAGE_SECONDS:.0f} s")
                told = True
            time.sleep(PAUSE_SECONDS)
