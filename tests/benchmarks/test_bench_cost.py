"""The estimate of a sweep against what it then takes: 2 encoders x 60 trials on the embedded corpus, on cached features
that a first run has left.

Limit: between half and twice the estimate, by the clock since it was made. What else the machine does while the
calibration runs, or while the sweep does, is in that.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from measure import show

pytestmark = pytest.mark.bench

JOB = Path(__file__).parents[2] / "jobs" / "sweep.py"
FLAGS = ("--encoders", "tiny-bert", "tiny-clip:text", "--refine-trials", "0")
LIMIT = 2.0


def run(folder: Path, name: str, *flags: str) -> None:
    command = [sys.executable, str(JOB), "--cache", str(folder / "cache"), "--output", str(folder / name)]
    subprocess.run([*command, *FLAGS, *flags], check=True, timeout=1800)


def test_estimate(tmp_path: Path) -> None:
    run(tmp_path, "first", "--trials", "1", "--top", "1", "--calibration-trials", "1")
    run(tmp_path, "second", "--trials", "60")
    content = json.loads((tmp_path / "second" / "cost.json").read_text())
    low, expected, high = content["estimate"]["seconds"]
    taken = content["usage"]["seconds"] - content["before"]["seconds"]
    print(f"estimated {expected:.0f} s, 95 % interval {low:.0f} to {high:.0f} s: {content['estimate']['stages']}")
    assert 1 / LIMIT <= show("a sweep, by its estimate", taken, expected, "s", f"{1 / LIMIT} to {LIMIT}") <= LIMIT
