"""The main job: posts -> features -> trials -> thresholds -> leaderboard, report and model.

python jobs/sweep.py                                     # the embedded corpus
python jobs/sweep.py --data posts.jsonl --labels auto    # your own posts
python jobs/sweep.py --data posts.jsonl --folds 5        # the same for each of five folds, and their means
"""

import time

from emo.session import prepare_environment

prepare_environment()  # before the imports of the libraries that read it

from emo.choosing import check_choices, chosen_encoders
from emo.cli import run_job
from emo.conclude import conclude
from emo.config import SweepConfig
from emo.console import say
from emo.cost.estimate import facts
from emo.cost.meter import Meter
from emo.cost.prices import read_prices
from emo.cost.rates import estimated
from emo.cost.taken import one_line
from emo.crossval import cross_validate
from emo.pipeline import cuts, encoder_data, features_of, posts_of, resolved, training_jobs
from emo.plan import show_plan, show_posts, show_results, warn_of_cuts
from emo.run import Run, give_up_folder, keep_plan, open_run, stored_encoders
from emo.sweep import sweep


def main(config: SweepConfig) -> None:
    """Train, tune and compare emotion classifiers on social-media posts."""
    if config.prepare.folds and config.fold is None:
        cross_validate(config, sweep_into)
    else:
        sweep_into(config)


def sweep_into(config: SweepConfig) -> None:
    """One sweep into one run folder."""
    started = time.monotonic()
    prices = read_prices(config.cost)
    run, config = open_run(config)
    if run.is_finished():
        say(f"{run.folder} is finished; nothing is left to do. Its report: {run.path('report.html')}")
        return
    with Meter(prices) as meter:
        if not swept(run, config, meter):
            return
    show_results(run.folder, time.monotonic() - started, one_line(meter.content()))


def swept(run: Run, config: SweepConfig, meter: Meter) -> bool:
    """Plan and sweep; False where only the plan was wanted."""
    loggers = []
    if config.log_to:
        from emo.loggers import callbacks  # it brings packages along that take seconds

        loggers = callbacks(config.log_to, run.folder)
    posts = posts_of(config)
    show_posts(posts.manifest)
    check_choices(config, posts)
    specs = resolved(config, posts, stored_encoders(run) or chosen_encoders(config, posts))
    estimate = estimated(config, posts, specs, run.folder, meter.prices)
    meter.keep_estimate(estimate)
    show_plan(config, specs, facts(estimate, meter.prices))
    if config.cost.estimate == "only":
        give_up_folder(run)
        return False
    features = features_of(config, posts, specs)
    warn_of_cuts(cuts(posts, specs, features))
    keep_plan(run, config, posts.manifest, specs, features)
    meter.keep_in(run.folder)
    data = encoder_data(config, posts, specs, features)
    jobs = training_jobs(config, posts, specs, data)
    cached = {} if jobs else {name: each.for_training() for name, each in data.items()}
    sweep(run.folder, config, cached, jobs, run.name, loggers)
    conclude(run, config, posts, specs, data, meter=meter)
    return True


if __name__ == "__main__":
    run_job(SweepConfig, main)
