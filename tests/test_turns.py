"""Whose turn it is: fair turns, halving, refinement, and encoders that are given up."""

from dataclasses import replace

import pytest

from emo.config import Budget, Round
from emo.turns import SweepOver, Values, next_turn

BUDGET = Budget(encoders=(), trials=3, refine_trials=2, refine_top=1, calibration_trials=1, max_epochs=2)


def play(budget: Budget, value_of: dict[str, float], top: int = 10) -> list[tuple[str, str]]:
    """Encoder and phase of every trial, one at a time, where each encoder's always reach the same."""
    values: Values = {name: [] for name in value_of}
    played = []
    while True:
        try:
            name, each = next_turn(values, budget.rounds(len(values)), top)
        except SweepOver:
            assert len(played) == budget.total_trials(len(value_of))
            return played
        played.append((name, each.phase))
        values[name].append(value_of[name])


def test_encoders_take_turns_and_the_best_is_refined():
    played = play(BUDGET, {"a": 0.1, "b": 0.9})
    assert played == [("a", "search"), ("b", "search")] * 3 + [("b", "refine")] * 2


def test_several_encoders_are_refined_in_turn():
    played = play(replace(BUDGET, refine_top=2), {"a": 0.5, "b": 0.1, "c": 0.9})
    assert sorted(played[9:]) == [("a", "refine")] * 2 + [("c", "refine")] * 2


def test_refinement_waits_for_the_trials_that_still_run():
    rounds = replace(BUDGET, trials=1).rounds(2)
    assert next_turn({"a": [0.5], "b": [None]}, rounds, 10) is None
    assert next_turn({"a": [0.5], "b": [0.6]}, rounds, 10) == ("b", Round(1, 3, "refine"))


def test_what_refinement_reaches_does_not_change_what_is_refined():
    rounds = BUDGET.rounds(2)
    assert next_turn({"a": [0.5, 0.5, 0.5], "b": [0.6, 0.6, 0.6, 0.0]}, rounds, 1)[0] == "b"


def test_encoders_are_ranked_by_the_mean_of_their_best_trials():
    rounds = BUDGET.rounds(2)
    values: Values = {"lucky": [0.9, 0.1, 0.1], "steady": [0.7, 0.7, 0.1]}
    assert next_turn(values, rounds, 1)[0] == "lucky"
    assert next_turn(values, rounds, 2)[0] == "steady"


def test_halving_gives_the_later_trials_to_the_better_half():
    budget = replace(BUDGET, trials=8, refine_trials=0, turns="halving")
    played = [name for name, _ in play(budget, {"a": 0.1, "b": 0.4, "c": 0.3, "d": 0.2})]
    assert {name: played.count(name) for name in "abcd"} == {"a": 4, "b": 12, "c": 12, "d": 4}
    assert set(played[16:]) == {"b", "c"}
    assert len(played) == 8 * 4


@pytest.mark.parametrize("num_encoders", range(1, 12))
@pytest.mark.parametrize("trials", [4, 16, 200])
def test_halving_spends_no_more_than_fair_turns(num_encoders, trials):
    fair = replace(BUDGET, trials=trials)
    halving = replace(fair, turns="halving")
    spent, owed = halving.total_trials(num_encoders), fair.total_trials(num_encoders)
    assert owed - 3 * num_encoders <= spent <= owed


def test_an_encoder_that_is_given_up_gets_no_further_turn():
    values: Values = {"a": [float("-inf")] * 2, "b": [0.5, 0.6]}
    assert next_turn(values, BUDGET.rounds(2), 10)[0] == "a"
    assert next_turn(values, BUDGET.rounds(2), 10, given_up=["a"])[0] == "b"
    with pytest.raises(SweepOver):
        next_turn(values, BUDGET.rounds(2), 10, given_up=["a", "b"])
