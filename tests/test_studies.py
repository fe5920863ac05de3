"""Studies: what was tried is on disk at every moment, and a sweep that was killed goes on as it would have."""

import gc
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from emo.config import SearchSpace, UserError
from emo.scheduling import StopWeak
from emo.studies import ALIKE, GRACE_EPOCHS, Studies
from emo.study_storage import JOURNAL
from emo.sweep import distributions
from emo.trial import COMPLETE, FAILED
from emo.trials import METRIC, PARAMETERS

pytest_plugins = ["postgres"]

NAN = "FloatingPointError: The loss became nan by step {} at learning rate 0.00{}."


def studies(run: Path, names: str = "ab", pruning: str = "none", **options: Any) -> Studies:
    spaces = {name: distributions(SearchSpace(), "frozen", 2) for name in names}
    return Studies(str(run), spaces, seed=3, pruning=pruning, **options)


def play(found: Studies, encoder: str, num_trials: int) -> list[dict[str, Any]]:
    """Trials that reach their dropout, one after another; their choices."""
    played = []
    for _ in range(num_trials):
        choices = found.ask(encoder)
        found.tell(choices["trial"], "done", {METRIC: choices["dropout"], "history": "[]"})
        played.append(choices)
    return played


def test_trials_have_ids_choices_and_rows(tmp_path):
    found = studies(tmp_path)
    choices = found.ask("b", "refine")
    assert choices["trial"] == "1-0"
    assert set(PARAMETERS) - set(choices) == {"encoder_lr"}
    assert found.rows[-1]["status"] == "running"
    row = found.tell("1-0", "done", {METRIC: 0.5, "num_epochs": 3, "pid": 17})
    assert (row["status"], row["phase"], row[METRIC], row["num_epochs"]) == ("done", "refine", 0.5, 3)
    assert found.values == {"a": [], "b": [0.5]}


@pytest.mark.parametrize("killed_after", [0, 1, 13])
def test_a_killed_sweep_goes_on_with_the_choices_it_would_have_made(tmp_path, killed_after):
    undisturbed = play(studies(tmp_path / "one"), "b", 16)
    before = studies(tmp_path / "two")
    played = play(before, "b", killed_after)
    lost = before.ask("b", "refine")  # nobody ever tells how it ended
    after = studies(tmp_path / "two")
    assert after.left_over() == "b"
    again = after.ask("b", "search")
    assert again == lost
    after.tell(again["trial"], "done", {METRIC: again["dropout"]})
    assert after.left_over() is None
    played += [again | {"phase": "search"}, *play(after, "b", 15 - killed_after)]
    assert played == undisturbed
    assert [row["trial_id"] for row in studies(tmp_path / "two").rows] == [f"1-{number}" for number in range(16)]


def test_rows_are_the_same_from_disk(tmp_path):
    found = studies(tmp_path)
    play(found, "a", 2)
    found.tell(found.ask("a")["trial"], "failed", {}, "ValueError: no")
    found.report(found.ask("b")["trial"], 1, 0.3)
    found.tell("1-0", "pruned", {METRIC: 0.3})
    assert studies(tmp_path).rows == found.rows
    assert [row["status"] for row in found.rows] == ["done", "done", "failed", "pruned"]
    assert found.values["b"] == [float("-inf")]


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path):
    play(studies(tmp_path), "a", 3)
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    journal.write_bytes(whole[: last + 10])
    again = studies(tmp_path)
    assert again.left_over() == "a"  # its end was what was cut
    assert play(again, "a", 1)[0]["trial"] == "0-2"
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_lock_that_a_kill_left_is_no_hindrance(tmp_path):
    play(studies(tmp_path), "a", 1)
    (tmp_path / f"{JOURNAL}.lock").touch()
    play(studies(tmp_path), "a", 1)


def test_two_processes_do_not_write_one_journal(tmp_path):
    found = studies(tmp_path)
    code = f"from emo.study_storage import Journal; Journal({str(tmp_path)!r})"
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert second.stderr.splitlines()[-1].endswith("is being written by another process; wait for it, or end it.")
    del found
    gc.collect()
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_encoder_whose_trials_all_fail_alike_is_given_up(tmp_path):
    found = studies(tmp_path)
    for number in range(ALIKE):
        assert found.given_up() == {}
        found.tell(found.ask("a")["trial"], "failed", {}, NAN.format(number, number))
        found.tell(found.ask("b")["trial"], "failed", {}, f"ValueError: {'xyz'[number]}")
    assert found.given_up() == studies(tmp_path).given_up() == {"a": NAN.format(0, 0)}


def test_one_good_trial_is_enough_to_go_on(tmp_path):
    found = studies(tmp_path)
    play(found, "a", 1)
    for number in range(2 * ALIKE):
        found.tell(found.ask("a")["trial"], "failed", {}, NAN.format(number, number))
    assert found.given_up() == {}


