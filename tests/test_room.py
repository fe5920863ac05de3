"""How much room there is on clusters that stay as they are and on those that grow."""

import pytest

from emo import room
from emo.config import SweepConfig, TrainingConfig, UserError


@pytest.fixture
def cluster(monkeypatch):
    """Makes a cluster of what Ray and the environment say of it."""

    def make(has: dict[str, float], grows: bool = False, told: str | None = None) -> None:
        monkeypatch.setattr("ray.cluster_resources", lambda: has)
        monkeypatch.setattr(room, "grows", lambda: grows)
        if told is None:
            monkeypatch.delenv("EMO_GROWS_TO", raising=False)
        else:
            monkeypatch.setenv("EMO_GROWS_TO", told)

    return make


def test_a_cluster_that_stays_has_room_for_what_it_has(cluster):
    cluster({"CPU": 8.0, "GPU": 2.0}, told="CPU=64,GPU=8")  # of another cluster
    assert room.capacity() == {"CPU": 8, "GPU": 2}
    assert (room.trials_that_fit(None), room.trials_that_fit(4)) == (8, 8)
    assert room.trainings_that_fit(TrainingConfig(num_workers=(2,))) == 1
    cluster({"CPU": 8.0})
    assert not room.has_gpus()


def test_a_cluster_that_grows_has_room_for_what_it_tells(cluster):
    cluster({"memory": 1e9}, grows=True, told="CPU=64,GPU=8")
    assert room.has_gpus()
    assert (room.trials_that_fit(None), room.trials_that_fit(4)) == (64, 32)
    assert room.trainings_that_fit(TrainingConfig(num_workers=(2,))) == 4
    cluster({"CPU": 96.0}, grows=True, told="CPU=64")
    assert room.capacity() == {"CPU": 96, "GPU": 0}
    assert not room.has_gpus()


def test_a_cluster_that_does_not_tell_how_far_it_grows_is_asked_for_more(cluster):
    cluster({}, grows=True)
    assert room.trials_that_fit(None) == room.UNTOLD
    assert not room.has_gpus()  # nobody knows that there are any
    assert room.trainings_that_fit(TrainingConfig(use_gpu="yes")) > 0


@pytest.mark.parametrize("told", ["64", "CPU=many", "CPU=4;GPU=1"])
def test_a_limit_that_cannot_be_read_is_said(cluster, told):
    cluster({}, grows=True, told=told)
    with pytest.raises(UserError, match=r"EMO_GROWS_TO is .*; it must be as CPU=64,GPU=8"):
        room.capacity()


def test_gpus_that_are_asked_for_and_not_there_are_said_at_once(cluster):
    cluster({"CPU": 8.0})
    for grows, told in ((False, None), (True, "CPU=64")):
        cluster({"CPU": 8.0}, grows, told)
        for mode in ("frozen", "full"):
            with pytest.raises(UserError, match="--use-gpu yes asks for GPUs, but the cluster has none"):
                room.require_room(SweepConfig(mode=mode, training=TrainingConfig(use_gpu="yes")))
    cluster({"CPU": 8.0})
    with pytest.raises(UserError, match="A trial takes a core and, with --trials-per-gpu, a GPU, but the cluster has"):
        room.require_room(SweepConfig(trials_per_gpu=2))
