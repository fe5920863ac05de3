"""The bytes of images that posts name: bytes themselves, paths in the corpus, or URIs."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from emo import storage
from emo.config import FetchLimits
from emo.labels import is_missing


def read_images(
    values: Sequence[Any], root: str, limits: FetchLimits, *, fetching: bool
) -> list[bytes | ValueError | None]:
    """The image files' bytes, where a path counts from the folder ``root``; an error says why there are none.

    URIs are asked for only with ``fetching``: a corpus should not decide by itself whom this machine calls.
    """
    named = [_named(value) for value in values]
    paths = sorted({each for each in named if isinstance(each, str) and _is_inside(each)})
    uris = sorted({each for each in named if isinstance(each, str) and "://" in each}) if fetching else []
    contents = _read_files(root, paths) | _fetched(uris, limits)
    return [_content(value, contents) for value in named]


def _named(value: Any) -> Any:
    """An image's bytes, path or URI; None where there is none."""
    if isinstance(value, dict):  # the image type of Hugging Face datasets
        value = value.get("bytes") or value.get("path")
    return None if is_missing(value) or value == b"" else value


def _is_inside(path: str) -> bool:
    """A corpus from elsewhere must not read the user's other files."""
    return not path.startswith(("/", "\\")) and "://" not in path and ".." not in re.split(r"[/\\]", path)


def _fetched(uris: Sequence[str], limits: FetchLimits) -> dict[str, bytes | ValueError]:
    if not uris:
        return {}
    from emo.fetch import fetch  # not above: workers start without a client for the web, which few of them need

    return fetch(uris, limits)


def _read_files(root: str, paths: Sequence[str]) -> dict[str, bytes | ValueError]:
    fs, folder = storage.filesystem(root)
    full = {path: f"{folder.rstrip('/')}/{path}" for path in paths}
    if getattr(fs, "async_impl", False) and paths:  # a store behind a network: many at once
        found = fs.cat(list(full.values()), on_error="return")
        found = found if isinstance(found, dict) else dict.fromkeys(full.values(), found)
    else:
        found = {each: _read_file(fs, each) for each in full.values()}
    return {path: _checked(found[each]) for path, each in full.items()}


def _read_file(fs: Any, path: str) -> bytes | Exception:
    try:
        return bytes(fs.cat_file(path))
    except (OSError, ValueError) as error:
        return error


def _checked(found: bytes | Exception) -> bytes | ValueError:
    if isinstance(found, bytes):
        return found
    return ValueError("image file not found" if isinstance(found, FileNotFoundError) else "image file cannot be read")


def _content(value: Any, contents: Mapping[str, bytes | ValueError]) -> bytes | ValueError | None:
    if value is None or isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        return ValueError("image is neither bytes nor a path")
    if value in contents:
        return contents[value]
    if "://" in value:
        return ValueError("image is a URI, and --fetch-images is not given")
    return ValueError("image path leads out of the data file's folder")
