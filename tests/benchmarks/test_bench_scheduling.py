"""What Tune's controller can keep busy: trials that only sleep 0.5 s, on cores that are only numbers.

Trainings that end in a second, as a share of the ideal (cores / 0.5 s), with one training in a trial and with 8. Tune
gives the actor of an ended trial to one that waits, and ends the actor that was starting for it: where trials are
shorter than an actor's start, most cores never get one. Limit: 8 in a trial end at least 1.5 times as many on 32 cores.
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
LIMIT = 1.5


def sleep(cores: int, trainings: int) -> dict[str, float]:
    command = [sys.executable, SCRIPT, str(cores), str(trainings), str(SECONDS[cores])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return json.loads(done.stdout.splitlines()[-1])


def test_trials_of_several_trainings_keep_more_cores_busy():
    found = {(cores, trainings): sleep(cores, trainings) for cores in SECONDS for trainings in (1, 8)}
    for (cores, trainings), told in found.items():
        figures = f"{told['rate']:.1f} a second, {told['share']:.0%} of the ideal, on {told['actors']} actors"
        print(f"{cores} cores, {trainings} trainings in a trial: {figures}")
    eight, one = found[32, 8]["rate"], found[32, 1]["rate"]
    assert show("8 trainings in a trial against 1, on 32 cores", eight, one, "a second", f"at least {LIMIT}") >= LIMIT
