"""The main job on the embedded corpus, from an empty cache to the report, as one command.

Limit: under 240 s on a laptop with 2 cores, after installation.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from measure import seconds

pytestmark = pytest.mark.bench

LIMIT = 240.0
JOB = Path(__file__).parents[2] / "jobs" / "sweep.py"


def test_demo_job(tmp_path: Path) -> None:
    command = [sys.executable, str(JOB), "--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "run")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    took = seconds(lambda: subprocess.run(command, check=True, env=environment, cwd=tmp_path))
    print(f"demo job: ours {took:.0f} s, reference {LIMIT:.0f} s, ratio {took / LIMIT:.2f} (limit 1.00)")
    assert (tmp_path / "run" / "report.html").exists()
    assert took < LIMIT
