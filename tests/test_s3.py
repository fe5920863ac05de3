"""S3: sets and files on a store that fails now and then, and one that never comes back."""

import contextlib
import gc
import os
import subprocess
import sys
import time

import pyarrow as pa
import pytest
from product import check_product
from s3 import ROOT, environment_set
from s3fs import S3FileSystem

from emo import storage
from emo.config import UserError
from emo.errors import sentence
from emo.fetch import FetchLimits, fetch
from emo.s3 import S3
from emo.tables import read_folder, read_table, write_table

pytest_plugins = ["s3"]
CONTENT = bytes(range(256)) * 300
FAULTS = ("500", "slow down", "hang", "cut", "lost")
TABLE = pa.table({"post_id": [f"p{number}" for number in range(50)], "value": list(range(50))})


def test_files_and_sets(s3):
    folder = f"{ROOT}/deep/set"
    assert storage.is_empty(folder)
    assert storage.list_files(folder) == {}
    assert storage.manifest(folder) is None
    storage.make_folder(folder)
    storage.write_bytes(f"{folder}/b.bin", b"one")
    storage.write_bytes(f"{folder}/b.bin", CONTENT)
    storage.write_bytes(f"{folder}/a.bin", b"")
    storage.write_bytes(f"{folder}/inner/c.bin", b"c")
    assert storage.read_bytes(f"{folder}/b.bin") == CONTENT
    assert storage.read_bytes(f"{folder}/a.bin") == b""
    assert storage.list_files(folder) == {"a.bin": 0, "b.bin": len(CONTENT)}
    assert not storage.is_empty(folder)
    storage.finish(folder, {"kind": "posts"})
    assert storage.manifest(folder) == {"kind": "posts"}
    storage.remove(f"{folder}/a.bin")
    storage.remove(f"{folder}/a.bin")
    assert list(storage.list_files(folder)) == ["b.bin", "manifest.json"]
    storage.remove(folder)
    assert storage.is_empty(folder)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{folder}/b.bin")


def test_a_bucket_that_cannot_be_written_is_said_before_any_work(s3):
    storage.require_writable("--cache", f"{ROOT}/cache")
    assert storage.list_files(f"{ROOT}/cache") == {}
    with pytest.raises(UserError, match=r"^--output s3://nobody-has-it/runs/one cannot be written: .*bucket.*\.$"):
        storage.require_writable("--output", "s3://nobody-has-it/runs/one")


@pytest.mark.parametrize("size", [0, 1000, 12 * 2**20])
def test_a_file_that_is_written_in_pieces_is_seen_once_it_is_whole(s3, monkeypatch, size):
    monkeypatch.setattr(S3, "default_block_size", 5 * 2**20)
    content = os.urandom(size)
    uri = f"{ROOT}/pieces.bin"
    with storage.writing(uri) as file:
        for start in range(0, size, 2**20):
            file.write(content[start : start + 2**20])
        assert not storage.exists(uri)
    assert storage.read_bytes(uri) == content


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("size", [1000, 12 * 2**20])
def test_a_file_whose_writer_fails_is_never_seen(s3, monkeypatch, size):
    monkeypatch.setattr(S3, "default_block_size", 5 * 2**20)
    storage.write_bytes(f"{ROOT}/pieces.bin", b"old")

    with contextlib.suppress(KeyError), storage.writing(f"{ROOT}/pieces.bin") as file:
        file.write(bytes(size))
        raise KeyError
    del file
    gc.collect()
    assert storage.read_bytes(f"{ROOT}/pieces.bin") == b"old"
    assert S3().list_multipart_uploads("bucket") == []


def test_what_others_write_is_found_at_once(s3):
    folder = f"{ROOT}/set"
    storage.write_bytes(f"{folder}/one.parquet", b"1")
    fs, path = storage.filesystem(folder)
    assert fs.ls(path)
    S3FileSystem(skip_instance_cache=True).pipe_file(f"{path}/manifest.json", b"{}")
    assert storage.manifest(folder) == {}
    assert len(fs.glob(f"{path}/*")) == 2


def test_tables(s3):
    write_table(f"{ROOT}/set/one.parquet", TABLE)
    write_table(f"{ROOT}/set/two.parquet", TABLE)
    assert read_table(f"{ROOT}/set/one.parquet") == TABLE
    assert read_folder(f"{ROOT}/set") == pa.concat_tables([TABLE, TABLE])
    assert read_folder(f"{ROOT}/set", ["value"]).column_names == ["value"]


# Faults that pass


def write_and_read(name: str) -> bytes:
    storage.write_bytes(f"{ROOT}/{name}", CONTENT)
    return storage.read_bytes(f"{ROOT}/{name}")


def write_in_pieces(name: str) -> bytes:
    with storage.writing(f"{ROOT}/{name}") as file:
        file.write(CONTENT)
    return storage.read_bytes(f"{ROOT}/{name}")


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_survives(s3, fault, method):
    s3.fail(fault, method=method, key="file")
    assert write_and_read("file") == CONTENT
    if (fault, method) != ("cut", "PUT"):  # half of an empty answer is all of it
        assert s3.count(method, "file") > 1


@pytest.mark.parametrize(("method", "key"), [("POST", "uploads"), ("PUT", "partNumber"), ("POST", "uploadId")])
@pytest.mark.parametrize("fault", ["500", "slow down", "hang"])
def test_an_upload_in_pieces_survives(s3, fault, method, key):
    s3.fail(fault, method=method, key=key)
    assert write_in_pieces("file") == CONTENT


