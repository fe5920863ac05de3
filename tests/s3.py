"""A store that speaks S3, on loopback, behind a proxy that fails when it is told to.

PYTEST_DONT_REWRITE, since tests import it before pytest takes it for a plugin.
"""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import aiohttp
import pytest
from aiohttp import web
from s3fs import S3FileSystem
from yarl import URL

from emo.s3 import S3

BUCKET = "bucket"
ROOT = f"s3://{BUCKET}"

Kind = Literal["500", "slow down", "hang", "cut", "lost"]
"""An error of the server's; too many requests; no answer; half an answer; done, but the answer is lost."""

_MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
sys.stdin.read()
"""
_ERROR = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>{}</Message></Error>"
_HOP_BY_HOP = {"connection", "transfer-encoding", "expect", "keep-alive", "server", "date"}


@dataclass
class Fault:
    kind: Kind
    times: float
    method: str
    key: re.Pattern[str]


class Proxy:
    """Hands requests on to a store, but for those that it is told to spoil; a thread of its own serves it."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str]] = []
        """Method and path, query included, of every request."""
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self.loop).result()

    def fail(self, kind: Kind, *, times: float = 1, method: str = ".*", key: str = ".*") -> None:
        """Spoil the next requests whose method, and path with query, match; only those: ``clear`` forgets the rest."""
        self.faults.append(Fault(kind, times, method, re.compile(key)))

    def clear(self) -> None:
        self.faults.clear()
        self.seen.clear()

    def count(self, method: str, key: str = "") -> int:
        return sum(each == method and re.search(key, path) is not None for each, path in self.seen)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)

    async def _start(self) -> str:
        self.session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self.runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        host, port = self.runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def _stop(self) -> None:
        await self.runner.cleanup()
        await self.session.close()

    def _fault(self, request: web.Request) -> Kind | None:
        for fault in self.faults:
            if fault.times > 0 and re.fullmatch(fault.method, request.method) and fault.key.search(request.raw_path):
                fault.times -= 1
                return fault.kind
        return None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path))
        body, fault = await request.read(), self._fault(request)
        if fault == "500":
            return web.Response(status=500, text=_ERROR.format("InternalError", "We encountered an internal error."))
        if fault == "slow down":
            return web.Response(status=503, text=_ERROR.format("SlowDown", "Please reduce your request rate."))
        if fault == "hang":
            await asyncio.sleep(3600)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        target = URL(self.store + request.raw_path, encoded=True)
        async with self.session.request(
            request.method, target, data=body, headers=headers, allow_redirects=False
        ) as answer:
            content = await answer.read()
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
        if fault == "lost":
            request.transport.close()
        response = web.StreamResponse(status=answer.status, headers=headers)
        if request.method != "HEAD":
            response.content_length = len(content)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            if request.method != "HEAD":
                await response.write(content[: len(content) // 2] if fault == "cut" else content)
            if fault == "cut":
                request.transport.close()
        return response


@contextlib.contextmanager
def moto(**variables: str) -> Iterator[str]:
    """The address of a mocked AWS on loopback; moto reads its own settings from the variables."""
    process = subprocess.Popen(
        [sys.executable, "-c", _MOTO],
        env=os.environ | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Proxy]:
    """moto behind a proxy, with one empty bucket."""
    with moto() as address:
        proxy = Proxy(address)
        yield proxy
        proxy.stop()


def environment(endpoint: str, key: str = "key", secret: str = "secret") -> dict[str, str]:
    """What a process needs in order to find the store; nothing of it is in any config or URI."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }


@contextlib.contextmanager
def environment_set(variables: dict[str, str]) -> Iterator[pytest.MonkeyPatch]:
    """Let this process find a store, with file systems that are made anew, since they keep what they once read."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        S3.clear_instance_cache()
        yield patch
    S3.clear_instance_cache()


@pytest.fixture(scope="module")
def impatient_client(s3_server) -> Iterator[Proxy]:
    """This process's client waits for a fifth of a second, not for 15, and tries again at once: six times in all."""
    with environment_set(environment(s3_server.url) | {"AWS_MAX_ATTEMPTS": "2"}) as patch:
        patch.setattr(S3, "read_timeout", 0.2)
        patch.setattr("botocore.retryhandler.delay_exponential", lambda base, growth_factor, attempts: 0.01)
        S3FileSystem(skip_instance_cache=True).makedirs(BUCKET, exist_ok=True)
        yield s3_server


@pytest.fixture
def s3(impatient_client) -> Iterator[Proxy]:
    """The proxy of a store with an empty bucket that fails when it is told to."""
    impatient_client.clear()
    yield impatient_client
    impatient_client.clear()
    fs = S3()
    if found := fs.find(BUCKET):
        fs.rm(found)
