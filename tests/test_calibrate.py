"""What calibration reads: val chooses, held-out posts calibrate, and test is only measured on."""

from types import SimpleNamespace

import numpy as np
import pytest

from emo import calibrate
from emo.calibrate import Kept, _by_calibrator, _by_rule, _held_out
from emo.config import HeadConfig, SweepConfig

LABELS = ("joy", "fear", "anger")
KEPT = Kept("t", "bert", 1, SimpleNamespace(labels=LABELS, head=HeadConfig()))  # of a bundle nothing else is read
CONFIG = SweepConfig(calibration_trials=5)


def split(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = rng.random((80, 3)) < 0.3
    return targets, (0.5 * rng.random(targets.shape) + 0.3 * targets).astype(np.float32)


@pytest.fixture
def posts() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    parts = {name: split(seed) for seed, name in enumerate(("train", "val", "test"))}
    return {name: part[0] for name, part in parts.items()}, {name: part[1] for name, part in parts.items()}


def both(targets, probs, held_out):
    return _by_rule(KEPT, targets, probs, held_out, CONFIG), _by_calibrator(KEPT, targets, probs, held_out)


def test_no_choice_is_made_by_test(posts):
    targets, probs = posts
    held_out = split(3)[1]
    rules, calibrators = both(targets, probs, held_out)
    others, others_calibrators = both(targets | {"test": ~targets["test"]}, probs, held_out)
    for row, other in zip(rules + calibrators, others + others_calibrators, strict=True):
        for name in {*row} - {key for key in row if key.startswith("test/")}:
            assert row[name] == other[name], name
        measure = "test/macro_f1" if "rule" in row else "test/brier"
        assert row[measure] != other[measure]
    assert [row["rule"] for row in rules] == ["fixed", "optuna", "exact", "cross-fitted"]
    assert {row["fitted_on"] for row in calibrators} == {"held-out train"}
    assert sum(row["chosen"] for row in rules) == 1


def test_where_a_training_cannot_be_repeated_val_calibrates(posts, monkeypatch):
    def diverge(*_):
        raise FloatingPointError("The loss became nan.")

    monkeypatch.setattr(calibrate, "held_out_probs", diverge)
    data = SimpleNamespace(for_training=lambda: None)
    found = _held_out(KEPT.bundle, data, np.zeros(80))
    assert found is None
    rules, calibrators = both(*posts, found)
    assert [row["rule"] for row in rules] == ["fixed", "optuna", "exact"]
    assert {row["fitted_on"] for row in calibrators} == {"val"}
    changed = posts[0] | {"val": ~posts[0]["val"]}
    assert both(changed, posts[1], None)[1][1]["calibrator"] != calibrators[1]["calibrator"]