@pytest.mark.parametrize("fault", FAULTS)
def test_a_set_survives(s3, fault):
    for method in ("HEAD", "PUT", "GET"):
        s3.fail(fault, method=method, key="manifest")
    s3.fail(fault, method="GET", key="list-type")
    storage.finish(f"{ROOT}/set", {"kind": "posts"})
    assert list(storage.list_files(f"{ROOT}/set")) == ["manifest.json"]
    assert storage.manifest(f"{ROOT}/set") == {"kind": "posts"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_table_survives(s3, fault):
    write_table(f"{ROOT}/set/one.parquet", TABLE)
    for method in ("HEAD", "GET"):
        s3.fail(fault, method=method, key="parquet")
    s3.fail(fault, method="GET", key="list-type")
    assert read_folder(f"{ROOT}/set") == TABLE


def test_images_survive(s3):
    uris = [f"{ROOT}/images/{number}.png" for number in range(20)]
    for uri in uris:
        storage.write_bytes(uri, CONTENT)
    for fault in FAULTS:
        s3.fail(fault, method="GET", key="images")
    found = fetch([*uris, f"{ROOT}/images/none.png"], FetchLimits(max_bytes=len(CONTENT), timeout=20))
    assert {found[uri] for uri in uris} == {CONTENT}
    assert str(found[f"{ROOT}/images/none.png"]) == "image file not found"
    assert str(fetch(uris[:1], FetchLimits(max_bytes=9))[uris[0]]) == "image is larger than 9 bytes"


# Faults that do not


@pytest.mark.parametrize(
    ("fault", "action"),
    [
        ("hang", lambda: storage.write_bytes(f"{ROOT}/set/two.bin", CONTENT)),
        ("slow down", lambda: write_in_pieces("set/two.bin")),
        ("lost", lambda: storage.read_bytes(f"{ROOT}/set/one.parquet")),
        ("cut", lambda: storage.read_bytes(f"{ROOT}/set/one.parquet")),
        ("hang", lambda: read_folder(f"{ROOT}/set")),
        ("500", lambda: storage.list_files(f"{ROOT}/set")),
        ("hang", lambda: storage.manifest(f"{ROOT}/set")),
    ],
)
def test_a_store_that_stays_broken_is_one_sentence_in_good_time(s3, fault, action):
    write_table(f"{ROOT}/set/one.parquet", TABLE)
    storage.finish(f"{ROOT}/set", {})
    s3.fail(fault, times=float("inf"))
    began = time.monotonic()
    with pytest.raises(OSError, match=r"\w") as caught:
        action()
    assert time.monotonic() - began < 10
    assert sentence(caught.value, "It failed").startswith("It failed: ")


def test_no_bucket_and_no_store_are_told(s3):
    with pytest.raises(FileNotFoundError, match="bucket does not exist"):
        storage.read_bytes("s3://nowhere/file")
    storage.make_folder("s3://nowhere/folder")
    with pytest.raises(FileNotFoundError, match="bucket does not exist"):
        storage.write_bytes("s3://nowhere/file", b"")  # a misspelt bucket is not made
    with pytest.raises(FileNotFoundError, match="bucket does not exist"), storage.writing("s3://nowhere/file") as file:
        file.write(b"one")
    with (
        environment_set({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}),
        pytest.raises(OSError, match="Could not connect to the endpoint URL"),
    ):
        storage.read_bytes(f"{ROOT}/file")


def test_no_credentials_are_told(s3):
    with environment_set({}) as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(OSError, match="Unable to locate credentials"):
            storage.read_bytes(f"{ROOT}/file")
        assert str(fetch([f"{ROOT}/file"], FetchLimits())[f"{ROOT}/file"]) == "image could not be fetched: OSError"


# Ray Data

THERE_AND_BACK = """
import sys
from emo.session import prepare_environment, start_ray
prepare_environment()
import pyarrow.fs, ray
from emo import storage
from emo.tables import read_folder
start_ray()
root = sys.argv[1]
fs, path = storage.filesystem(f"{root}/one")
arrow = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))
ray.data.range(400, override_num_blocks=4).write_parquet(path, filesystem=fs)
found = ray.data.read_parquet(path, filesystem=arrow).map_batches(lambda batch: batch)
found.write_parquet(storage.filesystem(f"{root}/two")[1], filesystem=arrow)
print(sum(read_folder(f"{root}/two")["id"].to_pylist()))
"""


@pytest.mark.slow
def test_ray_data_survives(s3):
    for method, fault in (("PUT", "hang"), ("PUT", "500"), ("HEAD", "slow down"), ("GET", "cut"), ("GET", "lost")):
        s3.fail(fault, method=method, key="parquet")
    done = subprocess.run(
        [sys.executable, "-c", THERE_AND_BACK, f"{ROOT}/ray"],
        env=os.environ | {"FSSPEC_S3": '{"config_kwargs": {"read_timeout": 1}}', "AWS_MAX_ATTEMPTS": "5"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == sum(range(400))
    assert not [fault for fault in s3.faults if fault.times]


@pytest.mark.slow
def test_the_whole_product_survives(s3, tmp_path):
    for key in ("posts.jsonl", "png", "owner", "manifest", "/parts/", "data", "safetensors", "events", "optuna.log"):
        for fault in ("500", "slow down", "cut", "lost"):
            s3.fail(fault, key=key)
    s3.fail("hang", key="parquet")
    with environment_set({"AWS_MAX_ATTEMPTS": "5"}):  # as it is by default
        check_product(f"{ROOT}/deep", tmp_path)
    assert [fault for fault in s3.faults if fault.times] == []
