"""Files on any store that fsspec reaches, written so that no reader takes a half-written set for a whole one.

A *set* is a folder whose ``manifest.json`` is written last and names the data folder beside it. A
killed writer leaves a data folder that nothing names; the next writer makes its own.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO

import fsspec
from fsspec.core import url_to_fs

from emo.config import UserError

MANIFEST = "manifest.json"

for _scheme in ("s3", "s3a"):  # the class is imported when the first such URI is met
    fsspec.register_implementation(_scheme, "emo.s3.S3", clobber=True)


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The store of a path or URI, and the path within it; local paths are made absolute.

    A UserError says which package a store needs, or that there is no such store.
    """
    try:
        return url_to_fs(os.path.expanduser(uri))
    except (ImportError, ValueError) as error:
        raise UserError(f"{uri} cannot be reached: {error}") from None


def absolute(uri: str) -> str:
    """A remote URI as it is; a local path in full."""
    return uri if is_remote(uri) else filesystem(uri)[1]


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    return "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def exists(uri: str) -> bool:
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


def is_empty(uri: str) -> bool:
    """Whether nothing is at ``uri``: no file there, and no folder with anything in it."""
    fs, path = filesystem(uri)
    return not fs.exists(path) or (fs.isdir(path) and not fs.ls(path))


def require_writable(flag: str, uri: str) -> None:
    """A UserError, before any work, where nothing can be written into a folder of a remote store; it writes a file of
    no bytes there and deletes it."""
    if not is_remote(uri):
        return
    fs, path = filesystem(join(uri, f".writable-{uuid.uuid4().hex[:8]}"))
    try:
        fs.pipe_file(path, b"")
        fs.rm_file(path)
    except OSError as error:
        reason = str(error.strerror or error).removesuffix(".")
        raise UserError(f"{flag} {uri} cannot be written: {reason}.") from error


def make_folder(uri: str) -> None:
    fs, path = filesystem(uri)
    fs.makedirs(path, exist_ok=True)


def write_bytes(uri: str, content: bytes) -> None:
    """Write a whole file or none: a reader sees the old content or the new."""
    fs, path = filesystem(uri)
    if is_local(fs):
        with writing(uri) as file:
            file.write(content)
    else:  # one request, where a stream would take three
        fs.makedirs(fs._parent(path), exist_ok=True)
        fs.pipe_file(path, content)


@contextlib.contextmanager
def writing(uri: str, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write piece by piece, which readers see once it is whole, or never.

    Unless it is ``durable``, a local file that was just written may be lost with the machine's power.
    """
    fs, path = filesystem(uri)
    fs.makedirs(fs._parent(path), exist_ok=True)
    if is_local(fs):
        temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with open(temporary, "wb") as file:
                yield file
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(temporary)
            raise
    else:
        file = fs.open(path, "wb", autocommit=False)  # object stores show a file once its last part is there
        try:
            yield file
            file.close()
            file.commit()
        except BaseException:
            with contextlib.suppress(Exception):
                file.discard()
            with contextlib.suppress(AttributeError):  # a file of the memory store cannot be told
                file.closed = True  # or else it would be written when it is collected
            raise


def remove(uri: str) -> None:
    """Delete a file, or a folder with all that is in it; nothing there is no error."""
    fs, path = filesystem(uri)
    with contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def list_files(uri: str) -> dict[str, int]:
    """A folder's files by name, sorted, and the bytes of each; none where there is no such folder."""
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    try:
        found = fs.ls(path, detail=True)
    except FileNotFoundError:
        return {}
    return dict(sorted((each["name"].rsplit("/", 1)[-1], each["size"]) for each in found if each["type"] == "file"))


def read_bytes(uri: str) -> bytes:
    fs, path = filesystem(uri)
    return bytes(fs.cat_file(path))


def is_remote(uri: str) -> bool:
    """Whether only fsspec reaches it, and no library that opens local paths."""
    return "://" in uri and not is_local(filesystem(uri)[0])


def local_copy(uri: str) -> str:
    """The path of a folder on this machine: its own, or that of a copy, made once for its content, of a remote one."""
    if not is_remote(uri):
        return uri
    fs, path = filesystem(uri)
    found = fs.find(path, detail=True)
    if not found:
        raise UserError(f"{uri} does not exist, or is empty.")
    stamps = [[name, info["size"], str(info.get("ETag") or info.get("mtime"))] for name, info in found.items()]
    target = os.path.expanduser(f"~/.cache/emo/copies/{digest([uri, stamps])}")
    if not os.path.exists(target):
        partial = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
        fs.get(path.rstrip("/") + "/", partial, recursive=True)
        with contextlib.suppress(OSError):  # another process was faster
            os.rename(partial, target)
        shutil.rmtree(partial, ignore_errors=True)
    return target


def put_folder(local: str, uri: str, suffixes: tuple[str, ...] = ("",)) -> None:
    """Copy the files of a local folder whose names end so, but none of its subfolders, into one on any store."""
    fs, path = filesystem(uri)
    fs.makedirs(path, exist_ok=True)
    for entry in sorted(os.scandir(local), key=lambda entry: entry.name):
        if entry.is_file() and entry.name.endswith(suffixes):
            fs.put_file(entry.path, f"{path}/{entry.name}")


def write_json(uri: str, value: Any) -> None:
    write_bytes(uri, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode())


def read_json(uri: str) -> Any:
    return json.loads(read_bytes(uri))


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def new_data_folder(name: str = "data") -> str:
    """A name for a data folder that no other writer has."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def manifest(folder: str) -> dict[str, Any] | None:
    """The manifest of a finished set, or None where there is none."""
    uri = join(folder, MANIFEST)
    return read_json(uri) if exists(uri) else None


def finish(folder: str, content: dict[str, Any]) -> None:
    """Make a set whole: from now on readers find it."""
    write_json(join(folder, MANIFEST), content)
