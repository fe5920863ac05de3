"""Cross-validation: a sweep for each fold, gone on with after a stop, and what they say together."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checkpoints import write_checkpoint
from corpora import prepare_files, write_posts

from emo import crossval
from emo.calibrate import split_metrics
from emo.config import CalibrateConfig, PrepareConfig, SweepConfig, TrainConfig, UserError
from emo.crossval import mean_row
from emo.encoded import encoded_posts
from emo.leaderboard import read_decisions, write_leaderboard
from emo.looks import record_look
from emo.metrics import macro_f1, score
from emo.pipeline import posts_of
from emo.run import FINISHED, Run, keep_plan, open_run
from emo.scores import write_predictions
from emo.thresholds import fixed
from jobs import calibrate, report, sweep

PREPARE = PrepareConfig(labels="auto", image_size=32, folds=3)


def config_of(place: Path, **choices) -> SweepConfig:
    return SweepConfig(
        data=(str(place / "raw" / "posts.jsonl"),),
        cache=str(place / "cache"),
        output=str(place / "run"),
        prepare=PREPARE,
        encoders=(f"bert:{place / 'bert'}",),
        trials=2,
        refine_trials=0,
        calibration_trials=2,
        max_epochs=1,
        top=2,
        **choices,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory, ray_session):
    folder = tmp_path_factory.mktemp("crossval")
    write_posts(folder / "raw", 45, images=False)
    write_checkpoint("bert", folder / "bert")
    return folder


def quick_sweep(config: SweepConfig) -> None:
    """What a sweep leaves of one encoder and a baseline, without any training."""
    run, config = open_run(config)
    if run.is_finished():
        return
    posts = posts_of(config)
    keep_plan(run, config, posts.manifest, [], {})
    data = encoded_posts(posts.folder, [], config.fold)
    labels, rng, rows = tuple(posts.manifest["labels"]), np.random.default_rng(config.fold), []
    for kind, names, noise in (("encoder", ("m0", "m1"), 0.4), ("baseline", ("b",), 0.6)):
        scores = []
        for name in names:
            probs = {split: y * 0.6 + rng.normal(0.2, noise, y.shape) for split, y in data.targets.items()}
            write_predictions(run.folder, name, data, probs)
            found = split_metrics(data.targets, probs, fixed(len(labels)), labels)
            scores.append({metric: value for metric, value in found.items() if not metric.startswith("train/")})
        models = [{"trial_id": n, "thresholds": [0.5] * len(labels), "single_label": False} for n in names]
        about = {"name": kind, "kind": kind, "modalities": "text", "num_models": len(names), "models": models}
        rows.append(about | {metric: np.mean([each[metric] for each in scores]) for metric in scores[0]})
    record_look(run.folder, "sweep", 2)
    best = {"trial_id": "m0", "encoder": "encoder", "rule": "fixed", "thresholds": [0.5] * len(labels)}
    write_leaderboard(run.folder, rows, best, labels)
    run.log(FINISHED)


def stopping_in(fold: int):
    """A sweep that is stopped in the middle of this fold."""

    def run_sweep(config: SweepConfig) -> None:
        if config.fold == fold:
            run, config = open_run(config)
            keep_plan(run, config, posts_of(config).manifest, [], {})
            raise KeyboardInterrupt
        quick_sweep(config)

    return run_sweep


@pytest.fixture(scope="module")
def stopped(place):
    """A cross-validation that was stopped in its second fold; what it had done, by file."""
    with pytest.raises(KeyboardInterrupt):
        crossval.cross_validate(config_of(place), stopping_in(1))
    return {file: file.read_bytes() for file in (place / "run" / "fold-0").rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def run(place, stopped):
    crossval.cross_validate(config_of(place, resume=True), quick_sweep)
    return place / "run"


def test_it_goes_on_where_it_was_stopped(run, stopped):
    assert stopped
    assert all(file.read_bytes() == content for file, content in stopped.items())
    events = [(run / f"fold-{fold}" / "events.log").read_text().split()[1::2] for fold in range(3)]
    assert events == [["started", "finished"], ["started", "resumed", "finished"], ["started", "finished"]]


def test_every_labelled_post_is_tested_once(run):
    tested = []
    for fold in range(3):
        rows = json.loads((run / f"fold-{fold}" / "leaderboard.json").read_text())["rows"]
        tested += read_decisions(str(run / f"fold-{fold}"), rows[:1])["test"].post_ids
    assert sorted(tested) == sorted(f"p{number}" for number in range(45))


def test_the_summary_is_the_mean_over_folds(run):
    board = json.loads((run / "leaderboard.json").read_text())
    folds = [json.loads((run / f"fold-{fold}" / "leaderboard.json").read_text()) for fold in range(3)]
    assert board["num_test"] == sum(fold["num_test"] for fold in folds) == 45
    for row in board["rows"]:
        of_folds = [next(each for each in fold["rows"] if each["name"] == row["name"]) for fold in folds]
        values = [each["test/macro_f1"] for each in of_folds]
        assert row["by_fold"] == values
        assert row["test/macro_f1"] == pytest.approx(np.mean(values))
        assert row["test/macro_f1_sd"] == pytest.approx(np.std(values, ddof=1))
        low, high = row["intervals"]["test/macro_f1"]
        assert low <= row["test/macro_f1"] <= high
    assert [row["val/macro_f1"] for row in board["rows"]] == sorted(
        (row["val/macro_f1"] for row in board["rows"]), reverse=True
    )
    pairs = [(pair["upper"], pair["lower"]) for pair in board["comparisons"]]
    assert pairs == list(itertools.pairwise(row["name"] for row in board["rows"]))
    assert list(pd.read_csv(run / "leaderboard.csv")["name"]) == [row["name"] for row in board["rows"]]


def test_the_page_says_what_was_done_and_where_the_models_are(run):
    page = (run / "report.html").read_text()
    assert "45 labelled posts" in page
    assert "dealt into 3 folds" in page
    assert "were read once, at the end of its sweep" in page
    for fold in range(3):
        assert f'href="fold-{fold}/report.html"' in page
        assert f"fold-{fold}/model" in page
    assert "without <span" in page
    (run / "report.html").unlink()
    report.main(report.ReportConfig(run=str(run)))
    assert (run / "report.html").read_text() == page


def test_a_finished_one_has_nothing_left_to_do(place, run, capsys):
    before = (run / "events.log").read_bytes()
    sweep.main(config_of(place, resume=True))
    assert "nothing is left to do" in capsys.readouterr().out
    assert (run / "events.log").read_bytes() == before


def test_one_fold_is_meant_where_one_run_is(run, place):
    with pytest.raises(UserError, match=r"is a cross-validation; name the run of one fold, such as .*/fold-0"):
        calibrate.main(CalibrateConfig(run=str(run), output=str(place / "again")))
    with pytest.raises(UserError, match="holds one run and no cross-validation"):
        crossval.cross_validate(replace(config_of(place, resume=True, fold=0), output=str(run / "fold-0")), sweep.main)


def test_posts_that_changed_between_folds_are_not_summed_up(run, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    for file in run.rglob("*.json"):
        target = copy / file.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    posts = json.loads((copy / "fold-2" / "posts.json").read_text())
    (copy / "fold-2" / "posts.json").write_text(json.dumps(posts | {"fingerprint": "another"}))
    with pytest.raises(UserError, match="changed between folds"):
        crossval.summarise(Run(str(copy)))


def test_folds_other_than_those_that_were_dealt_are_refused(tmp_path, place):
    prepare_files(place / "raw" / "posts.jsonl", tmp_path / "posts", replace(PREPARE, folds=4, fold_repeats=2))
    asked = replace(config_of(place), data=(str(tmp_path / "posts"),), output=str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"differs from what --data was prepared with: --folds 4 --fold-repeats 2"):
        sweep.main(asked)
    assert not list((tmp_path / "run").iterdir())


def test_repeats_need_folds():
    with pytest.raises(UserError, match="--fold-repeats deals the --folds again"):
        PrepareConfig(fold_repeats=2)
    with pytest.raises(UserError, match=r"--folds is 2; it must be 0, or between 3"):
        PrepareConfig(folds=2)


def test_one_training_tests_on_one_fold():
    with pytest.raises(UserError, match="name it with --fold"):
        TrainConfig(prepare=PREPARE)
    assert TrainConfig(prepare=PREPARE, fold=2).as_sweep().fold == 2


def test_a_figure_that_some_fold_lacks_has_no_mean():
    row = {"name": "a", "kind": "encoder", "modalities": "text", "num_models": 2}
    rows = [row | {"test/macro_f1": f1, "test/exact_macro_f1": exact} for f1, exact in ((0.5, 0.4), (0.7, None))]
    found = mean_row(rows)
    assert (found["test/macro_f1"], found["test/exact_macro_f1"], found["num_models"]) == (0.6, None, 4)


def test_intervals_are_those_of_the_pooled_posts(tmp_path):
    """Two repeats of two folds, whose decisions are written down; a resample draws a post with both of its tests."""
    rng, labels, num_posts = np.random.default_rng(0), ("a", "b"), 40
    targets = rng.random((num_posts, 2)) < 0.4
    ids = [f"p{number:02}" for number in range(num_posts)]
    folders, tests = [], []
    for repeat in range(2):
        deal = rng.permutation(num_posts) % 2
        for fold in range(2):
            tests.append((np.flatnonzero(deal == fold), np.flatnonzero(deal != fold)))
            folders.append(f"fold-{2 * repeat + fold}")
    made = []
    for folder, (test, val) in zip(folders, tests, strict=True):
        both = np.concatenate([val, test])
        probs = np.where(targets[both], 0.8, 0.2) + rng.normal(0, 0.3, (num_posts, 2))
        table = {"post_id": [ids[i] for i in both], "split": ["val"] * len(val) + ["test"] * len(test)}
        frame = pd.DataFrame(table | {"targets": list(targets[both].astype(np.float32)), "probs": list(probs)})
        (tmp_path / folder / "predictions").mkdir(parents=True)
        frame.to_parquet(tmp_path / folder / "predictions" / "m.parquet")
        made.append(probs[len(val) :] >= 0.5)
        model = {"trial_id": "m", "thresholds": [0.5, 0.5], "single_label": False}
        row = {"name": "x", "kind": "encoder", "modalities": "text", "num_models": 1, "models": [model]}
        figures = {
            f"{split}/{name}": value
            for split in ("val", "test")
            for name, value in score(targets[test], made[-1]).items()
        }
        board = {"labels": labels, "num_test": len(test), "best": {"encoder": "x"}, "rows": [row | figures]}
        (tmp_path / folder / "leaderboard.json").write_text(json.dumps(board))
        (tmp_path / folder / "posts.json").write_text('{"fingerprint": "one"}')
    about = {"num_folds": 2, "num_repeats": 2, "folders": folders}
    (tmp_path / "folds.json").write_text(json.dumps(about))
    row = crossval.summarise(Run(str(tmp_path)))["rows"][0]
    weights = rng.multinomial(num_posts, np.full(num_posts, 1 / num_posts), size=1500)
    drawn = []
    for weight in weights:
        each = []
        for (test, _), decided in zip(tests, made, strict=True):
            posts = np.repeat(np.arange(len(test)), weight[test])
            each.append(macro_f1(targets[test][posts], decided[posts]))
        drawn.append(np.mean(each))
    expected = np.quantile(drawn, [0.025, 0.975])
    assert row["intervals"]["test/macro_f1"] == pytest.approx(expected, abs=0.12 * np.ptp(expected))


@pytest.mark.slow
def test_real_sweeps_that_are_stopped_and_gone_on_with(place, monkeypatch):
    asked = replace(config_of(place), output=str(place / "real"))
    with monkeypatch.context() as patch:
        conclude = sweep.conclude

        def stop_in_the_second(run, *args, **options):
            if run.folder.endswith("fold-1"):
                raise KeyboardInterrupt
            conclude(run, *args, **options)

        patch.setattr(sweep, "conclude", stop_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            sweep.main(asked)
    run = place / "real"
    done = {file: file.read_bytes() for file in (run / "fold-0").rglob("*") if file.is_file()}
    tried = set(pd.read_parquet(run / "fold-1" / "trials.parquet").trial_id)
    sweep.main(replace(asked, resume=True))
    assert all(file.read_bytes() == content for file, content in done.items())
    assert set(pd.read_parquet(run / "fold-1" / "trials.parquet").trial_id) == tried
    for fold in range(3):
        assert (run / f"fold-{fold}" / "report.html").exists()
        assert (run / f"fold-{fold}" / "model" / "bundle.json").exists()
    assert not (run / "model").exists()
    names = {row["name"] for row in json.loads((run / "leaderboard.json").read_text())["rows"]}
    assert names == {asked.encoders[0], "all-positive", "prior", "tf-idf + logistic regression"}
