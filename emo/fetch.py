"""Images named by URI: fetched many at once, within limits, and never from where a corpus has no business to read."""

import asyncio
import contextlib
import ipaddress
import random
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import aiohttp
import fsspec
from fsspec.asyn import get_loop, sync

from emo import __version__, storage
from emo.config import FetchLimits, UserError

WEB = ("http", "https")
STORES = ("s3", "gs", "hf", "memory")
NOT_FOUND = "image file not found"
MAX_REDIRECTS = 5
FIRST_WAIT = 0.5
"""Seconds before the second try, at most; it doubles with every further one."""
MAX_WAIT = 30.0
"""Seconds between two tries, whatever a server asks for."""

Source = Callable[[aiohttp.ClientSession, int], Awaitable[bytes]]
"""Reads one image of at most so many bytes."""

_HEADERS = {"User-Agent": f"emo/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class _TryAgain(Exception):
    """What may pass: words for it, and the seconds that the server asks to wait."""

    def __init__(self, words: str, wait: float = 0.0) -> None:
        super().__init__(words)
        self.wait = wait


class _NotPublic(OSError):
    """Raised instead of connecting to an address that is not a public one."""


def fetch(uris: Sequence[str], limits: FetchLimits) -> dict[str, bytes | ValueError]:
    """Each URI's bytes, or an error that says in a few words why there are none, and of the URI only its scheme.

    The schemes are http and https, and s3, gs and hf with the environment's credentials.
    """
    fetched: dict[str, bytes | ValueError] = {}
    sources: dict[str, Source] = {}
    for uri in dict.fromkeys(uris):
        try:
            sources[uri] = _source(uri)
        except ValueError as error:
            fetched[uri] = error
    found = sync(get_loop(), _fetch_all, list(sources.values()), limits)
    return fetched | dict(zip(sources, found, strict=True))


def _source(uri: str) -> Source:
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if not separator:
        raise ValueError("image URI is not allowed: it has no scheme")
    if scheme in WEB:
        return partial(_from_web, uri)
    if scheme not in STORES:
        raise ValueError(f"image URI is not allowed: {scheme[:20]}://")
    if "::" in rest:  # fsspec would go on to what follows, and that may be file://
        raise ValueError("image URI is not allowed: it is a chain")
    try:
        return partial(_from_store, *storage.filesystem(f"{scheme}://{rest}"))
    except UserError:
        raise ValueError(f"image could not be fetched: no package for {scheme}:// is installed") from None


async def _fetch_all(sources: Sequence[Source], limits: FetchLimits) -> list[bytes | ValueError]:
    slots = asyncio.Semaphore(limits.concurrency)
    async with aiohttp.ClientSession(
        # what makes a socket sees the very address that it is for, also after a redirect
        connector=aiohttp.TCPConnector(limit=0, socket_factory=None if limits.allow_private else _public_socket),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),  # every try has one around it
        headers=_HEADERS,
    ) as session:
        return await asyncio.gather(*(_fetch(source, session, slots, limits) for source in sources))


async def _fetch(
    source: Source, session: aiohttp.ClientSession, slots: asyncio.Semaphore, limits: FetchLimits
) -> bytes | ValueError:
    for number in range(limits.retries + 1):
        try:
            async with slots, asyncio.timeout(limits.timeout):
                return await source(session, limits.max_bytes)
        except TimeoutError:
            reason, wait = "timed out", 0.0
        except _TryAgain as error:
            reason, wait = str(error), error.wait
        except ValueError as error:
            return error
        if number < limits.retries:
            await asyncio.sleep(min(max(wait, FIRST_WAIT * 2**number * random.uniform(0.5, 1)), MAX_WAIT))
    tries = f" after {limits.retries + 1} tries" if limits.retries else ""
    return ValueError(f"image could not be fetched: {reason}{tries}")


async def _from_web(uri: str, session: aiohttp.ClientSession, max_bytes: int) -> bytes:
    try:
        async with session.get(uri, max_redirects=MAX_REDIRECTS) as response:
            if response.status in (404, 410):
                raise ValueError(NOT_FOUND)
            if response.status == 429 or response.status >= 500:
                raise _TryAgain(f"HTTP {response.status}", _retry_after(response.headers))
            if response.status != 200:
                raise ValueError(f"image could not be fetched: HTTP {response.status}")
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > max_bytes:
                    break
            return _whole(bytes(content), max_bytes)
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, _NotPublic):
            raise ValueError(f"image URI is not allowed: {error.os_error}") from None
        if isinstance(error, aiohttp.ClientSSLError):
            raise ValueError("image could not be fetched: no secure connection") from None
        raise _TryAgain("no connection") from None
    except aiohttp.ClientConnectionError:
        raise _TryAgain("connection lost") from None
    except aiohttp.ClientPayloadError:
        raise _TryAgain("cut short") from None
    except aiohttp.NonHttpUrlRedirectClientError:
        raise ValueError("image URI is not allowed: it redirects out of the web") from None
    except (aiohttp.InvalidURL, UnicodeError):
        raise ValueError("image URI is not valid") from None
    except aiohttp.TooManyRedirects:
        raise ValueError(f"image could not be fetched: over {MAX_REDIRECTS} redirects") from None
    except aiohttp.ClientError:
        raise ValueError("image could not be fetched: the answer is not valid HTTP") from None


def _public_socket(address: Any) -> socket.socket:
    """The socket for an address as getaddrinfo gives it, unless it is of this machine or of a private network."""
    family, kind, protocol, _, (host, *_) = address
    if not _is_public(ipaddress.ip_address(host)):
        raise _NotPublic("its host is not on the public internet")
    return socket.socket(family, kind, protocol)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):  # those that lead to an IPv4 address are judged by it
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
    return address.is_global and not address.is_multicast


def _retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that a server asks to wait, as a number or until a date; 0 where it does not."""
    value = headers.get("Retry-After", "0")
    if value.isdecimal():
        return float(value)
    with contextlib.suppress(ValueError):
        return parsedate_to_datetime(value).timestamp() - time.time()
    return 0.0


async def _from_store(
    fs: fsspec.AbstractFileSystem, path: str, session: aiohttp.ClientSession, max_bytes: int
) -> bytes:
    """A store's client has retries of its own; its errors may hold more of the URI than should be seen."""
    limits = {"start": 0, "end": max_bytes + 1}
    try:
        content = await (
            fs._cat_file(path, **limits) if fs.async_impl else asyncio.to_thread(fs.cat_file, path, **limits)
        )
    except TimeoutError:
        raise
    except FileNotFoundError:
        raise ValueError(NOT_FOUND) from None
    except PermissionError:
        raise ValueError("image could not be fetched: access denied") from None
    except Exception as error:
        raise ValueError(f"image could not be fetched: {type(error).__name__}") from None
    return _whole(bytes(content), max_bytes)


def _whole(content: bytes, max_bytes: int) -> bytes:
    if len(content) > max_bytes:
        raise ValueError(f"image is larger than {max_bytes} bytes")
    return content
