"""The end of a sweep: thresholds, leaderboard, model bundle, example posts, report."""

from dataclasses import replace
from typing import Any

import numpy as np

from emo.bundle import save_bundle
from emo.calibrate import calibrate, read_calibrator
from emo.config import SweepConfig, UserError
from emo.console import say, warn
from emo.cost.meter import Meter
from emo.encoded import EncodedPosts
from emo.encoders import EncoderSpec
from emo.examples import write_examples
from emo.leaderboard import baseline_rows, best_model, encoder_row, write_leaderboard
from emo.looks import record_look
from emo.pipeline import Posts
from emo.plan import show_leaderboard
from emo.report import write_report
from emo.run import FINISHED, Run
from emo.scores import bundle_of, kept_trials
from emo.trials import Row, read_trials


def conclude(
    run: Run,
    config: SweepConfig,
    posts: Posts,
    specs: list[EncoderSpec],
    data: dict[str, EncodedPosts],
    job: str = "sweep",
    meter: Meter | None = None,
) -> None:
    """Turn a finished search into everything that a person takes away from it; ``job`` is who looks at test, and the
    meter is what has counted what it took."""
    trials = read_trials(run.folder)
    specs = fruitful(run, trials, specs)
    labels = tuple(posts.manifest["labels"])
    record_look(run.folder, job, sum(len(kept_trials(run.folder, trials, spec.name, config.top)) for spec in specs))
    say(f"thresholds: calibrating the best {config.top} models of each encoder")
    calibrated = calibrate(run.folder, config, posts, specs, data)
    say("baselines: all-positive, prior, TF-IDF with logistic regression")
    any_data = data[specs[0].name]
    rows = [encoder_row(spec, calibrated) for spec in specs] + baseline_rows(
        run.folder,
        posts.folder,
        any_data,
        labels,
        text=posts.text,
        num_trials=config.budget.calibration_trials,
        seed=config.seed,
        single_label="softmax" in config.space.loss,
    )
    best = best_model(rows, calibrated)
    trial = next(row for row in trials if row["trial_id"] == best["trial_id"])
    spec = next(spec for spec in specs if spec.name == best["encoder"])
    write_model(run, config, best, trial, spec, data[spec.name], posts)
    write_examples(run.folder, posts.folder, best, labels)
    show_leaderboard(write_leaderboard(run.folder, rows, best, labels))
    if meter:
        meter.write()
    write_report(run.folder)
    run.log(FINISHED)


def fruitful(run: Run, trials: list[Row], specs: list[EncoderSpec]) -> list[EncoderSpec]:
    """The encoders of which there is a model; a UserError with the reason where there is none."""
    done = [spec for spec in specs if kept_trials(run.folder, trials, spec.name, 1)]
    for spec in specs:
        if spec not in done:
            errors = [row["error"] for row in trials if row["encoder"] == spec.name and row["error"]]
            because = f"a trial failed, the first because: {errors[0]}" if errors else "no trial has ended"
            warn(f"{spec.name} has no model and is left out: {because}")
    if not done:
        raise UserError(f"No trial of {run.folder} has left a model; its trials.parquet tells of each.")
    return done


def write_model(
    run: Run,
    config: SweepConfig,
    best: dict[str, Any],
    trial: Row,
    spec: EncoderSpec,
    data: EncodedPosts,
    posts: Posts,
) -> None:
    """The best model, which a trial has made, as a bundle under ``model/``."""
    about = {name: best[name] for name in ("encoder", "trial_id", "rule", "val/macro_f1", "test/macro_f1")}
    bundle = bundle_of(run.folder, config, trial, spec, data, posts)
    calibrator = read_calibrator(run.folder, trial["trial_id"], config.probabilities)
    thresholds = np.array(best["thresholds"])
    save_bundle(run.path("model"), replace(bundle, thresholds=thresholds, calibrator=calibrator, about=about))
