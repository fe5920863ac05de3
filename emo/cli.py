"""How every job starts and ends: flags, Ray, and one sentence for a mistake."""

import sys
from collections.abc import Callable
from typing import Any

import tyro

from emo.config import UserError
from emo.session import silence_native_code, start_ray


def run_job(config_type: type[Any], main: Callable[[Any], None], *, needs_ray: bool = True) -> None:
    """Read the flags, start Ray, run ``main``; a mistake of the user ends in one sentence and exit status 2."""
    try:
        config: Any = tyro.cli(config_type, description=main.__doc__)
        if not config.verbose:
            silence_native_code()
        if needs_ray:
            start_ray(verbose=config.verbose)
        main(config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
