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
from emo.config import TrainConfig
from emo.console import say
from emo.pipeline import cuts, encoded, encoder_data, posts_of, training_jobs
from emo.plan import show_posts, show_results, show_training, warn_of_cuts
from emo.run import keep_plan, open_run, stored_encoders
from emo.single import train


def main(config: TrainConfig) -> None:
    """Train one emotion classifier on social-media posts, and its encoders with it where that is asked for."""
    started = time.monotonic()
    head = replace(config.head, seed=config.seed)
    run, swept = open_run(config.as_sweep(), "train")
    if run.is_finished():
        say(f"{run.folder} is finished; nothing is left to do. Its report: {run.path('report.html')}")
        return
    posts = posts_of(swept)
    show_posts(posts.manifest)
    check_choices(swept, posts)
    specs = stored_encoders(run) or chosen_encoders(swept, posts)
    show_training(config, run.folder)
    specs, features = encoded(swept, posts, specs)
    warn_of_cuts(cuts(posts, specs, features))
    keep_plan(run, swept, posts.manifest, specs, features)
    data = encoder_data(swept, posts, specs, features)
    jobs = training_jobs(swept, posts, specs, data, head)
    train(run, config.encoder, head, data[config.encoder].for_training(), jobs.get(config.encoder))
    conclude(run, swept, posts, specs, data, job="train")
    show_results(run.folder, time.monotonic() - started)


if __name__ == "__main__":
    run_job(TrainConfig, main)
