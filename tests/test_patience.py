"""Waiting for what is away for a minute, and for nothing else."""

import errno

import pytest

from emo import patience
from emo.errors import is_outside
from emo.patience import patiently

REFUSED = OSError(errno.EIO, "Could not connect to the endpoint URL")


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time that passes while it is slept only."""
    now = [0.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def failing(error: Exception, until: float, clock: list[float]):
    def call() -> str:
        if clock[0] < until:
            raise error
        return "done"

    return call


def test_a_store_that_comes_back_is_waited_for(clock, capsys):
    assert patiently("s3://bucket/run", failing(REFUSED, 60, clock)) == "done"
    assert capsys.readouterr().out.count("s3://bucket/run cannot be reached; trying again for 180 s") == 1


def test_one_that_does_not_is_given_up_with_its_own_error(clock):
    with pytest.raises(OSError, match="Could not connect"):
        patiently("s3://bucket/run", failing(REFUSED, 1e9, clock))
    assert 180 < clock[0] < 190


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), OSError(errno.ENOSPC, "full"), ValueError()])
def test_what_time_does_not_mend_is_not_waited_for(clock, error):
    with pytest.raises(type(error)):
        patiently("here", failing(error, 60, clock))
    assert clock[0] == 0
    assert is_outside(error) == isinstance(error, OSError)
