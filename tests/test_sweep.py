"""The search: turns, budgets, refinement, and a Tune experiment that is killed and gone on with."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from emo import storage
from emo.config import Budget, HeadConfig, SearchSpace
from emo.models import FeatureSpec
from emo.sweep import StudyPerEncoder, distributions, run_trials
from emo.train import TrainingData
from emo.trial import COMPLETE, METRIC, PARAMETERS, weights_uri
from emo.watch import Watcher, ranked, read_trials

BUDGET = Budget(encoders=(), trials=3, refine_trials=2, refine_top=1, calibration_trials=1, max_epochs=2)


def data(seed: int, width: int = 4) -> TrainingData:
    rng = np.random.default_rng(seed)

    def split(num: int) -> tuple[np.ndarray, np.ndarray]:
        features = rng.standard_normal((num, width)).astype(np.float32)
        return np.concatenate([features, np.ones((num, 1), np.float32)], axis=1), features[:, :2] > 0

    return TrainingData(*split(60), *split(30), specs={"text": FeatureSpec(width)})


def finish(searcher: StudyPerEncoder, trial_id: str, value: float | None) -> None:
    result = None if value is None else {METRIC: value, "training_iteration": 1, COMPLETE: True}
    searcher.on_trial_complete(trial_id=trial_id, result=result, error=value is None)


def spaces(names: list[str]) -> dict:
    return {name: distributions(SearchSpace(), "frozen", 2) for name in names}


def play(searcher: StudyPerEncoder, value_of: dict[str, float | None]) -> list[tuple[str, str]]:
    """Encoder and phase of every trial, one trial at a time."""
    played = []
    while isinstance(choices := searcher.suggest(f"t{len(played)}"), dict):
        played.append((choices["encoder"], choices["phase"]))
        finish(searcher, f"t{len(played) - 1}", value_of[choices["encoder"]])
    assert choices == StudyPerEncoder.FINISHED
    return played


def test_encoders_take_turns_and_the_best_is_refined():
    searcher = StudyPerEncoder(spaces(["a", "b"]), BUDGET, seed=0)
    played = play(searcher, {"a": 0.1, "b": 0.9})
    assert played == [("a", "search"), ("b", "search")] * 3 + [("b", "refine")] * 2


def test_several_encoders_are_refined_in_turn():
    budget = dataclasses.replace(BUDGET, refine_top=2)
    played = play(StudyPerEncoder(spaces(["a", "b", "c"]), budget, seed=0), {"a": 0.5, "b": 0.1, "c": 0.9})
    assert sorted(played[9:]) == [("a", "refine")] * 2 + [("c", "refine")] * 2


def test_refinement_waits_for_the_trials_that_still_run():
    searcher = StudyPerEncoder(spaces(["a"]), dataclasses.replace(BUDGET, trials=1), seed=0)
    searcher.suggest("t0")
    assert searcher.suggest("t1") is None
    finish(searcher, "t0", 0.5)
    assert searcher.suggest("t1")["phase"] == "refine"


def test_a_failed_trial_is_spent_and_its_study_knows():
    searcher = StudyPerEncoder(spaces(["a", "b"]), BUDGET, seed=0)
    played = play(searcher, {"a": None, "b": 0.2})
    assert [name for name, _ in played].count("a") == 3
    states = [trial.state.name for trial in searcher.studies["a"]._ot_study.trials]
    assert states == ["FAIL"] * 3


def test_a_trial_that_was_stopped_early_is_pruned_in_its_study():
    searcher = StudyPerEncoder(spaces(["a"]), BUDGET, seed=0)
    searcher.suggest("t0")
    searcher.on_trial_result("t0", {METRIC: 0.9, "training_iteration": 1})
    searcher.on_trial_complete(trial_id="t0", result={METRIC: 0.9, "training_iteration": 1})
    assert [trial.state.name for trial in searcher.studies["a"]._ot_study.trials] == ["PRUNED"]
    assert searcher.best["a"] == float("-inf")  # nor does it decide which encoder is refined


def test_every_encoder_has_a_study_of_its_own():
    searcher = StudyPerEncoder(spaces(["a", "b"]), dataclasses.replace(BUDGET, refine_trials=0), seed=0)
    play(searcher, {"a": 0.1, "b": 0.9})
    assert {name: [t.value for t in s._ot_study.trials] for name, s in searcher.studies.items()} == {
        "a": [0.1] * 3,
        "b": [0.9] * 3,
    }


def test_a_searcher_goes_on_where_it_was_saved(tmp_path):
    whole = StudyPerEncoder(spaces(["a", "b"]), BUDGET, seed=3)
    cut = StudyPerEncoder(spaces(["a", "b"]), BUDGET, seed=3)
    for searcher in (whole, cut):
        for number in range(3):
            searcher.suggest(f"t{number}")
            finish(searcher, f"t{number}", 0.1 * number)
    cut.save(str(tmp_path / "state"))
    restored = StudyPerEncoder(spaces(["a", "b"]), BUDGET, seed=99)
    restored.restore(str(tmp_path / "state"))
    assert restored.suggest("t3") == whole.suggest("t3")


def test_the_space_is_the_search_spaces():
    assert set(distributions(SearchSpace(), "full", 2)) == set(PARAMETERS)
    assert set(PARAMETERS) - set(distributions(SearchSpace(), "frozen", 1)) == {"encoder_lr", "fusion"}
    lr = distributions(SearchSpace(), "frozen", 1)["lr"]
    assert (lr.low, lr.high, lr.log) == (1e-5, 1e-2, True)


@pytest.fixture(scope="module")
def run(tmp_path_factory, ray_session):
    """A sweep of two encoders, one of which has features that are not finite."""
    folder = str(tmp_path_factory.mktemp("run"))
    broken = data(1)
    broken.train_packed[:] = np.nan
    searcher = StudyPerEncoder(spaces(["good", "broken"]), BUDGET, seed=0)
    run_trials(
        folder,
        {"good": data(0), "broken": broken},
        HeadConfig(max_epochs=2),
        searcher,
        [Watcher(folder, ["good", "broken"], BUDGET.total_trials(2), top=2)],
    )
    return folder


def test_a_sweep_runs_the_trials_that_it_owes(run):
    rows = read_trials(run)
    assert len({row["trial_id"] for row in rows}) == len(rows) == BUDGET.total_trials(2)
    good = [row for row in rows if row["encoder"] == "good"]
    assert [row["status"] for row in good] == ["done"] * 5
    for row in good:
        assert row["num_epochs"] == len(json.loads(row["history"])) == 2
        assert 0 <= row[METRIC] <= 1
        assert row["train_seconds"] > 0


def test_a_trial_that_diverges_fails_alone_and_says_why(run):
    broken = [row for row in read_trials(run) if row["encoder"] == "broken"]
    assert [row["status"] for row in broken] == ["failed"] * 3
    assert all("The loss became nan" in row["error"] for row in broken)
    assert all(row[METRIC] is None for row in broken)


def test_only_the_best_trials_keep_their_weights(run):
    rows = read_trials(run)
    best = {row["trial_id"] for row in ranked(rows, "good")[:2]}
    kept = {row["trial_id"] for row in rows if storage.exists(weights_uri(run, row["trial_id"]))}
    assert kept == best


SCRIPT = """
import sys
from emo.session import prepare_environment
prepare_environment()
from emo.session import start_ray
from emo.config import Budget, HeadConfig, SearchSpace
from emo.models import FeatureSpec
from emo.sweep import StudyPerEncoder, run_trials
from emo.watch import Watcher
sys.path.insert(0, {tests!r})
from test_sweep import data, spaces
start_ray()
budget = Budget(encoders=(), trials=20, refine_trials=4, refine_top=1, calibration_trials=1, max_epochs=60)
folder, names = {run!r}, ["a", "b"]
sets = {{name: data(i, width=64) for i, name in enumerate(names)}}
run_trials(folder, sets, HeadConfig(max_epochs=60, patience=60), StudyPerEncoder(spaces(names), budget, 0),
           [Watcher(folder, names, budget.total_trials(2), top=3)])
"""


@pytest.mark.slow
def test_a_killed_sweep_ends_with_the_trials_that_it_owes(tmp_path):
    run = str(tmp_path / "run")
    command = [sys.executable, "-c", SCRIPT.format(tests=os.path.dirname(__file__), run=run)]
    weights = tmp_path / "run" / "weights"
    for enough in (2, 5):  # killed twice, at different places
        process = subprocess.Popen(command, start_new_session=True)
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and (not weights.exists() or len(list(weights.iterdir())) < enough):
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, timeout=300)
    rows = read_trials(run)
    assert len(rows) == len({row["trial_id"] for row in rows}) == 44
    counts = {name: sum(row["encoder"] == name for row in rows) for name in "ab"}
    assert sorted(counts.values()) == [20, 24]
    assert {row["status"] for row in rows} == {"done"}
