"""Sets in the making: one owner at a time, and nothing lost when it is gone."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from emo import storage, work
from emo.config import UserError
from emo.work import is_unfinished, make_set


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "SETTLE_SECONDS", {True: 0.01, False: 0.01})
    yield str(tmp_path / "set") if request.param == "local" else f"memory://{tmp_path.name}/set"
    storage.remove(f"memory://{tmp_path.name}")


def test_a_set_is_made_once(folder):
    made = make_set(folder, "key", lambda work: {"data": "a"})
    again = make_set(folder, "key", lambda work: pytest.fail("it is there already"))
    assert (made, again) == (({"data": "a"}, False), ({"data": "a"}, True))
    assert storage.manifest(folder) == {"data": "a"}
    assert not storage.exists(storage.join(folder, "work"))


def test_what_was_left_after_the_end_is_tidied_up_and_not_gone_on_with(folder):
    make_set(folder, "key", lambda work: {"data": "a"})
    for refresh, data in ((False, "a"), (True, "b")):
        owner(folder, beat=0)
        storage.write_bytes(storage.join(folder, "work", "old"), b"part")
        made, _ = make_set(
            folder,
            "key",
            lambda work: {"data": "b" if "old" not in storage.list_files(work) else "old"},
            refresh=refresh,
        )
        assert made == {"data": data}
        assert not storage.exists(storage.join(folder, "work", "old"))


def test_no_beat_comes_after_the_end(folder, monkeypatch):
    monkeypatch.setattr(work, "BEAT_SECONDS", 0.0)
    for number in range(20):
        place = f"{folder}-{number}"
        make_set(place, "key", lambda work: time.sleep(0.01) or {"data": "a"})
        assert not storage.exists(storage.join(place, "work"))
        storage.remove(place)


def test_refresh_makes_it_again(folder):
    make_set(folder, "key", lambda work: {"data": "a"})
    assert make_set(folder, "key", lambda work: {"data": "b"}, refresh=True) == ({"data": "b"}, False)
    assert storage.manifest(folder) == {"data": "b"}


def test_what_a_failed_maker_left_is_found_by_the_next(folder):
    def fails(place: str) -> dict:
        storage.write_bytes(storage.join(place, "half"), b"done")
        raise RuntimeError("away")

    with pytest.raises(RuntimeError):
        make_set(folder, "key", fails)
    assert is_unfinished(folder)
    found, _ = make_set(folder, "key", lambda place: {"half": storage.read_bytes(storage.join(place, "half")).decode()})
    assert found == {"half": "done"}
    assert not is_unfinished(folder)


def test_unfinished_work_of_another_key_is_left_alone(folder):
    with pytest.raises(RuntimeError):
        make_set(folder, "one", lambda place: (_ for _ in ()).throw(RuntimeError("away")))
    with pytest.raises(UserError, match="unfinished set that was begun with other choices"):
        make_set(folder, "two", lambda place: {})


def owner(folder: str, **values) -> None:
    told = {"token": "x", "host": "elsewhere", "pid": 1, "key": "key", "beat": time.time()} | values
    storage.write_json(storage.join(folder, "work", "owner.json"), told)


def test_an_owner_elsewhere_is_dead_after_a_silence(folder):
    owner(folder, beat=time.time() - work.DEAD_SECONDS - 1)
    assert make_set(folder, "key", lambda place: {"mine": 1}) == ({"mine": 1}, False)


def test_a_living_owner_is_waited_for(folder, monkeypatch, capsys):
    owner(folder)
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:  # it ends its work
            storage.finish(folder, {"theirs": 1})
            storage.remove(storage.join(folder, "work"))

    monkeypatch.setattr(work.time, "sleep", sleep)
    assert make_set(folder, "key", lambda place: pytest.fail("they did it")) == ({"theirs": 1}, True)
    assert "waiting for the process 1 on elsewhere" in capsys.readouterr().out


def hold(folder: str, ready) -> None:
    def make(place: str) -> dict:
        storage.write_bytes(storage.join(place, "part"), b"theirs")
        ready.set()
        time.sleep(60)
        return {}

    make_set(folder, "key", make)


def test_a_killed_owner_of_this_machine_is_followed_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(str(tmp_path), ready))
    process.start()
    assert ready.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    started = time.monotonic()
    found, _ = make_set(str(tmp_path), "key", lambda place: {"part": storage.read_bytes(f"{place}/part").decode()})
    assert found == {"part": "theirs"}
    assert time.monotonic() - started < 10
    assert json.loads((tmp_path / "manifest.json").read_text()) == found
