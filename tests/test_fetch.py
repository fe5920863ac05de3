"""Fetching images by URI: what may pass is tried again, limits hold, and nothing private is read."""

import asyncio
import ipaddress
import threading
import time
from collections import Counter
from collections.abc import Iterator

import fsspec
import pytest
from aiohttp import web

from emo import fetch as module
from emo.fetch import FetchLimits, fetch

IMAGE = bytes(range(256)) * 40
LIMITS = FetchLimits(timeout=5, max_bytes=20_000, retries=2, concurrency=4, allow_private=True)


class Server:
    """An image host on loopback whose paths name what it does; ``seen`` counts its requests by path."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.times: list[float] = []
        self.now = self.peak = 0
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(), self.loop).result()

    async def _start(self) -> int:
        app = web.Application()
        app.router.add_get("/{tail:.*}", self.answer)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        return site._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)

    def uri(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name, _, argument = request.path.removeprefix("/").partition("/")
        self.seen[request.path] += 1
        self.times.append(time.monotonic())
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            return await getattr(self, name)(request, argument, first=self.seen[request.path] == 1)
        finally:
            self.now -= 1

    async def image(self, request: web.Request, argument: str, first: bool) -> web.Response:
        return web.Response(body=IMAGE)

    async def status(self, request: web.Request, argument: str, first: bool) -> web.Response:
        return web.Response(status=int(argument))

    async def once(self, request: web.Request, argument: str, first: bool) -> web.Response:
        status, _, wait = argument.partition("/")
        headers = {"Retry-After": wait} if wait else {}
        return web.Response(status=int(status), headers=headers) if first else web.Response(body=IMAGE)

    async def slow(self, request: web.Request, argument: str, first: bool) -> web.StreamResponse:
        """The headers at once, and then a byte now and then."""
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b"x")
            await asyncio.sleep(0.05)
        return response

    async def steady(self, request: web.Request, argument: str, first: bool) -> web.Response:
        await asyncio.sleep(0.1)
        return web.Response(body=IMAGE)

    async def endless(self, request: web.Request, argument: str, first: bool) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        self.sent = 0
        while True:
            await response.write(bytes(1000))
            self.sent += 1000

    async def cut(self, request: web.Request, argument: str, first: bool) -> web.StreamResponse:
        """Half of what the headers promise; ``cut/once`` has the whole the second time."""
        if argument == "once" and not first:
            return web.Response(body=IMAGE)
        response = web.StreamResponse(headers={"Content-Length": str(len(IMAGE))})
        await response.prepare(request)
        await response.write(IMAGE[: len(IMAGE) // 2])
        request.transport.close()
        return response

    async def close(self, request: web.Request, argument: str, first: bool) -> web.Response:
        request.transport.close()
        return web.Response()

    async def redirect(self, request: web.Request, argument: str, first: bool) -> web.Response:
        return web.Response(status=302, headers={"Location": request.query["to"]})

    async def asks(self, request: web.Request, argument: str, first: bool) -> web.Response:
        return web.Response(body=repr(sorted(request.headers)).encode())


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.02)
    running = Server()
    yield running
    running.stop()


def only(uri: str, **limits) -> bytes | str:
    """What becomes of one URI: bytes, or the words of the error."""
    found = fetch([uri], LIMITS if not limits else FetchLimits(**vars(LIMITS) | limits))
    assert list(found) == [uri]
    return found[uri] if isinstance(found[uri], bytes) else str(found[uri])


def test_every_uri_has_its_bytes_or_its_error(server):
    uris = [server.uri("image"), server.uri("status/404"), "file:///etc/passwd", server.uri("image")]
    found = fetch(uris, LIMITS)
    assert set(found) == set(uris)
    assert found[uris[0]] == IMAGE
    assert server.seen["/image"] == 1
    assert {type(found[uri]) for uri in uris[1:3]} == {ValueError}
    assert fetch([], LIMITS) == {}


@pytest.mark.parametrize("path", ["once/500", "once/503", "once/429", "cut/once"])
def test_what_passes_is_tried_again(server, path):
    assert only(server.uri(path)) == IMAGE
    assert server.seen[f"/{path}"] == 2


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("status/500", "image could not be fetched: HTTP 500 after 3 tries"),
        ("status/429", "image could not be fetched: HTTP 429 after 3 tries"),
        ("cut", "image could not be fetched: cut short after 3 tries"),
        ("close", "image could not be fetched: connection lost after 3 tries"),
    ],
)
def test_what_does_not_pass_is_given_up(server, path, words):
    assert only(server.uri(path)) == words
    assert server.seen[f"/{path}"] >= 3  # aiohttp itself asks twice where a connection is closed on it


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("status/404", "image file not found"),
        ("status/410", "image file not found"),
        ("status/403", "image could not be fetched: HTTP 403"),
        ("status/204", "image could not be fetched: HTTP 204"),
    ],
)
def test_a_clear_no_is_taken_at_once(server, path, words):
    assert only(server.uri(path)) == words
    assert server.seen[f"/{path}"] == 1


def test_waits_grow(server):
    only(server.uri("status/500"), retries=4)
    waits = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert [wait >= 0.01 * 2**number for number, wait in enumerate(waits)] == [True] * 4


def test_a_server_is_given_the_time_that_it_asks_for(server):
    assert only(server.uri("once/429/1")) == IMAGE
    assert server.times[1] - server.times[0] >= 1


def test_no_server_is_given_more_time_than_the_longest_wait(server, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAIT", 0.1)
    for wait in ("3600", "Fri, 31 Dec 2999 23:59:59 GMT"):
        began = time.monotonic()
        assert only(server.uri(f"once/503/{wait}")) == IMAGE
        assert 0.1 <= time.monotonic() - began < 5


@pytest.mark.parametrize("value", ["soon", "-1", "Fri, 31 Dec 1999 23:59:59 GMT", "nan"])
def test_an_odd_wait_is_none(value):
    assert max(0.0, module._retry_after({"Retry-After": value})) == 0


def test_a_try_has_its_time_however_slowly_it_drips(server):
    began = time.monotonic()
    assert only(server.uri("slow"), timeout=0.3) == "image could not be fetched: timed out after 3 tries"
    assert 0.9 <= time.monotonic() - began < 3
    assert only(server.uri("slow"), timeout=0.3, retries=0) == "image could not be fetched: timed out"


def test_an_image_is_read_no_further_than_its_limit(server):
    assert only(server.uri("endless")) == "image is larger than 20000 bytes"
    assert server.sent < 10_000_000  # what the sockets' buffers hold, at most
    assert only(server.uri("image"), max_bytes=len(IMAGE)) == IMAGE
    assert only(server.uri("image"), max_bytes=len(IMAGE) - 1) == f"image is larger than {len(IMAGE) - 1} bytes"


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_requests_than_allowed_are_under_way(server, concurrency):
    uris = [server.uri(f"steady/{number}") for number in range(9)]
    found = fetch(uris, FetchLimits(**vars(LIMITS) | {"concurrency": concurrency}))
    assert set(found.values()) == {IMAGE}
    assert server.peak == concurrency


def test_waiting_for_a_turn_is_no_part_of_a_tries_time(server):
    uris = [server.uri(f"steady/{number}") for number in range(9)]
    found = fetch(uris, FetchLimits(**vars(LIMITS) | {"concurrency": 1, "timeout": 0.4}))
    assert set(found.values()) == {IMAGE}


# What a corpus has no business to read


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("file:///etc/passwd", "image URI is not allowed: file://"),
        ("FILE:///etc/passwd", "image URI is not allowed: file://"),
        ("local:///etc/passwd", "image URI is not allowed: local://"),
        ("simplecache::file:///etc/passwd", "image URI is not allowed: simplecache::file://"),
        ("memory://x::file:///etc/passwd", "image URI is not allowed: it is a chain"),
        ("s3://bucket/x.zip::http://127.0.0.1/", "image URI is not allowed: it is a chain"),
        ("/etc/passwd", "image URI is not allowed: it has no scheme"),
        ("file:/etc/passwd", "image URI is not allowed: it has no scheme"),
        ("", "image URI is not allowed: it has no scheme"),
        ("http://", "image URI is not valid"),
        ("http://2130706433/", "image URI is not valid"),
        ("http://[", "image URI is not valid"),
        ("http://a:99999/", "image URI is not valid"),
        ("http://" + "a" * 70 + ".example/", "image URI is not valid"),
        ("gs://bucket/image.png", "image could not be fetched: no package for gs:// is installed"),
    ],
)
def test_what_is_not_allowed_or_not_possible_is_said(uri, words):
    assert only(uri) == words


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0x7f.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::]"])
def test_this_machine_is_refused(server, host):
    words = only(f"http://{host}:{server.port}/image", allow_private=False)
    assert words == "image URI is not allowed: its host is not on the public internet"
    assert not server.seen


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("::ffff:169.254.169.254", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::808:808", True),
        ("2002:a9fe:a9fe::1", False),
    ],
)
def test_public_addresses(address, public):
    assert module._is_public(ipaddress.ip_address(address)) is public


@pytest.fixture
def one_public_port(server, monkeypatch):
    """The server counts as public; what else is on this machine does not."""
    strict = module._public_socket

    def lenient(address):
        return strict((*address[:4], ("8.8.8.8", 0)) if address[4][1] == server.port else address)

    monkeypatch.setattr(module, "_public_socket", lenient)


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost:9", "169.254.169.254", "10.0.0.1"])
def test_a_redirect_to_a_private_address_is_refused(server, one_public_port, host):
    words = only(server.uri(f"redirect?to=http://{host}/latest/meta-data"), allow_private=False)
    assert words == "image URI is not allowed: its host is not on the public internet"
    assert server.seen == {"/redirect": 1}


def test_redirects_are_followed_on_the_web_and_not_for_ever(server, one_public_port):
    assert only(server.uri("redirect?to=/image"), allow_private=False) == IMAGE
    assert (
        only(server.uri("redirect?to=/redirect?to=/redirect")) == "image could not be fetched: HTTP 500 after 3 tries"
    )
    assert only(server.uri("redirect?to=file:///etc/passwd")) == (
        "image URI is not allowed: it redirects out of the web"
    )


def test_a_redirect_in_a_circle_ends(server):
    async def circle(request, argument, first):
        return web.Response(status=302, headers={"Location": "/circle"})

    server.circle = circle
    assert only(server.uri("circle")) == "image could not be fetched: over 5 redirects"
    assert server.seen["/circle"] <= 6


def test_no_error_tells_what_a_uri_holds(server):
    uris = [
        f"http://user:hush@127.0.0.1:{server.port}/{path}?token=hush"
        for path in ("status/500", "status/403", "status/404", "cut", "close", "redirect")
    ]
    uris += ["http://user:hush@127.0.0.1:9/?token=hush", "http://hush:99999/", "http://hush.invalid/", "hush"]
    uris += ["memory://hush", "hf://hush/hush", "ftp://user:hush@host/", "s3://hush/hush?versionId=hush::file:///hush"]
    for private in (True, False):
        for uri, error in fetch(uris, FetchLimits(**vars(LIMITS) | {"retries": 0, "allow_private": private})).items():
            assert isinstance(error, ValueError), uri
            assert "hush" not in f"{error} {error.__cause__}", uri


def test_a_host_learns_little(server, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    assert only(server.uri("asks")) == b"['Accept', 'Accept-Encoding', 'Host', 'User-Agent']"


# Stores


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    fs.pipe("/images/one.png", IMAGE)
    yield fs
    fs.store.clear()


def test_a_store_is_read_to_the_limit(memory):
    assert only("memory://images/one.png") == IMAGE
    assert only("memory://images/one.png", max_bytes=100) == "image is larger than 100 bytes"
    assert only("memory://images/two.png") == "image file not found"
    assert only("memory://images") == "image file not found"


def test_a_store_that_hangs_is_given_up(memory, monkeypatch):
    monkeypatch.setattr(type(memory), "cat_file", lambda *arguments, **limits: time.sleep(0.5))
    assert only("memory://one", timeout=0.1, retries=1) == "image could not be fetched: timed out after 2 tries"


def test_a_store_that_denies_is_believed(memory, monkeypatch):
    def deny(*arguments, **limits):
        raise PermissionError("hush")

    monkeypatch.setattr(type(memory), "cat_file", deny)
    assert only("memory://one") == "image could not be fetched: access denied"


def test_fetching_works_where_a_loop_is_running(server):
    async def inside():
        return only(server.uri("image"))

    assert asyncio.run(inside()) == IMAGE
