"""A real S3-compatible server: what moto's stand-in might let pass."""

import os

import pytest
from product import check_product
from s3 import environment, environment_set
from s3fs import S3FileSystem
from swift import ACCESS_KEY, SECRET

from emo import storage
from emo.s3 import S3

pytest_plugins = ["swift"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(swift_server):
    """A URI on the server, which this process's environment names."""
    with environment_set(environment(swift_server, ACCESS_KEY, SECRET)):
        S3FileSystem(skip_instance_cache=True).makedirs("swift-bucket", exist_ok=True)
        yield "s3://swift-bucket"


def test_files_and_sets(root):
    folder = f"{root}/deep/set"
    assert storage.is_empty(folder)
    assert storage.manifest(folder) is None
    storage.write_bytes(f"{folder}/a.bin", b"one")
    storage.write_bytes(f"{folder}/a.bin", b"three")
    storage.write_bytes(f"{folder}/none.bin", b"")
    storage.finish(folder, {"kind": "posts"})
    assert storage.read_bytes(f"{folder}/a.bin") == b"three"
    assert storage.read_bytes(f"{folder}/none.bin") == b""
    assert storage.manifest(folder) == {"kind": "posts"}
    assert list(storage.list_files(folder)) == ["a.bin", "manifest.json", "none.bin"]
    storage.remove(folder)
    storage.remove(folder)
    assert storage.is_empty(folder)


def test_an_upload_in_pieces(root, monkeypatch):
    monkeypatch.setattr(S3, "default_block_size", 5 * 2**20)
    content = os.urandom(25 * 2**20)
    with storage.writing(f"{root}/pieces.bin") as file:
        for start in range(0, len(content), 2**20):
            file.write(content[start : start + 2**20])
        assert not storage.exists(f"{root}/pieces.bin")
    assert storage.read_bytes(f"{root}/pieces.bin") == content


def test_a_wrong_secret_is_told(root, swift_server):
    storage.write_bytes(f"{root}/file", b"one")
    with environment_set(environment(swift_server, ACCESS_KEY, "wrong")):
        for action in (
            storage.read_bytes,
            storage.exists,
            storage.list_files,
            lambda uri: storage.write_bytes(uri, b""),
        ):
            with pytest.raises(PermissionError, match=r"signature|Forbidden"):
                action(f"{root}/file")


def test_the_whole_product_works(root, tmp_path):
    check_product(f"{root}/product", tmp_path)
