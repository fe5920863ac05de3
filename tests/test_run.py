"""Run folders: never overwritten, gone on with only by the same choices."""

import dataclasses
import json
import re
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emo.config import Columns, PrepareConfig, SearchSpace, SweepConfig, UserError, from_dict
from emo.encoders import Branch, EncoderSpec, parse_encoder
from emo.run import (
    FINISHED,
    VERSIONED,
    Run,
    claim,
    describe_encoder,
    existing_run,
    keep_plan,
    open_run,
    output_folder,
    stored_encoders,
    write_config,
)


def config_of(folder: Path | str) -> dict:
    return json.loads((Path(folder) / "config.json").read_text())


def events_of(run: Run) -> list[str]:
    return [event.split(" ", 1)[1] for event in run.events]


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch):
    monkeypatch.setattr("emo.run.num_cpus", lambda: 2)


def begin(config: SweepConfig) -> tuple[Run, SweepConfig]:
    """Open a run, new or gone on with, and write down its plan, as a sweep does."""
    run, config = open_run(config)
    keep_plan(run, config, {"kind": "posts"}, [], {})
    return run, config


# A new folder


def test_a_new_folder_is_made(tmp_path):
    claim(str(tmp_path / "deep" / "run"))
    assert (tmp_path / "deep" / "run").is_dir()
    claim(str(tmp_path / "deep" / "run"))  # nothing is in it yet


@pytest.mark.parametrize("content", ["file.txt", "folder"])
def test_a_folder_with_anything_in_it_is_refused(content, tmp_path):
    (tmp_path / content).mkdir() if content == "folder" else (tmp_path / content).touch()
    with pytest.raises(UserError, match=rf"--output {tmp_path} already holds"):
        claim(str(tmp_path))


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="--output"):
        claim(str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"--output .* cannot be written"):
        claim(str(tmp_path / "file" / "run"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_on_another_store():
    folder = "memory://claimed/one"  # the store is one for all tests
    claim(folder)
    fsspec.filesystem("memory").pipe_file("/claimed/one/events.log", b"x")
    with pytest.raises(UserError, match="already holds"):
        claim(folder)
    fsspec.filesystem("memory").store.clear()


def test_where_results_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert output_folder("one", "sweep") == str(tmp_path / "one")
    assert output_folder("s3://bucket/one", "sweep") == "s3://bucket/one"
    assert re.fullmatch(rf"{tmp_path}/runs/sweep-\d{{4}}-\d\d-\d\d-\d{{6}}", output_folder(None, "sweep"))


def test_a_new_run_says_what_it_was_told(tmp_path):
    run, config = begin(SweepConfig(output=str(tmp_path / "run"), trials=3))
    assert run.folder == config.output == str(tmp_path / "run")
    stored = from_dict(SweepConfig, config_of(run.folder)["config"])
    assert stored == config.resolved()
    assert stored.calibration_trials == 50  # what the preset says is written out
    assert set(config_of(run.folder)["versions"]) == set(VERSIONED)
    assert config_of(run.folder)["plan"] == {"num_workers": 2}
    assert json.loads((tmp_path / "run" / "posts.json").read_text()) == {"kind": "posts"}
    assert events_of(run) == ["started"]
    with pytest.raises(UserError, match=r"already holds files.*; name another folder, or .* --resume"):
        open_run(SweepConfig(output=str(tmp_path / "run"), trials=3))


def test_a_run_without_a_plan_leaves_its_folder_free(tmp_path):
    config = SweepConfig(output=str(tmp_path / "run"))
    run, _ = open_run(config)
    assert stored_encoders(run) == []
    assert open_run(config)


# Going on


def test_only_a_run_can_be_gone_on_with(tmp_path):
    with pytest.raises(UserError, match=rf"--resume: {tmp_path} holds no run to go on with \(it has no config.json\)"):
        open_run(SweepConfig(output=str(tmp_path), resume=True))


def test_the_same_choices_go_on(tmp_path):
    first = SweepConfig(output=str(tmp_path), trials=3, space=SearchSpace(hidden=(8,)))
    _, before = begin(first)
    (tmp_path / "config.json").write_text(json.dumps(config_of(tmp_path) | {"started": "long ago"}))
    run, config = begin(dataclasses.replace(first, resume=True))
    assert config.budget == before.budget
    assert events_of(run) == ["started", "resumed"]
    assert config_of(tmp_path)["started"] == "long ago"


def test_a_choice_of_the_preset_may_be_named(tmp_path):
    begin(SweepConfig(output=str(tmp_path)))
    assert open_run(SweepConfig(output=str(tmp_path), resume=True, trials=16))


@pytest.mark.parametrize("change", [{"verbose": True}, {"refresh": True}, {"cache": "elsewhere"}])
def test_what_changes_no_result_may_change(change, tmp_path):
    begin(SweepConfig(output=str(tmp_path)))
    assert open_run(SweepConfig(output=str(tmp_path), resume=True, **change))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"trials": 17}, "--trials was 16 there and is 17 here"),
        ({"seed": 1}, "--seed was 0 there and is 1 here"),
        ({"data": ("posts.csv",)}, "--data was not given there and is posts.csv here"),
        ({"mode": "partial"}, "--mode was frozen there and is partial here"),
        ({"preset": "paper"}, "--preset was demo there and is paper here"),
        ({"max_epochs": 3}, "--max-epochs was 20 there and is 3 here"),
        ({"space": SearchSpace(hidden=(8,))}, "--space.hidden was 128 256 512 there and is 8 here"),
        ({"prepare": PrepareConfig(image_size=64)}, "--image-size was 384 there and is 64 here"),
        ({"prepare": PrepareConfig(columns=Columns(id="key"))}, "--columns.id was id there and is key here"),
    ],
)
def test_another_choice_is_named_with_its_flag(change, difference, tmp_path):
    begin(SweepConfig(output=str(tmp_path)))
    with pytest.raises(UserError) as caught:
        open_run(SweepConfig(output=str(tmp_path), resume=True, **change))
    assert f"but {difference};" in str(caught.value)
    assert events_of(Run(str(tmp_path))) == ["started"]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from(["started", "resumed", "finished early"]), max_size=3), st.booleans())
def test_a_run_is_finished_once_it_says_so(events, finished):
    folder = "memory://run"
    for event in [*events, *[FINISHED] * finished]:
        Run(folder).log(event)
    again = Run(folder)
    assert events_of(again) == [*events, *[FINISHED] * finished]
    assert again.is_finished() == finished
    fsspec.filesystem("memory").store.clear()


def test_encoders_come_back_at_the_revisions_they_had(tmp_path):
    run, config = open_run(SweepConfig(output=str(tmp_path)))
    assert stored_encoders(run) == []
    image = Branch(modality="image", family="vit", checkpoint="/place", revision="abc")
    specs = [parse_encoder("bert-base", "def"), EncoderSpec(name="vit:/place", branches=(image,))]
    specs.append(parse_encoder("clip", "123"))
    widths = {branch: 8 for spec in specs for branch in spec.branches}
    described = [describe_encoder(spec, widths) for spec in specs]
    assert described[1]["text"] is None
    assert described[1]["image"]["width"] == 8
    write_config(run, config, described, {"num_workers": 2})
    assert stored_encoders(run) == specs


def test_an_existing_run_is_named_in_full(tmp_path, monkeypatch):
    begin(SweepConfig(output=str(tmp_path / "one")))
    monkeypatch.chdir(tmp_path)
    assert existing_run("one") == str(tmp_path / "one")
    with pytest.raises(UserError, match=r"--run two holds no run \(it has no config.json\)"):
        existing_run("two")
