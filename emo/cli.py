"""How every job starts and ends: flags, Ray, and one sentence for a mistake."""

import sys
from collections.abc import Callable
from typing import Any

import tyro

from emo.config import TRAINS_ENCODERS, SweepConfig, TrainConfig
from emo.errors import sentence
from emo.session import silence_native_code, start_ray

FLAGS_OF_ONE = {"--space.": "--", "--encoders": "--encoder"}
"""A sweep's flags as jobs/train.py has them, whose one training is kept as a sweep of one trial."""


def needs_dashboard(config: Any) -> bool:
    """Whether the job nests Ray Train in Ray Tune, which then asks the dashboard for the state of the cluster."""
    return isinstance(config, SweepConfig) and config.mode in TRAINS_ENCODERS


def run_job(config_type: type[Any], main: Callable[[Any], None], *, needs_ray: bool = True) -> None:
    """Read the flags, start Ray, run ``main``; a mistake of the user ends in one sentence and exit status 2."""
    try:
        config: Any = tyro.cli(config_type, description=main.__doc__)
        if not config.verbose:
            silence_native_code()
        if needs_ray:
            start_ray(verbose=config.verbose, dashboard=needs_dashboard(config))
        main(config)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        said = sentence(error)
        if said is None:
            raise
        print(f"error: {in_flags_of(config_type, said)}", file=sys.stderr)
        sys.exit(2)


def in_flags_of(config_type: type[Any], said: str) -> str:
    """A sentence with the flags that the job itself has."""
    for there, here in FLAGS_OF_ONE.items() if config_type is TrainConfig else ():
        said = said.replace(there, here)
    return said
