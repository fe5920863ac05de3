"""Sets in the making: one process at a time makes a set, and goes on where a killed one left it.

A set's folder holds ``work/`` until its manifest is written. ``work/owner.json`` names the process that works there
and is written anew every few seconds; when it is not, the owner is taken for dead, and the next process goes on.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from emo import storage
from emo.config import UserError
from emo.console import say

BEAT_SECONDS = 10.0
DEAD_SECONDS = 60.0
"""An owner that was silent for so long is dead; one of this machine is so as soon as its process is gone."""
SETTLE_SECONDS = {True: 0.1, False: 1.0}
"""Of two processes that take the work at once, the one whose claim is still there after this long has it: on a local
disk, and on a store behind a network. Should both go on, they write the same parts twice, which harms nobody."""

Manifest = dict[str, Any]


def make_set(folder: str, key: str, make: Callable[[str], Manifest], *, refresh: bool = False) -> tuple[Manifest, bool]:
    """The manifest of a set, and whether it was there already; otherwise ``make(work)`` makes the set and returns it.

    ``make`` finds in the folder ``work`` what a killed process left there, if that was after the same ``key``.
    A UserError tells that the folder holds the unfinished work of another key.
    """
    before = storage.manifest(folder)
    if before is not None and not refresh:
        _tidy(folder)
        return before, True
    while True:
        with _owning(folder, key, before) as work:
            if work is not None:
                made = make(work)
                storage.finish(folder, made)
        if work is not None:
            storage.remove(work)  # no longer its owner, whose beats would come in between
            return made, False
        if (found := storage.manifest(folder)) not in (None, before):
            return found, True


def is_unfinished(folder: str) -> bool:
    """Whether a process has begun to make a set here and has not ended."""
    return storage.manifest(folder) is None and storage.exists(_owner_uri(folder))


@contextlib.contextmanager
def _owning(folder: str, key: str, before: Manifest | None) -> Iterator[str | None]:
    """The folder to work in, as its only owner; None after another process ended its work there, which shows by
    another manifest than ``before``."""
    _wait(folder, key)
    if storage.manifest(folder) != before:
        yield None
        return
    if before is not None:  # made again from the beginning
        storage.remove(storage.join(folder, "work"))
    me = {"token": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(), "key": key}
    _write(folder, me)
    time.sleep(SETTLE_SECONDS[storage.is_local(storage.filesystem(folder)[0])])
    if (_owner(folder) or {}).get("token") != me["token"]:
        yield None
        return
    stop = threading.Event()
    beats = threading.Thread(target=_beat, args=(folder, me, stop), daemon=True)
    beats.start()
    try:
        yield storage.join(folder, "work")
    except BaseException:
        _stop(stop, beats)
        with contextlib.suppress(Exception):  # a failed maker leaves its work to the next one, who need not wait
            _write(folder, me | {"pid": None})
        raise
    _stop(stop, beats)


def _wait(folder: str, key: str) -> None:
    """Wait until no other process works here; a UserError where the work is after another key."""
    told = False
    while (owner := _owner(folder)) is not None:
        if owner["key"] != key:
            raise UserError(
                f"{folder} holds an unfinished set that was begun with other choices or other data; "
                "repeat that command to end it, or name another folder."
            )
        if _is_dead(owner):
            return
        if not told:
            say(f"waiting for the process {owner['pid']} on {owner['host']}, which is writing {folder}")
            told = True
        time.sleep(1.0)


def _tidy(folder: str) -> None:
    """Remove what a process left that was killed between its end and its tidying up."""
    owner = _owner(folder)
    if owner is not None and _is_dead(owner):
        storage.remove(storage.join(folder, "work"))


def _is_dead(owner: Manifest) -> bool:
    if owner["pid"] is None or time.time() - owner["beat"] > DEAD_SECONDS:
        return True
    return owner["host"] == socket.gethostname() and (owner["pid"] == os.getpid() or not _is_running(owner["pid"]))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _stop(stop: threading.Event, beats: threading.Thread) -> None:
    stop.set()
    beats.join()


def _beat(folder: str, me: Manifest, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        with contextlib.suppress(Exception):  # a store that is away for a moment; the next beat tells again
            _write(folder, me)


def _owner_uri(folder: str) -> str:
    return storage.join(folder, "work", "owner.json")


def _owner(folder: str) -> Manifest | None:
    uri = _owner_uri(folder)
    try:
        return storage.read_json(uri)
    except FileNotFoundError:
        return None


def _write(folder: str, me: Manifest) -> None:
    storage.write_json(_owner_uri(folder), me | {"beat": time.time()})
