"""Runs trials that only sleep on cores that are only numbers, and prints how many end in a second.

python sleeping_trials.py CORES ours|tune SECONDS

The scheduler is that of a sweep, or Tune's own.

SECONDS count from the end of the first trial, and only their second half is judged, when all actors had time to start.
"""

import json
import os
import sys
import tempfile
import time
from typing import Any

from emo.session import prepare_environment

prepare_environment()

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from emo.scheduling import UseEveryActor

TRIAL_SECONDS = 0.5


def trial(config: dict[str, Any]) -> None:
    time.sleep(TRIAL_SECONDS)
    tune.report({"process": os.getpid()})


class ForSomeTime(Searcher):
    """Suggests trials until so many seconds after the first has ended."""

    def __init__(self, seconds: float) -> None:
        super().__init__(metric="process", mode="max")
        self.seconds, self.began = seconds, 0.0
        self.ended: list[tuple[float, int]] = []
        """When each trial ended, and in which process."""

    def suggest(self, trial_id: str) -> Any:
        is_over = self.began and time.time() > self.began + self.seconds
        return Searcher.FINISHED if is_over else {"number": 0}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        assert result
        self.began = self.began or time.time()
        self.ended.append((time.time(), result["process"]))

    def second_half(self) -> list[int]:
        """The process of each trial that ended then."""
        half = self.seconds / 2
        return [process for end, process in self.ended if half <= end - self.began < self.seconds]

    def save(self, checkpoint_path: str) -> None:
        """Nothing is gone on with."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing is gone on with."""


def main(cores: int, scheduler: str, seconds: float) -> None:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(cores)
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    searcher = ForSomeTime(seconds)
    with tempfile.TemporaryDirectory() as run:
        tune.Tuner(
            tune.with_resources(trial, tune.PlacementGroupFactory([{"CPU": 1}])),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=UseEveryActor() if scheduler == "ours" else FIFOScheduler(),
                num_samples=-1,
                max_concurrent_trials=cores,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name="tune", storage_path=run, verbose=0),
        ).fit()
    ray.shutdown()  # which else writes warnings after the figures
    done = searcher.second_half()
    ideal = cores / TRIAL_SECONDS
    rate = 2 * len(done) / seconds
    print(json.dumps({"rate": rate, "ideal": ideal, "share": rate / ideal, "actors": len(set(done))}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