def test_studies_of_two_sweeps_share_a_database(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    first, second = (studies(tmp_path / name, database=url, name=name) for name in ("one", "two"))
    play(first, "a", 2)
    play(second, "a", 1)
    again = studies(tmp_path / "one", database=url, name="one")
    assert again.rows == first.rows
    assert len(again.rows) == 2
    assert not (tmp_path / "one" / JOURNAL).exists()
    assert sorted(optuna.get_all_study_names(url)) == ["one/a", "one/b", "two/a", "two/b"]


def test_a_database_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"^--optuna-storage sqlite:////nowhere/x.db cannot be used: .*[^.]\.$"):
        studies(tmp_path, database="sqlite:////nowhere/x.db")


class Trial:
    """What a scheduler reads of a trial of Tune's."""

    def __init__(self, trial_id: str) -> None:
        self.config = {"trial": trial_id}


def decide(found: Studies, encoder: str, value: float, epoch: int = GRACE_EPOCHS, max_epochs: int = 20) -> str:
    """What becomes of a new trial that has come so far."""
    trial = Trial(found.ask(encoder)["trial"])
    return StopWeak(found, max_epochs).on_trial_result(None, trial, {"epoch": epoch, METRIC: value})


def play_good_trials(found: Studies, encoder: str) -> None:
    for value in (0.7, 0.8, 0.9):
        assert decide(found, encoder, value) == "CONTINUE"
    for row in [row for row in found.rows if row["encoder"] == encoder]:
        found.tell(row["trial_id"], "done", {METRIC: 0.9})


@pytest.mark.parametrize("pruning", ["asha", "median"])
def test_a_weak_trial_is_stopped_but_not_before_it_had_its_chance(tmp_path, pruning):
    found = studies(tmp_path, pruning=pruning)
    play_good_trials(found, "a")
    assert decide(found, "a", 0.1, epoch=GRACE_EPOCHS - 1) == "CONTINUE"
    assert decide(found, "a", 0.1) == "STOP"
    assert decide(found, "a", 0.95) == "CONTINUE"
    assert decide(found, "b", 0.1) == "CONTINUE"  # encoders do not judge each other


@pytest.mark.parametrize("pruning", ["asha", "median"])
def test_what_a_killed_sweep_had_seen_still_counts(tmp_path, pruning):
    play_good_trials(studies(tmp_path, pruning=pruning), "a")
    after = studies(tmp_path, pruning=pruning)
    assert decide(after, "a", 0.1) == "STOP"
    assert decide(after, "b", 0.1) == "CONTINUE"


def test_without_pruning_no_trial_is_stopped(tmp_path):
    found = studies(tmp_path)
    play_good_trials(found, "a")
    assert decide(found, "a", 0.1) == "CONTINUE"


def test_epochs_that_a_trial_reports_again_count_once(tmp_path):
    before = studies(tmp_path, pruning="asha")
    trial_id = before.ask("a")["trial"]
    for epoch in (1, 2, 3):
        before.report(trial_id, epoch, epoch / 10)
    after = studies(tmp_path, pruning="asha")
    assert after.ask("a")["trial"] == trial_id
    for epoch in (1, 2, 3, 4):
        assert not after.report(trial_id, epoch, epoch / 10)
    reported = after.encoders["a"].study.trials[0]
    assert reported.intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}
    assert reported.state == TrialState.RUNNING


@pytest.mark.parametrize("result", [{COMPLETE: True, METRIC: 0.1}, {FAILED: "ValueError: no"}])
def test_a_trial_that_has_ended_is_not_stopped(tmp_path, result):
    found = studies(tmp_path, pruning="asha")
    play_good_trials(found, "a")
    trial = Trial(found.ask("a")["trial"])
    assert StopWeak(found, 20).on_trial_result(None, trial, result | {"epoch": GRACE_EPOCHS}) == "CONTINUE"


@pytest.mark.parametrize("max_epochs", [GRACE_EPOCHS - 1, GRACE_EPOCHS])
def test_a_training_that_has_come_to_its_last_epoch_is_not_stopped(tmp_path, max_epochs):
    found = studies(tmp_path, pruning="asha")
    for value in (0.9, 0.8, 0.7, 0.1):
        assert decide(found, "a", value, epoch=max_epochs, max_epochs=max_epochs) == "CONTINUE"


@pytest.mark.slow
def test_two_sweeps_share_a_postgresql_that_is_restarted_meanwhile(postgres, tmp_path):
    first, second = (studies(tmp_path / name, database=postgres.url, name=name) for name in ("one", "two"))
    with ThreadPoolExecutor() as pool:
        playing = [pool.submit(play, found, "a", 12) for found in (first, second)]
    assert [[row["trial_id"] for row in found.rows] for found in (first, second)] == [[f"0-{n}" for n in range(12)]] * 2
    assert [choices["lr"] for choices in playing[0].result()] == [row["lr"] for row in first.rows]
    postgres.stop()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(play, first, "b", 2)
        time.sleep(5)
        assert not waiting.done()
        postgres.start()
        assert len(waiting.result(timeout=60)) == 2
    again = studies(tmp_path / "one", database=postgres.url, name="one")
    assert again.rows == first.rows


@pytest.mark.slow
def test_a_database_that_refuses_says_so_without_the_password(postgres, tmp_path):
    wrong = postgres.url.replace("secret", "hunter2")
    with pytest.raises(UserError, match=r"cannot be used: .*password") as error:
        studies(tmp_path, database=wrong)
    assert "hunter2" not in str(error.value)
