"""Stopping trials early: each encoder by its own scores, which a killed sweep does not forget."""

from dataclasses import dataclass
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from emo import storage
from emo.pruning import GRACE_EPOCHS, REDUCTION, PruneEachEncoder
from emo.trial import COMPLETE, METRIC

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


@dataclass
class Trial:
    """What a scheduler reads of a trial of Tune's."""

    trial_id: str
    config: dict[str, Any]


def pruner(run: Any, max_epochs: int = 20) -> PruneEachEncoder:
    return PruneEachEncoder(str(run), ["a", "b"], max_epochs)


def decide(scheduler: PruneEachEncoder, trial_id: str, encoder: str, value: float, epoch: int = GRACE_EPOCHS) -> str:
    """What becomes of a trial that is new to the scheduler and has come so far."""
    trial = Trial(trial_id, {"encoder": encoder})
    scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"epoch": epoch, METRIC: value})


def play_good_trials(scheduler: PruneEachEncoder, encoder: str) -> None:
    for number, value in enumerate((0.7, 0.8, 0.9)):
        assert decide(scheduler, f"{encoder}{number}", encoder, value) == CONTINUE


def test_a_weak_trial_is_stopped_but_not_before_it_had_its_chance(tmp_path):
    scheduler = pruner(tmp_path)
    play_good_trials(scheduler, "a")
    assert decide(scheduler, "early", "a", 0.1, epoch=GRACE_EPOCHS - 1) == CONTINUE
    assert decide(scheduler, "weak", "a", 0.1) == STOP
    assert decide(scheduler, "best", "a", 0.95) == CONTINUE


def test_encoders_do_not_judge_each_other(tmp_path):
    scheduler = pruner(tmp_path)
    play_good_trials(scheduler, "a")
    assert decide(scheduler, "b0", "b", 0.1) == CONTINUE


@pytest.mark.parametrize("value", [0.1, 0.75, 0.95])
def test_what_a_killed_sweep_had_seen_still_counts(tmp_path, value):
    before = pruner(tmp_path)
    play_good_trials(before, "a")
    after = pruner(tmp_path)
    assert decide(after, "next", "a", value) == decide(before, "next", "a", value)
    assert decide(after, "b0", "b", 0.1) == CONTINUE


def test_a_trial_that_goes_on_after_a_kill_counts_once(tmp_path):
    play_good_trials(pruner(tmp_path), "a")
    after = pruner(tmp_path)
    assert decide(after, "a2", "a", 0.1, epoch=GRACE_EPOCHS + 1) == CONTINUE  # judged before the kill
    rungs = storage.read_json(storage.join(str(tmp_path), "rungs.json"))
    assert [scores for scores in rungs["a"] if scores] == [{"a0": 0.7, "a1": 0.8, "a2": 0.9}]


def test_a_complete_trial_is_never_stopped(tmp_path):
    scheduler = pruner(tmp_path)
    play_good_trials(scheduler, "a")
    trial = Trial("weak", {"encoder": "a"})
    scheduler.on_trial_add(None, trial)
    result = {"epoch": GRACE_EPOCHS, METRIC: 0.1, COMPLETE: True}
    assert scheduler.on_trial_result(None, trial, result) == CONTINUE


def test_a_first_epoch_without_a_score_stops_nothing(tmp_path):
    trial = Trial("nan", {"encoder": "a"})
    scheduler = pruner(tmp_path)
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"epoch": 0, "error": "The loss became nan."}) == CONTINUE


@pytest.mark.parametrize("max_epochs", [GRACE_EPOCHS - 1, GRACE_EPOCHS, GRACE_EPOCHS * REDUCTION])
def test_a_training_that_has_come_to_its_last_epoch_is_not_stopped(tmp_path, max_epochs):
    scheduler = pruner(tmp_path, max_epochs)
    for number, value in enumerate((0.9, 0.8, 0.7, 0.1)):
        assert decide(scheduler, f"t{number}", "a", value, epoch=max_epochs) == CONTINUE
