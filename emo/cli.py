"""How every job starts and ends: flags, Ray, and one sentence for a mistake."""

import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import tyro

from emo import storage
from emo.config import TRAINS_ENCODERS, SweepConfig, TrainConfig
from emo.console import warn
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
            signal.signal(signal.SIGTERM, stop)
        check_start(config)
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


def stop(*_: Any) -> NoReturn:
    """End the job, as `ray job stop` asks by SIGTERM."""
    print("stopped; the same command goes on with what is done (a run with --output and --resume)", file=sys.stderr)
    sys.exit(128 + signal.SIGTERM)


def check_start(config: Any) -> None:
    """A UserError where the cluster has no room for the job, or it could not write what it makes; a warning where other
    nodes could not read that."""
    from emo.room import has_other_nodes, require_room  # with Ray, which not every job needs

    if isinstance(config, SweepConfig | TrainConfig):
        require_room(config if isinstance(config, SweepConfig) else config.as_sweep())

    for name in ("output", "cache"):
        if (uri := getattr(config, name, None)) is not None:
            storage.require_writable(f"--{name}", uri)
            if not storage.is_remote(uri) and has_other_nodes():
                warn(f"--{name} {uri} lies on this node; unless the others reach it too, name a store, as in s3://")


def in_flags_of(config_type: type[Any], said: str) -> str:
    """A sentence with the flags that the job itself has."""
    for there, here in FLAGS_OF_ONE.items() if config_type is TrainConfig else ():
        said = said.replace(there, here)
    return said
