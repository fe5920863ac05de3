"""Calibrating anew: any run's trials are copied, in whatever state it is, and nothing is written where they lie."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from emo import storage
from emo.config import CalibrateConfig, SearchSpace, SweepConfig, UserError, from_dict, to_dict
from emo.recalibrate import copy_run
from emo.run import FINISHED, Run
from emo.scores import kept_trials
from emo.trials import SCHEMA, read_trials, write_trials

SCORES = {"a": 0.3, "b": 0.7, "c": 0.5, "d": 0.6, "running": None, "other": 0.1}


def trial(name: str) -> dict:
    status = "running" if SCORES[name] is None else "done"
    encoder = "bert" if name == "other" else "clip"
    row = {"trial_id": name, "encoder": encoder, "status": status, "val/macro_f1": SCORES[name]}
    return dict.fromkeys(SCHEMA.names) | row


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A sweep that is still running: its first and second best trials are done, and weights were dropped."""
    folder = tmp_path / "one"
    config = SweepConfig(output=str(folder), calibration_trials=7, top=2).resolved()
    storage.write_json(f"{folder}/posts.json", {"kind": "posts"})
    storage.write_json(f"{folder}/config.json", {"config": to_dict(config), "encoders": [], "started": "now"})
    write_trials(str(folder), [trial(name) for name in SCORES])
    for name in ("a", "c", "d", "other", "running"):
        storage.write_bytes(f"{folder}/weights/{name}.safetensors", name.encode())
    return folder


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def asked(source: Path, **choices) -> CalibrateConfig:
    return CalibrateConfig(run=str(source), output=str(source.parent / "two"), **choices)


def test_the_best_trials_with_weights_are_copied_and_the_others_counted(source, capsys):
    before = state(source)
    run, swept = copy_run(asked(source, calibration_trials=9, probabilities="isotonic"))
    assert state(source) == before
    copied = {path.stem: path.read_bytes() for path in Path(run.folder, "weights").iterdir()}
    assert copied == {"d": b"d", "c": b"c", "other": b"other"}  # b, the best, has lost its weights; a is the third
    assert "weights: 1 finished trials have none" in capsys.readouterr().out
    kept = kept_trials(run.folder, read_trials(run.folder), "clip", swept.top)
    assert [row["trial_id"] for row in kept] == ["d", "c"]


def test_weights_that_vanish_meanwhile_are_passed_over(source, capsys, monkeypatch):
    read = storage.read_bytes

    def read_while_the_sweep_goes_on(uri: str) -> bytes:
        if uri.endswith("d.safetensors"):
            Path(uri).unlink()
        return read(uri)

    monkeypatch.setattr(storage, "read_bytes", read_while_the_sweep_goes_on)
    run, _ = copy_run(asked(source))
    assert {path.stem for path in Path(run.folder, "weights").iterdir()} == {"c", "a", "other"}
    assert "weights: 2 finished trials have none" in capsys.readouterr().out


def test_a_copied_run_has_the_choices_of_the_first_but_for_the_calibration(source):
    Run(str(source)).log(FINISHED)
    run, swept = copy_run(asked(source, calibration_trials=9, probabilities="temperature"))
    stored = from_dict(SweepConfig, json.loads((source / "config.json").read_text())["config"])
    assert swept == replace(stored, output=run.folder, calibration_trials=9, probabilities="temperature")
    assert from_dict(SweepConfig, storage.read_json(run.path("config.json"))["config"]) == swept
    assert not run.is_finished()


def test_what_cannot_be_is_said_before_anything_is_written(source):
    with pytest.raises(UserError, match="already holds files"):
        copy_run(replace(asked(source), output=str(source)))
    config = storage.read_json(f"{source}/config.json")
    config["config"]["space"] = to_dict(SearchSpace(loss=("softmax",)))
    storage.write_json(f"{source}/config.json", config)
    with pytest.raises(UserError, match="--probabilities isotonic calibrates label by label"):
        copy_run(asked(source, probabilities="isotonic"))
    (source / "trials.parquet").unlink()
    with pytest.raises(UserError, match=r"--run .* has no trials yet"):
        copy_run(asked(source))
    assert not (source.parent / "two").exists()
