"""The leaderboard: a row is the mean over an encoder's kept models, with the rules that there are."""

import pytest

from emo.encoders import parse_encoder
from emo.leaderboard import best_model, encoder_row

SPEC = parse_encoder("bert-base")


def calibrated(trial: str, rule: str, val: float, test: float, chosen: bool) -> dict:
    scores = {"val/macro_f1": val, "test/macro_f1": test}
    about = {"trial_id": trial, "encoder": SPEC.name, "rule": rule, "chosen": chosen}
    return about | {"thresholds": [0.5], "single_label": False} | scores


ROWS = [
    calibrated("a", "fixed", 0.5, 0.4, False),
    calibrated("a", "optuna", 0.6, 0.5, True),
    calibrated("b", "fixed", 0.7, 0.8, True),
    calibrated("b", "optuna", 0.6, 0.9, False),
]


def test_a_row_is_the_mean_of_models_under_the_rule_that_val_chose():
    row = encoder_row(SPEC, ROWS)
    assert row["num_models"] == 2
    assert row["val/macro_f1"] == pytest.approx(0.65)
    assert row["test/macro_f1"] == pytest.approx(0.65)
    assert row["test/macro_f1_sd"] == pytest.approx(0.15)
    assert row["test/fixed_macro_f1"] == pytest.approx(0.6)
    assert row["models"] == [{"trial_id": name, "thresholds": [0.5], "single_label": False} for name in "ab"]


def test_a_rule_that_one_label_a_post_does_not_have_is_left_empty():
    assert encoder_row(SPEC, ROWS)["test/exact_macro_f1"] is None


def test_the_best_model_is_the_best_on_val():
    assert best_model([encoder_row(SPEC, ROWS)], ROWS)["trial_id"] == "b"
