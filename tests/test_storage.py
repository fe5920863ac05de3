"""Storage: whole files or none, sets that exist once their manifest does, on any store of fsspec."""

import json
import os
import string
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emo import storage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    yield str(tmp_path / "root") if request.param == "local" else f"memory://{tmp_path.name}"
    fsspec.filesystem("memory").store.clear()


def test_what_is_written_is_read(root):
    uri = storage.join(root, "deep", "file.bin")
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    storage.write_json(storage.join(root, "file.json"), {"ü": [1, None, 0.5]})
    assert storage.read_json(storage.join(root, "file.json")) == {"ü": [1, None, 0.5]}


def test_nothing_but_the_file_is_left_by_a_write(root):
    storage.write_bytes(storage.join(root, "file.bin"), b"one")
    fs, path = storage.filesystem(root)
    assert [file.rsplit("/", 1)[-1] for file in fs.ls(path, detail=False)] == ["file.bin"]


def test_json_without_numbers_is_refused(root):
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.write_json(storage.join(root, "file.json"), float("nan"))
    assert not storage.exists(storage.join(root, "file.json"))


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_content(failing, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    uri = str(tmp_path / "trials.parquet")
    storage.write_bytes(uri, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(OSError, match="disk full"):
            storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"
    assert list(tmp_path.glob("*.parquet")) == [tmp_path / "trials.parquet"]


def test_a_set_is_found_once_it_has_its_manifest(root):
    folder = storage.join(root, "set")
    assert storage.manifest(folder) is None
    data = storage.new_data_folder()
    storage.write_bytes(storage.join(folder, data, "part.parquet"), b"part")
    assert storage.manifest(folder) is None
    storage.finish(folder, {"kind": "posts", "data": data})
    assert storage.manifest(folder) == {"kind": "posts", "data": data}


def test_every_writer_has_a_data_folder_of_its_own():
    names = {storage.new_data_folder("rejects") for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("rejects-") for name in names)


def test_emptiness(root):
    folder = storage.join(root, "run")
    assert storage.is_empty(folder)
    storage.make_folder(folder)
    storage.make_folder(folder)
    assert storage.is_empty(folder)
    storage.write_bytes(storage.join(folder, "events.log"), b"")
    assert not storage.is_empty(folder)
    assert not storage.is_empty(storage.join(folder, "events.log"))


def test_paths_and_uris(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert storage.absolute("runs/one") == str(tmp_path / "runs" / "one")
    assert storage.absolute("~/runs") == str(tmp_path / "home" / "runs")
    assert storage.absolute("s3://bucket/runs") == "s3://bucket/runs"
    assert storage.join("s3://bucket/", "a", "b") == "s3://bucket/a/b"
    fs, path = storage.filesystem("~/runs")
    assert storage.is_local(fs)
    assert Path(path) == tmp_path / "home" / "runs"
    assert not storage.is_local(storage.filesystem("memory://runs")[0])


@settings(deadline=None)
@given(JSON)
def test_digest_depends_on_the_value_alone(value):
    digest = storage.digest(value)
    assert len(digest) == 16
    assert set(digest) <= set(string.hexdigits.lower())
    assert storage.digest(json.loads(json.dumps(value))) == digest
    assert storage.digest([value]) != digest


def test_digest_is_the_same_in_every_process_and_order():
    value = {"b": [1, 2.5, "ü"], "a": None}
    code = "from emo.storage import digest; print(digest({'a': None, 'b': [1, 2.5, 'ü']}))"
    options = {"env": os.environ | {"PYTHONHASHSEED": "7"}, "capture_output": True, "text": True, "check": True}
    assert subprocess.run([sys.executable, "-c", code], **options).stdout.strip() == storage.digest(value)
    assert storage.digest([1, 2]) != storage.digest([2, 1])
