"""What a person is told of an error, however deep Ray has wrapped it."""

import errno

import pytest
import ray

from emo import storage
from emo.config import UserError
from emo.errors import causes, sentence


def wrapped(error: Exception) -> Exception:
    """The error as it arrives from a Ray task."""

    @ray.remote(max_retries=0)
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        ray.get(fail.remote())
    return caught.value


@pytest.mark.usefixtures("ray_session")
def test_a_mistake_found_in_a_task_is_told_without_its_traceback():
    assert sentence(wrapped(UserError("--data is empty."))) == "--data is empty."


@pytest.mark.usefixtures("ray_session")
def test_a_full_disk_in_a_task_is_told():
    full = OSError(errno.ENOSPC, "No space left on device")
    assert sentence(wrapped(full)) == "The disk is full: No space left on device."
    assert sentence(wrapped(full), "Posts cannot be written to x") == (
        "Posts cannot be written to x: No space left on device."
    )


def test_an_error_of_our_own_is_not_made_into_a_sentence():
    assert sentence(KeyError("x")) is None
    assert sentence(FileNotFoundError(errno.ENOENT, "gone")) is None


def test_errors_that_point_at_each_other_end():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert list(causes(first)) == [first, second]


def test_a_full_disk_leaves_no_half_written_set(tmp_path, monkeypatch):
    storage.finish(str(tmp_path), {"data": "old"})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        storage.finish(str(tmp_path), {"data": "new"})
    assert storage.manifest(str(tmp_path)) == {"data": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
