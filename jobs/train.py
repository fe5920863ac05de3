"""Train one model with choices that are given: posts -> training -> thresholds -> report and model.

python jobs/train.py --data posts.jsonl --encoder clip-base --mode full --num-workers 2
"""

import time
from dataclasses import replace

from emo.session import prepare_environment

prepare_environment()  # before the imports of the libraries that read it

from emo.choosing import check_choices, chosen_encoders
from emo.cli import run_job
from emo.conclude import conclude
from emo.config import HeadConfig, SweepConfig, TrainConfig
from emo.console import say
from emo.cost.estimate import facts
from emo.cost.meter import Meter
from emo.cost.prices import read_prices
from emo.cost.rates import estimated
from emo.cost.taken import one_line
from emo.pipeline import cuts, encoder_data, features_of, posts_of, resolved, training_jobs
from emo.plan import show_posts, show_results, show_training, warn_of_cuts
from emo.run import Run, give_up_folder, keep_plan, open_run, stored_encoders
from emo.single import train


def main(config: TrainConfig) -> None:
    """Train one emotion classifier on social-media posts, and its encoders with it where that is asked for."""
    started = time.monotonic()
    prices = read_prices(config.cost)
    head = replace(config.head, seed=config.seed)
    run, swept = open_run(config.as_sweep(), "train")
    if run.is_finished():
        say(f"{run.folder} is finished; nothing is left to do. Its report: {run.path('report.html')}")
        return
    with Meter(prices) as meter:
        if not trained(run, config, swept, head, meter):
            return
    show_results(run.folder, time.monotonic() - started, one_line(meter.content()))


def trained(run: Run, config: TrainConfig, swept: SweepConfig, head: HeadConfig, meter: Meter) -> bool:
    """Plan and train; False where only the plan was wanted."""
    posts = posts_of(swept)
    show_posts(posts.manifest)
    check_choices(swept, posts)
    specs = resolved(swept, posts, stored_encoders(run) or chosen_encoders(swept, posts))
    estimate = estimated(swept, posts, specs, run.folder, meter.prices)
    meter.keep_estimate(estimate)
    show_training(config, run.folder, facts(estimate, meter.prices))
    if config.cost.estimate == "only":
        give_up_folder(run)
        return False
    features = features_of(swept, posts, specs)
    warn_of_cuts(cuts(posts, specs, features))
    keep_plan(run, swept, posts.manifest, specs, features)
    meter.keep_in(run.folder)
    data = encoder_data(swept, posts, specs, features)
    jobs = training_jobs(swept, posts, specs, data, head)
    train(run, config.encoder, head, data[config.encoder].for_training(), jobs.get(config.encoder))
    conclude(run, swept, posts, specs, data, job="train", meter=meter)
    return True


if __name__ == "__main__":
    run_job(TrainConfig, main)
