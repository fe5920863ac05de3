"""What every test may use: one Ray for the whole session, and no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_metrics_report_interval_ms"] = "2000"  # noqa: SIM112, as Ray spells it; else 10 s late

from emo.session import prepare_environment

prepare_environment()

from collections.abc import Iterator

import pytest
from hypothesis import settings

from emo.session import start_ray

# The same examples at every run, so that what passed passes again; --hypothesis-profile=default draws new ones.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray as the jobs start it on a laptop."""
    import ray

    start_ray()
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Several threads over tiny tensors wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
