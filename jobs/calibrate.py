"""Calibrate the models of a run again, finished or not, into a run folder of its own.

python jobs/calibrate.py --run runs/one --calibration-trials 500 --output runs/one-500
python jobs/calibrate.py --run runs/one --probabilities isotonic
"""

import time

from emo.session import prepare_environment

prepare_environment()  # before the imports of the libraries that read it

from emo.cli import run_job
from emo.conclude import conclude
from emo.config import CalibrateConfig
from emo.crossval import check_one_run
from emo.looks import carry_looks
from emo.pipeline import data_of_run
from emo.plan import show_results
from emo.recalibrate import copy_run


def main(config: CalibrateConfig) -> None:
    """Choose decision thresholds for the kept models of a run, calibrate their probabilities, and report on them."""
    started = time.monotonic()
    check_one_run(config.run)
    run, swept = copy_run(config)
    carry_looks(config.run, run.folder)
    posts, specs, data = data_of_run(run, swept)
    conclude(run, swept, posts, specs, data, job="calibrate")
    show_results(run.folder, time.monotonic() - started)


if __name__ == "__main__":
    run_job(CalibrateConfig, main)
