"""A sweep of two encoders over features at random, one trial at a time, to be killed at any moment and started again.

python sweep_alone.py RUN TRIALS
"""

import sys

from emo.session import prepare_environment

prepare_environment()

import numpy as np

from emo import sweep as sweep_module
from emo.config import SweepConfig
from emo.models import FeatureSpec
from emo.session import start_ray
from emo.sweep import sweep
from emo.train import TrainingData

ENCODERS = ("a", "b")


def features(seed: int, width: int = 4) -> TrainingData:
    """Features of 60 posts to train on and 30 to choose by, with two labels that they tell."""
    rng = np.random.default_rng(seed)

    def split(num: int) -> tuple[np.ndarray, np.ndarray]:
        found = rng.standard_normal((num, width)).astype(np.float32)
        return np.concatenate([found, np.ones((num, 1), np.float32)], axis=1), found[:, :2] > 0

    return TrainingData(*split(60), *split(30), specs={"text": FeatureSpec(width)})


def main(run: str, trials: str) -> None:
    start_ray()
    sweep_module.trials_that_fit = lambda trials_per_gpu: 1  # so that it is known what would have been tried
    config = SweepConfig(
        trials=int(trials), refine_trials=4, refine_top=1, max_epochs=60, patience=60, top=3, pruning="asha"
    )
    sweep(run, config, {name: features(number, width=64) for number, name in enumerate(ENCODERS)}, {})


if __name__ == "__main__":
    main(*sys.argv[1:])
