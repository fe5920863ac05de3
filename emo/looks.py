"""How often the test split of a run was looked at: every look is written down before any test figure is computed."""

import datetime
from typing import Any

from emo import storage

LOOKS = "test_looks.json"
TIMES = {1: "once", 2: "twice"}


def record_look(run: str, job: str, num_models: int) -> None:
    """Add a look at the test split: when, by which job, and how many models it judges (baselines not counted)."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    looks = [*read_looks(run), {"time": now, "job": job, "num_models": num_models}]
    storage.write_json(storage.join(run, LOOKS), looks)


def read_looks(run: str) -> list[dict[str, Any]]:
    """All looks so far, the first one first."""
    uri = storage.join(run, LOOKS)
    return storage.read_json(uri) if storage.exists(uri) else []


def carry_looks(source: str, run: str) -> None:
    """Let the count of a run that is made of another one's models go on from there."""
    if looks := read_looks(source):
        storage.write_json(storage.join(run, LOOKS), looks)


def times_read(looks: list[dict[str, Any]]) -> str | None:
    """What a page says of it, as in "test was read once, at the end"; None where nothing was written down."""
    if not looks:
        return None
    times = TIMES.get(len(looks), f"{len(looks)} times")
    if len(looks) == 1:
        return f"test was read {times}, at the end"
    each = "; ".join(f"{look['time'].replace('T', ' ')} {look['job']}, {look['num_models']} models" for look in looks)
    return f"test was read {times} ({each})"
