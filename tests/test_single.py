"""One training without a search: jobs/train.py frozen and on two workers, and what it refuses."""

import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tyro
from checkpoints import write_checkpoint
from corpora import FEELINGS, write_posts

from emo import cli
from emo.config import HeadConfig, PredictConfig, PrepareConfig, SearchSpace, SweepConfig, TrainConfig, TrainingConfig
from emo.single import show_epoch
from jobs import predict, sweep, train

FROZEN = HeadConfig(mode="frozen", batch_size=8, lr=3e-3, warmup_steps=0, max_epochs=3)


@pytest.fixture(scope="module")
def place(tmp_path_factory, ray_session):
    """A folder with raw posts of several labels and of one label each, and a checkpoint."""
    folder = tmp_path_factory.mktemp("single")
    posts = write_posts(folder / "raw")
    rows = [json.loads(line) for line in posts.read_text().splitlines()]
    ones = [row | {"labels": row["labels"][:1]} for row in rows]
    (folder / "raw" / "ones.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ones))
    write_checkpoint("bert", folder / "bert")
    return folder


@pytest.fixture(scope="module")
def config(place):
    return TrainConfig(
        data=(str(place / "raw" / "posts.jsonl"),),
        cache=str(place / "cache"),
        output=str(place / "frozen"),
        prepare=PrepareConfig(labels="auto", image_size=32),
        encoder=f"bert:{place / 'bert'}",
        head=FROZEN,
        calibration_trials=5,
    )


@pytest.fixture(scope="module")
def ones(place, config):
    """The same on posts with one label each, by cross-entropy."""
    return replace(
        config,
        data=(str(place / "raw" / "ones.jsonl"),),
        output=str(place / "ones"),
        head=replace(FROZEN, loss="softmax"),
    )


@pytest.fixture(scope="module")
def run(config):
    train.main(config)
    return Path(config.output)


def arguments(config: TrainConfig) -> list[str]:
    """What a person types for it."""
    named = {"--data": config.data[0], "--cache": config.cache, "--output": config.output, "--encoder": config.encoder}
    head = config.head
    chosen = {"--lr": head.lr, "--batch-size": head.batch_size, "--warmup-steps": 0, "--max-epochs": head.max_epochs}
    fixed = {"--labels": "auto", "--image-size": 32, "--calibration-trials": 5, "--mode": head.mode}
    return [str(word) for pair in (named | chosen | fixed).items() for word in pair]


def refused(monkeypatch, capsys, words: list[str]) -> str:
    """The sentence with which jobs/train.py refuses; Ray is there already."""
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    monkeypatch.setattr(cli, "start_ray", lambda **_: None)
    monkeypatch.setattr(cli, "silence_native_code", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.run_job(TrainConfig, train.main)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said.removeprefix("error: ").rstrip()


def test_a_frozen_training_leaves_a_run_as_a_sweep_does(run, config):
    for name in ("config.json", "trials.parquet", "calibration.parquet", "report.html", "leaderboard.csv"):
        assert (run / name).stat().st_size, name
    assert (run / "model" / "model.safetensors").stat().st_size
    (trial,) = pd.read_parquet(run / "trials.parquet").to_dict("records")
    assert (trial["encoder"], trial["status"], trial["lr"]) == (config.encoder, "done", FROZEN.lr)
    history = json.loads(trial["history"])
    assert len(history) == FROZEN.max_epochs
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_a_finished_training_has_nothing_left_to_do(run, config, capsys):
    train.main(replace(config, resume=True))
    assert "nothing is left to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--encoder", "bertt"], r"--encoder bertt: 'bertt' is no encoder; give one of clip-base, .*"),
        (
            ["--mode", "lora", "--encoder", "lstm"],
            r"--encoder lstm has no layers that take adapters; use --mode full\.",
        ),
        (
            ["--encoder", "lstm"],
            r"--encoder lstm learns lstm from scratch, so that nothing can be kept frozen; use --mode full\.",
        ),
        (
            ["--mode", "full", "--num-workers", "100", "--batch-size", "200"],
            r"--num-workers 100 asks for 1 core for each worker, but the cluster has \d+ cores .*",
        ),
        (
            ["--mode", "full", "--num-workers", "2", "--batch-size", "1"],
            r"--batch-size is 1; it must be at least --num-workers, 2, so that each has a post of every step\.",
        ),
        (
            ["--num-workers", "3", "2"],
            r"--num-workers is 3 2; it must be a number above 0, or the fewest and the most\.",
        ),
        (["--loss", "softmax"], r"--loss softmax reads one label in each post, and 30 of 60 labelled posts here .*"),
        (["--encoder", "jina-clip"], r"--encoder jina-clip: .* allow it with --trust-remote-code .*"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_the_folder_free(config, monkeypatch, capsys, tmp_path, changes, sentence):
    words = arguments(replace(config, output=str(tmp_path / "new")))
    said = refused(monkeypatch, capsys, [*words, *changes])
    assert re.fullmatch(sentence, said), said
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


def test_a_former_run_is_neither_overwritten_nor_gone_on_with_otherwise(run, config, monkeypatch, capsys):
    before = (run / "trials.parquet").read_bytes()
    assert "already holds files, which are never overwritten" in refused(monkeypatch, capsys, arguments(config))
    words = [*arguments(config), "--resume", "--lr", "0.5"]
    assert "but --lr was 0.003 there and is 0.5 here; repeat the same command" in refused(monkeypatch, capsys, words)
    assert (run / "trials.parquet").read_bytes() == before


def test_the_command_of_the_readme():
    words = "--data posts.jsonl --encoder clip-base --mode full --num-workers 2"
    assert f"python jobs/train.py {words}" in Path(__file__).parent.with_name("README.md").read_text()
    found = tyro.cli(TrainConfig, args=words.split())
    assert (found.data, found.encoder, found.head.mode) == (("posts.jsonl",), "clip-base", "full")
    assert found.training.num_workers == (2,)
    assert found.as_sweep().encoders == ("clip-base",)


def test_an_epoch_is_a_line(capsys):
    show_epoch({"epoch": 2, "train_loss": 0.5, "val_loss": 0.25, "val_macro_f1": 0.125, "posts_per_second": 1234.5})
    wanted = "epoch 2: loss 0.5000 on train, 0.2500 on val; val macro F1 0.125; 1234 posts a second\n"
    assert capsys.readouterr().out == wanted


@pytest.mark.slow  # .ci/run trains with the same command
def test_two_workers_train_bert_whole(config, place):
    output = place / "full"
    head = replace(FROZEN, mode="full", encoder_lr=1e-3)
    training = TrainingConfig(num_workers=(2,))
    train.main(replace(config, output=str(output), head=head, training=training))
    assert_predictions_agree(config, output)
    (trial,) = pd.read_parquet(output / "trials.parquet").to_dict("records")
    history = json.loads(trial["history"])
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert (output / "report.html").stat().st_size
    assert not (output / "training").exists() or not list((output / "training").iterdir())


def assert_predictions_agree(config: TrainConfig | SweepConfig, run: Path) -> pd.DataFrame:
    """What jobs/predict.py makes of the posts is what the run kept, and is judged as on its leaderboard."""
    output = run.with_name(f"{run.name}-predicted")
    predict.main(PredictConfig(model=str(run / "model"), data=config.data, cache=config.cache, output=str(output)))
    predicted = pd.read_parquet(output / "predictions").set_index("post_id")
    best = json.loads((run / "leaderboard.json").read_text())["best"]
    kept = pd.read_parquet(run / "predictions" / f"{best['trial_id']}.parquet").set_index("post_id")
    ours = predicted.loc[kept.index, [f"prob/{name}" for name in sorted(FEELINGS)]].to_numpy()
    np.testing.assert_allclose(ours, np.stack(kept.probs), atol=1e-4)
    chosen = pd.read_parquet(run / "calibration.parquet")
    (row,) = chosen[(chosen.trial_id == best["trial_id"]) & chosen.chosen].to_dict("records")
    test = predicted.loc[kept.index[kept.split == "test"]]
    given = np.array([[name in labels for name in sorted(FEELINGS)] for labels in test.labels])
    gold = np.stack(test.targets) > 0.5
    f1 = 2 * (gold & given).sum(0) / np.maximum(1, gold.sum(0) + given.sum(0))
    assert row["test/macro_f1"] == pytest.approx(f1.mean())
    assert row["test/subset_accuracy"] == pytest.approx((gold == given).all(axis=1).mean())
    return predicted


def assert_one_label_each(config: TrainConfig | SweepConfig, run: Path) -> None:
    predicted = assert_predictions_agree(config, run)
    assert Counter(map(len, predicted.labels)) == {1: 60}
    probs = predicted[[f"prob/{name}" for name in sorted(FEELINGS)]].to_numpy()
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    examples = pd.read_parquet(run / "examples.parquet")
    assert set(map(len, examples.predicted)) == {1}
    assert "Precision and recall of the best model" in (run / "report.html").read_text()


@pytest.mark.slow
def test_softmax_gives_one_label_on_cached_features(ones):
    train.main(ones)
    assert_one_label_each(ones, Path(ones.output))


@pytest.mark.slow
def test_softmax_gives_one_label_where_the_encoder_is_trained(ones, place):
    config = replace(ones, output=str(place / "ones-full"), head=replace(ones.head, mode="full", encoder_lr=1e-3))
    train.main(config)
    assert_one_label_each(config, Path(config.output))


@pytest.mark.slow
def test_softmax_gives_one_label_in_a_sweep(ones, place):
    config = SweepConfig(
        data=ones.data,
        cache=ones.cache,
        output=str(place / "ones-swept"),
        prepare=ones.prepare,
        encoders=(ones.encoder,),
        trials=8,
        refine_trials=0,
        calibration_trials=5,
        max_epochs=3,
        top=2,
        space=SearchSpace(loss=("softmax",)),
    )
    sweep.main(config)
    assert_one_label_each(config, Path(config.output))
