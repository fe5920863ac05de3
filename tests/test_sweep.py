"""The search: a Tune experiment over studies, whatever befalls its trials and itself."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from kills import below, kill_tree
from sweep_alone import features

from emo import storage
from emo.config import SearchSpace, SweepConfig, UserError
from emo.studies import ALIKE
from emo.study_storage import JOURNAL
from emo.sweep import distributions, sweep
from emo.trial import weights_uri
from emo.trials import METRIC, PARAMETERS, ranked, read_trials

SMALL = SweepConfig(trials=3, refine_trials=2, refine_top=1, max_epochs=2, top=2)


def test_the_space_is_the_search_spaces():
    assert set(distributions(SearchSpace(), "full", 2)) == set(PARAMETERS)
    assert set(PARAMETERS) - set(distributions(SearchSpace(), "frozen", 1)) == {"encoder_lr", "fusion"}
    lr = distributions(SearchSpace(), "frozen", 1)["lr"]
    assert (lr.low, lr.high, lr.log) == (1e-5, 1e-2, True)


@pytest.fixture(scope="module")
def run(tmp_path_factory, ray_session):
    """A sweep of two encoders, one of which has features that are not finite."""
    folder = str(tmp_path_factory.mktemp("run"))
    broken = features(1)
    broken.train_packed[:] = np.nan
    sweep(folder, SMALL, {"good": features(0), "broken": broken}, {})
    return folder


def test_a_sweep_runs_the_trials_that_it_owes(run):
    rows = read_trials(run)
    assert len({row["trial_id"] for row in rows}) == len(rows) == SMALL.budget.total_trials(2)
    good = [row for row in rows if row["encoder"] == "good"]
    assert [row["status"] for row in good] == ["done"] * 5
    assert [row["phase"] for row in good] == ["search"] * 3 + ["refine"] * 2
    for row in good:
        assert row["num_epochs"] == len(json.loads(row["history"])) == 2
        assert 0 <= row[METRIC] <= 1
        assert row["train_seconds"] > 0


def test_a_trial_that_diverges_fails_alone_and_says_why(run):
    broken = [row for row in read_trials(run) if row["encoder"] == "broken"]
    assert [row["status"] for row in broken] == ["failed"] * 3
    assert all("FloatingPointError: The loss became nan" in row["error"] for row in broken)
    assert all(row[METRIC] is None for row in broken)


def test_only_the_best_trials_keep_their_weights(run):
    rows = read_trials(run)
    best = {row["trial_id"] for row in ranked(rows, "good")[:2]}
    kept = {row["trial_id"] for row in rows if storage.exists(weights_uri(run, row["trial_id"]))}
    assert kept == best


def test_a_sweep_that_has_ended_tries_nothing_more(run):
    before = read_trials(run)
    storage.remove(storage.join(run, "trials.parquet"))  # the former process was killed before it wrote it
    sweep(run, SMALL, {"good": features(0), "broken": features(1)}, {})
    assert read_trials(run) == before


def test_a_run_whose_studies_are_gone_is_not_begun_anew(run, tmp_path):
    shutil.copy(Path(run, "trials.parquet"), tmp_path)
    with pytest.raises(UserError, match="has trials, but their studies are gone"):
        sweep(str(tmp_path), SMALL, {"good": features(0), "broken": features(1)}, {})


@pytest.mark.usefixtures("ray_session")
def test_encoders_that_fail_alike_cost_a_few_trials_only(tmp_path, capsys):
    broken = features(1)
    broken.train_packed[:] = np.nan
    sweep(str(tmp_path), SweepConfig(trials=50, max_epochs=2), {"broken": broken}, {})
    assert ALIKE <= len(read_trials(str(tmp_path))) <= 2 * ALIKE
    assert "broken is given up, since its first 3 trials failed alike: FloatingPointError" in capsys.readouterr().out


@pytest.mark.usefixtures("ray_session")
def test_a_folder_that_cannot_be_written_to_stops_the_sweep_which_goes_on_later(tmp_path):
    weights = tmp_path / "weights"
    weights.symlink_to("/sys/kernel")  # nobody can write there
    with pytest.raises(UserError, match=r"^The sweep was stopped.*--resume.*\.$"):
        sweep(str(tmp_path), SMALL, {"a": features(0)}, {})
    weights.unlink()
    sweep(str(tmp_path), SMALL, {"a": features(0)}, {})
    rows = read_trials(str(tmp_path))
    assert [(row["trial_id"], row["status"]) for row in rows] == [(f"0-{number}", "done") for number in range(5)]


def num_ended(run: Path) -> int:
    """How many trials the studies say have ended."""
    journal = run / JOURNAL
    return journal.read_text().count('"op_code":6,') if journal.exists() else 0


@pytest.mark.usefixtures("ray_session")
def test_a_trial_whose_process_is_killed_is_run_again(tmp_path):
    config = SweepConfig(trials=8, refine_trials=0, max_epochs=60, patience=60, top=2)
    thread = threading.Thread(target=sweep, args=(str(tmp_path), config, {"a": features(0, width=64)}, {}))
    thread.start()
    for enough in (2, 5):
        while num_ended(tmp_path) < enough:
            time.sleep(0.02)
        random.choice(below(os.getpid(), "ray::ImplicitFunc")).kill()
    thread.join()
    rows = read_trials(str(tmp_path))
    assert [(row["trial_id"], row["status"]) for row in rows] == [(f"0-{number}", "done") for number in range(8)]


def alone(run: Path, trials: int) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("sweep_alone.py")), str(run), str(trials)]


def outcome(run: Path) -> list[dict]:
    """What trials chose and reached, but for how long it took."""
    return [row | {"train_seconds": None} for row in read_trials(str(run))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(alone(run, 40), check=True, timeout=300)
    return outcome(run)


HEAD, NODE, DRIVER, TRIAL = "gcs_server", "raylet/raylet", "driver", "ray::ImplicitFunc"


@pytest.mark.slow
def test_a_sweep_is_killed_twenty_times_and_ends_as_an_undisturbed_one(undisturbed, tmp_path):
    rng = random.Random(0)
    victims = [DRIVER] * 6 + [NODE] * 4 + [HEAD] * 2 + [TRIAL] * 8
    rng.shuffle(victims)
    process = None
    for victim in victims:
        if process is None or process.poll() is not None:
            process = subprocess.Popen(alone(tmp_path, 40))
        before = num_ended(tmp_path)
        while num_ended(tmp_path) == before and process.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, "it ended before it was killed"
        if victim == DRIVER:
            kill_tree(process.pid)
        else:
            rng.choice(below(process.pid, victim)).kill()
        if victim != TRIAL:
            assert process.wait(timeout=120) != 0
    if process.wait() != 0:
        subprocess.run(alone(tmp_path, 40), check=True, timeout=300)
    assert outcome(tmp_path) == undisturbed


def test_a_killed_sweep_ends_with_the_trials_that_it_owes(tmp_path):
    process = subprocess.Popen(alone(tmp_path, 6))
    while num_ended(tmp_path) < 3:
        time.sleep(0.05)
    kill_tree(process.pid)
    process.wait()
    subprocess.run(alone(tmp_path, 6), check=True, timeout=300)
    rows = read_trials(str(tmp_path))
    assert sorted(row["trial_id"].split("-")[0] for row in rows) in (["0"] * 10 + ["1"] * 6, ["0"] * 6 + ["1"] * 10)
    assert len({row["trial_id"] for row in rows}) == 16
    assert {row["status"] for row in rows} == {"done", "pruned"}
