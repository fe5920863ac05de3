"""Every job as a user runs it, on a small corpus with real checkpoints, one after the other's result."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoints import write_checkpoint
from corpora import FEELINGS, write_posts
from test_loggers import scalars

from emo import storage
from emo.choosing import chosen_encoders
from emo.config import (
    CalibrateConfig,
    CostConfig,
    EmbedConfig,
    PredictConfig,
    PrepareConfig,
    PrepareJobConfig,
    SweepConfig,
    UserError,
)
from emo.leaderboard import read_decisions
from emo.looks import read_looks
from emo.metrics import score
from emo.pipeline import Posts
from emo.posts import read_posts
from emo.reading import TextVariant
from jobs import calibrate, embed, predict, prepare, report, sweep

ROOT = Path(__file__).parent.parent
JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.py"))
PREPARE = PrepareConfig(labels="auto", image_size=32)


@pytest.fixture(scope="module")
def place(tmp_path_factory, ray_session):
    """A folder with raw posts, checkpoints, and room for a cache and runs."""
    folder = tmp_path_factory.mktemp("jobs")
    write_posts(folder / "raw")
    for family in ("clip", "bert"):
        write_checkpoint(family, folder / family)
    return folder


@pytest.fixture(scope="module")
def config(place):
    clip = f"clip:{place / 'clip'}"
    return SweepConfig(
        data=(str(place / "raw" / "posts.jsonl"),),
        cache=str(place / "cache"),
        output=str(place / "run"),
        prepare=PREPARE,
        encoders=(clip, f"{clip}:image", f"bert:{place / 'bert'}"),
        trials=2,
        refine_trials=1,
        refine_top=1,
        calibration_trials=5,
        max_epochs=2,
        top=2,
        log_to=("tensorboard",),
    )


@pytest.fixture(scope="module")
def run(config):
    sweep.main(config)
    return Path(config.output)


def test_a_sweep_leaves_everything_that_a_run_folder_has(run):
    for name in (
        "config.json",
        "posts.json",
        "trials.parquet",
        "calibration.parquet",
        "examples.parquet",
        "events.log",
    ):
        assert (run / name).stat().st_size, name
    for name in ("leaderboard.json", "leaderboard.csv", "report.html", "model/bundle.json", "model/model.safetensors"):
        assert (run / name).stat().st_size, name
    assert not [path for path in (run / "model").rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_a_sweep_counts_what_it_takes(run):
    content = json.loads((run / "cost.json").read_text())
    usage = content["usage"]
    assert usage["node_seconds"] == {"local": pytest.approx(usage["seconds"])}
    assert 0 < usage["used_core_seconds"] <= usage["core_seconds"]
    assert content["estimate"] is None  # of the few steps that it had
    assert "Node-hours, local" in (run / "report.html").read_text()


def test_an_estimate_alone_leaves_nothing_behind(run, config, capsys):
    wanted = CostConfig(prices=str(ROOT / "cluster" / "prices" / "aws.yaml"), nodes=("cpu=2",), estimate="only")
    only = replace(config, output=f"{run}-planned", trials=4, cost=wanted)
    sweep.main(only)
    said = capsys.readouterr().out
    assert "on 1 head and 2 cpu: 32 cores" in said
    assert re.search(r"money +\d+\.\d\d USD \(\d+\.\d\d to \d+\.\d\d\)", said)
    assert re.search(r"\d+ trials, timed in \d+ s on this cluster", said)
    assert "stopped before their end" not in said  # the features are there, and trials take no time
    assert not Path(only.output).exists()


def test_every_trial_is_shown_in_tensorboard(run):
    for trial in pd.read_parquet(run / "trials.parquet").itertuples():
        assert set(scalars(run / "tensorboard" / trial.trial_id)["val_loss"]) == {1, 2}


def test_the_leaderboard_has_every_encoder_and_the_baselines(run, config):
    rows = json.loads((run / "leaderboard.json").read_text())["rows"]
    assert {row["name"] for row in rows if row["kind"] == "encoder"} == set(config.encoders)
    baselines = {row["name"] for row in rows if row["kind"] == "baseline"}
    assert baselines == {"all-positive", "prior", "tf-idf + logistic regression"}
    assert [row["val/macro_f1"] for row in rows] == sorted((row["val/macro_f1"] for row in rows), reverse=True)
    table = pd.read_csv(run / "leaderboard.csv").set_index("name")
    assert list(table.index) == [row["name"] for row in rows]
    for row in rows:
        ends = [table.loc[row["name"], f"test/macro_f1_{end}"] for end in ("low", "high")]
        assert ends == pytest.approx(row["intervals"]["test/macro_f1"])


def test_every_figure_has_an_interval_and_follows_from_what_is_kept(run):
    board = json.loads((run / "leaderboard.json").read_text())
    labels, rows = tuple(board["labels"]), board["rows"]
    decisions = read_decisions(str(run), rows)
    for row in rows:
        for split, each in decisions.items():
            scores = [score(each.targets, decided, labels) for decided in each.predicted[row["name"]]]
            assert len(scores) == row["num_models"]
            for name in scores[0]:
                low, high = row["intervals"][f"{split}/{name}"]
                assert row[f"{split}/{name}"] == pytest.approx(np.mean([found[name] for found in scores]))
                assert 0 <= low <= high <= 1
        low, high = row["intervals"]["test/macro_f1"]
        assert low <= row["test/macro_f1"] <= high
    pairs = [(pair["upper"], pair["lower"]) for pair in board["comparisons"]]
    assert pairs == list(itertools.pairwise(row["name"] for row in rows))
    figures = {row["name"]: row["test/macro_f1"] for row in rows}
    for pair in board["comparisons"]:
        assert pair["difference"] == pytest.approx(figures[pair["upper"]] - figures[pair["lower"]])


def test_a_row_is_the_mean_over_the_encoders_best_trials_by_val(run, config):
    rows = {row["name"]: row for row in json.loads((run / "leaderboard.json").read_text())["rows"]}
    trials = pd.read_parquet(run / "trials.parquet")
    calibrated = pd.read_parquet(run / "calibration.parquet")
    for name in config.encoders:
        ordered = trials[trials.encoder == name].sort_values(["val/macro_f1", "trial_id"], ascending=[False, True])
        best = ordered.head(2)
        chosen = calibrated[calibrated.chosen & (calibrated.encoder == name)]
        assert set(chosen.trial_id) == set(best.trial_id)
        assert rows[name]["test/macro_f1"] == pytest.approx(chosen["test/macro_f1"].mean())


def test_figures_follow_from_the_predictions_that_are_kept(run):
    best = json.loads((run / "leaderboard.json").read_text())["best"]
    kept = pd.read_parquet(run / "predictions" / f"{best['trial_id']}.parquet")
    test = kept[kept.split == "test"]
    targets, probs = np.stack(test.targets) > 0.5, np.stack(test.probs)
    predicted = probs >= np.array(best["thresholds"])
    f1 = 2 * (targets & predicted).sum(0) / np.maximum(targets.sum(0) + predicted.sum(0), 1)
    calibrated = pd.read_parquet(run / "calibration.parquet")
    row = calibrated[(calibrated.trial_id == best["trial_id"]) & (calibrated.rule == best["rule"])].iloc[0]
    assert row["test/macro_f1"] == pytest.approx(f1.mean())


def test_a_second_run_into_the_same_folder_is_refused(run, config):
    before = (run / "leaderboard.csv").read_bytes()
    with pytest.raises(UserError, match="already holds"):
        sweep.main(config)
    assert (run / "leaderboard.csv").read_bytes() == before


def test_a_finished_run_has_nothing_left_to_do(run, config, capsys):
    before = (run / "events.log").read_bytes()
    sweep.main(replace(config, resume=True))
    assert "nothing is left to do" in capsys.readouterr().out
    assert (run / "events.log").read_bytes() == before


def test_a_run_that_lost_its_end_is_ended_without_new_trials(run, config, tmp_path, capsys):
    copy = tmp_path / "copy"
    storage.filesystem(str(copy))[0].copy(str(run), str(copy), recursive=True)
    events = [line for line in (copy / "events.log").read_text().splitlines() if not line.endswith(" finished")]
    (copy / "events.log").write_text("\n".join(events) + "\n")
    (copy / "leaderboard.json").unlink()
    trials = pd.read_parquet(copy / "trials.parquet")
    sweep.main(replace(config, output=str(copy), resume=True))
    assert sorted(pd.read_parquet(copy / "trials.parquet").trial_id) == sorted(trials.trial_id)
    assert (copy / "leaderboard.json").read_text() == (run / "leaderboard.json").read_text()
    assert "reused" in capsys.readouterr().out
    assert [look["job"] for look in read_looks(str(copy))] == ["sweep", "sweep"]
    assert "test was read twice" in (copy / "report.html").read_text()


def test_predict_reads_new_posts_as_the_run_did(run, config, place):
    output = place / "predictions"
    predict.main(PredictConfig(model=str(run / "model"), data=config.data, cache=config.cache, output=str(output)))
    predicted = pd.read_parquet(output / "predictions").set_index("post_id")
    assert len(predicted) == 60
    bundle = json.loads((run / "model" / "bundle.json").read_text())
    best = json.loads((run / "leaderboard.json").read_text())["best"]
    kept = pd.read_parquet(run / "predictions" / f"{best['trial_id']}.parquet").set_index("post_id")
    names = sorted(FEELINGS)
    ours = predicted.loc[kept.index, [f"prob/{name}" for name in names]].to_numpy()
    np.testing.assert_allclose(ours, np.stack(kept.probs), atol=1e-5)
    for _, row in predicted.iterrows():
        assert list(row.labels) == [name for name in names if row[f"prob/{name}"] >= bundle["thresholds"][name]]


def test_predict_needs_no_labels_and_counts_what_it_sets_aside(run, config, place, tmp_path):
    source = write_posts(tmp_path, 12, images=False, labelled=False)
    with source.open("a") as file:
        file.write("not json\n")
    output = tmp_path / "out"
    predict.main(PredictConfig(model=str(run / "model"), data=(str(source),), cache=config.cache, output=str(output)))
    manifest = json.loads((output / "manifest.json").read_text())
    assert (manifest["num_read"], manifest["num_predicted"], manifest["num_rejects"]) == (13, 12, 1)
    assert len(pd.read_parquet(output / "predictions")) == 12


def test_predictions_of_labelled_posts_are_judged(run, config, place):
    output = place / "judged"
    predict.main(PredictConfig(model=str(run / "model"), data=config.data, cache=config.cache, output=str(output)))
    evaluation = json.loads((output / "evaluation.json").read_text())
    assert evaluation["num_labelled"] == 60
    low, high = evaluation["intervals"]["macro_f1"]
    assert low <= evaluation["metrics"]["macro_f1"] <= high
    assert "Worst mistakes" in (output / "evaluation.html").read_text()
    predicted = pd.read_parquet(output / "predictions")
    targets = np.stack(predicted.targets) >= 0.5
    decided = np.array([[name in labels for name in sorted(FEELINGS)] for labels in predicted.labels])
    f1 = 2 * (targets & decided).sum(0) / (targets.sum(0) + decided.sum(0))
    assert evaluation["metrics"]["macro_f1"] == pytest.approx(np.mean(f1))


def test_predict_keeps_columns_and_types_on_request(run, config, tmp_path):
    table = pa.table({"id": ["a", "b"], "text": ["so happy", "late train"], "likes": [3, None], "joy": [0.5, 1.5]})
    pq.write_table(table, tmp_path / "posts.parquet")
    output = tmp_path / "out"
    predict.main(
        PredictConfig(
            model=str(run / "model"),
            data=(str(tmp_path / "posts.parquet"),),
            keep_columns=("all",),
            cache=config.cache,
            output=str(output),
        )
    )
    found = pq.read_table(output / "predictions")
    assert found["likes"].to_pylist() == [3, None]
    assert found.schema.field("likes").type == pa.int64()
    assert found["joy"].to_pylist() == [0.5, 1.5]
    assert not (output / "evaluation.json").exists()


def test_predict_refuses_labels_that_the_model_does_not_know(run, config, tmp_path):
    rows = [{"id": n, "text": f"words {n}", "labels": ["awe"]} for n in range(5)]
    (tmp_path / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = PredictConfig(
        model=str(run / "model"),
        data=(str(tmp_path / "posts.jsonl"),),
        cache=config.cache,
        output=str(tmp_path / "out"),
    )
    with pytest.raises(
        UserError, match=r"that the model does not know \(such as 'awe'\); it knows anger, joy, sadness"
    ):
        predict.main(asked)
    predict.main(replace(asked, evaluate=False))
    assert len(pd.read_parquet(tmp_path / "out" / "predictions")) == 5


def test_predict_goes_on_where_it_was_killed(run, config, place, tmp_path, monkeypatch):
    output = tmp_path / "out"
    asked = PredictConfig(model=str(run / "model"), data=config.data, cache=config.cache, output=str(output))
    with monkeypatch.context() as patch:
        patch.setattr("emo.predict.gather", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            predict.main(asked)
    parts = {path: path.stat().st_mtime_ns for path in (output / "work" / "parts").iterdir()}
    assert parts
    assert not (output / "manifest.json").exists()
    removed = []
    monkeypatch.setattr("emo.work.storage.remove", removed.append)
    predict.main(asked)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    assert len(pd.read_parquet(output / "predictions")) == 60
    assert removed


def test_predict_refuses_a_folder_without_a_model(tmp_path):
    with pytest.raises(UserError, match="holds no bundle"):
        predict.main(PredictConfig(model=str(tmp_path), output=str(tmp_path / "out")))


def test_calibrate_chooses_thresholds_again_in_a_run_of_its_own(run, tmp_path):
    output = tmp_path / "again"
    calibrate.main(CalibrateConfig(run=str(run), calibration_trials=9, output=str(output)))
    before, after = (pd.read_parquet(folder / "calibration.parquet") for folder in (run, output))
    exact = [frame[frame.rule == "exact"].set_index("trial_id")["test/macro_f1"] for frame in (before, after)]
    pd.testing.assert_series_equal(*exact)
    first, second = read_looks(str(output))  # the count goes on from that of the run
    assert (first["job"], second["job"]) == ("sweep", "calibrate")
    assert read_looks(str(run)) == [first]
    assert first["num_models"] == second["num_models"] == 6
    assert "test was read twice" in (output / "report.html").read_text()


@pytest.mark.slow
def test_calibrate_does_so_again_for_the_models_that_a_killed_sweep_has_left(run, config, tmp_path, capsys):
    killed, output = tmp_path / "killed", tmp_path / "again"
    made_at_the_end = ("calibration*", "probabilities*", "leaderboard*", "model", "report.html", "examples*")
    shutil.copytree(run, killed, ignore=shutil.ignore_patterns(*made_at_the_end))
    before = pd.read_parquet(run / "calibration.parquet")
    rows = json.loads((run / "leaderboard.json").read_text())["rows"]
    encoders = [row["name"] for row in rows if row["kind"] == "encoder"]
    better = before[(before.encoder == encoders[-1]) & (before["rank"] == 1)].trial_id.iloc[0]
    lost = killed / "weights" / f"{better}.safetensors"
    lost.unlink()
    left = sorted(p.name for p in killed.rglob("*"))
    asked = CalibrateConfig(run=str(killed), calibration_trials=5, probabilities="isotonic", output=str(output))
    calibrate.main(asked)
    assert sorted(p.name for p in killed.rglob("*")) == left
    said = capsys.readouterr().out
    assert lost.stem not in {p.stem for p in (output / "weights").iterdir()}
    assert "weights: 1 finished trials have none" in said
    after = pd.read_parquet(output / "calibration.parquet")
    again = before[before.trial_id.isin(after.trial_id)].reset_index(drop=True).drop(columns="rank")
    pd.testing.assert_frame_equal(again, after.drop(columns="rank"))
    assert lost.stem not in set(after.trial_id)
    assert f"models calibrated: {after.trial_id.nunique()} of {after.trial_id.nunique()}" in said
    assert set(after.rule) == {"fixed", "optuna", "exact", "cross-fitted"}
    raw, calibrated = (_predicted(folder, config, tmp_path / folder.name) for folder in (run, output))
    assert list(map(list, raw.labels)) == list(map(list, calibrated.labels))
    curves = json.loads((output / "model" / "bundle.json").read_text())["probabilities"]["curves"]
    for label, (said, meant) in zip(sorted(FEELINGS), curves, strict=True):
        wanted = np.interp(raw[f"prob/{label}"], said, meant)
        np.testing.assert_allclose(calibrated[f"prob/{label}"], wanted, atol=1e-5)


def _predicted(folder: Path, config: SweepConfig, output: Path) -> pd.DataFrame:
    model = str(folder / "model")
    predict.main(PredictConfig(model=model, data=config.data, cache=config.cache, output=f"{output}-predicted"))
    return pd.read_parquet(f"{output}-predicted/predictions").sort_values("post_id")


def test_report_writes_itself_again(run):
    (run / "report.html").unlink()
    report.main(report.ReportConfig(run=str(run)))
    assert (run / "report.html").stat().st_size > 10_000


def test_prepared_posts_are_taken_as_data(config, place, capsys):
    folder = place / "prepared"
    prepare.main(PrepareJobConfig(data=config.data, cache=config.cache, output=str(folder), prepare=PREPARE))
    assert read_posts(str(folder)).num_rows == 60
    embed.main(EmbedConfig(data=(str(folder),), cache=config.cache, encoders=(f"bert:{place / 'bert'}",)))
    assert "Features" in capsys.readouterr().out


def test_encoders_that_a_corpus_cannot_feed_are_refused_by_name(config, tmp_path):
    texts = write_posts(tmp_path, 30, images=False)
    with pytest.raises(UserError, match=r":image reads image, and no post here has image"):
        sweep.main(replace(config, data=(str(texts),), output=str(tmp_path / "run"), encoders=config.encoders[1:2]))
    assert storage.is_empty(str(tmp_path / "run"))


def test_the_presets_encoders_are_cut_to_what_the_corpus_has(config, tmp_path, capsys):
    manifest = {"modalities": {"text": 5, "image": 0, "tags": 0}}
    posts = Posts("nowhere", manifest, TextVariant("append"))
    specs = chosen_encoders(replace(config, encoders=None), posts)
    assert [spec.name for spec in specs] == ["tiny-bert"]
    assert "left out: tiny-clip reads text and image" in capsys.readouterr().out


def test_every_job_explains_itself():
    def explained(job: str) -> str:
        command = [sys.executable, ROOT / "jobs" / job, "--help"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = dict(zip(JOBS, pool.map(explained, JOBS), strict=True))
    assert [job for job in JOBS if "--output" not in said[job]] == ["report.py"]


def test_a_mistake_is_one_sentence_and_exit_status_2(tmp_path):
    command = [sys.executable, ROOT / "jobs" / "sweep.py", "--data", "nowhere.jsonl", "--output", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert result.returncode == 2
    assert result.stderr == "error: --data nowhere.jsonl does not exist.\n"
    assert not list((tmp_path / "out").iterdir())
