"""Runs trials that only sleep on cores that are only numbers, and prints how many trainings end in a second.

python sleeping_trials.py CORES TRAININGS_OF_A_TRIAL SECONDS

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
from ray.tune.search import Searcher

TRAINING_SECONDS = 0.5


def trial(config: dict[str, Any]) -> None:
    ends = []
    for _ in range(config["trainings"]):
        time.sleep(TRAINING_SECONDS)
        ends.append(time.time())
    tune.report({"ends": ends, "process": os.getpid()})


class ForSomeTime(Searcher):
    """Suggests trials until so many seconds after the first has ended."""

    def __init__(self, trainings: int, seconds: float) -> None:
        super().__init__(metric="process", mode="max")
        self.trainings, self.seconds, self.began = trainings, seconds, 0.0
        self.ended: list[tuple[float, int]] = []
        """When each training ended, and in which process."""

    def suggest(self, trial_id: str) -> Any:
        is_over = self.began and time.time() > self.began + self.seconds
        return Searcher.FINISHED if is_over else {"trainings": self.trainings}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        assert result
        self.began = self.began or time.time()
        self.ended += [(end, result["process"]) for end in result["ends"]]

    def second_half(self) -> list[int]:
        """The process of each training that ended then."""
        half = self.seconds / 2
        return [process for end, process in self.ended if half <= end - self.began < self.seconds]

    def save(self, checkpoint_path: str) -> None:
        """Nothing is gone on with."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing is gone on with."""


def main(cores: int, trainings: int, seconds: float) -> None:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(cores)
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    searcher = ForSomeTime(trainings, seconds)
    with tempfile.TemporaryDirectory() as run:
        tune.Tuner(
            tune.with_resources(trial, tune.PlacementGroupFactory([{"CPU": 1}])),
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=-1, max_concurrent_trials=cores, reuse_actors=True
            ),
            run_config=tune.RunConfig(name="tune", storage_path=run, verbose=0),
        ).fit()
    ray.shutdown()  # which else writes warnings after the figures
    done = searcher.second_half()
    ideal = cores / TRAINING_SECONDS
    rate = 2 * len(done) / seconds
    print(json.dumps({"rate": rate, "ideal": ideal, "share": rate / ideal, "actors": len(set(done))}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
