"""What Tune's controller can keep busy: trials that only sleep 0.5 s, on cores that are only numbers.

Trials that end in a second, as a share of the ideal (cores / 0.5 s), with the scheduler of a sweep and with Tune's own.
Tune gives the actor of an ended trial to one that waits, and ends the actor that was starting for it: where trials are
shorter than an actor's start, most cores never get one. Limit: ours end at least 3 times as many on 32 cores.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from measure import show

pytestmark = pytest.mark.bench

SCRIPT = Path(__file__).with_name("sleeping_trials.py")
SECONDS = {8: 30, 32: 60}
"""For each number of cores, of which there are far fewer: actors start one after the other."""
LIMIT = 3


def sleep(cores: int, scheduler: str) -> dict[str, float]:
    command = [sys.executable, SCRIPT, str(cores), scheduler, str(SECONDS[cores])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return json.loads(done.stdout.splitlines()[-1])


def test_actors_that_start_are_kept() -> None:
    found = {(cores, scheduler): sleep(cores, scheduler) for cores in SECONDS for scheduler in ("ours", "tune")}
    for (cores, scheduler), told in found.items():
        figures = f"{told['rate']:.1f} a second, {told['share']:.0%} of the ideal, on {told['actors']} actors"
        print(f"{cores} cores, scheduler {scheduler}: {figures}")
    ours, tune = found[32, "ours"]["rate"], found[32, "tune"]["rate"]
    assert show("a sweep's scheduler on 32 cores, over Tune's", ours, tune, "trials/s", f">= {LIMIT}") >= LIMIT
