"""Test the server's limits on connections, and its end, in this process with a small application."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeterProvider
from starlette.responses import PlainTextResponse, Response

import runtime.http.connection
import runtime.http.server
from api.metrics import ApiMetrics
from runtime.addresses import parse_addresses
from runtime.http.asgi import App, Receive, Scope, Send
from runtime.http.edge import Edge
from runtime.http.server import Server, most_connections, open_sockets
from testbed.ports import free_port
from testbed.waiting import PATIENCE, wait_until

SIZE = 50_000_000
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
READY = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


@asynccontextmanager
async def serving(app: App = hello) -> AsyncIterator[tuple[int, "asyncio.Task[None]", Server]]:
    """Run a server; yield its port, its task and itself."""
    port = free_port()

    async def or_ready(scope: Scope, receive: Receive, send: Send) -> None:
        await (hello if scope["path"] == "/ready" else app)(scope, receive, send)

    edge = Edge(or_ready, ApiMetrics(NoOpMeterProvider().get_meter("test")), ())
    server = Server(edge, open_sockets(parse_addresses("127.0.0.1"), port), None)
    running = asyncio.create_task(server.run())
    await wait_until(lambda: is_answered(port), "the server answers")
    await wait_until(lambda: not server._state.connections, "the connection of the line above is closed")
    try:
        yield port, running, server
    finally:
        running.cancel()
        await asyncio.wait({running})


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def exchange(raw: socket.socket, request: bytes) -> bytes:
    """Send a request; return the beginning of the answer, which is empty if the connection was closed."""
    try:
        raw.sendall(request)
        return raw.recv(12)
    except ConnectionError:
        return b""


async def status(raw: socket.socket, request: bytes = GET) -> bytes:
    """Return the status of the answer to one request, or an empty text."""
    return (await asyncio.to_thread(exchange, raw, request))[9:]


async def is_answered(port: int, with_status: bytes = b"") -> bool:
    """Return whether a request is answered, with this status."""
    try:
        with await asyncio.to_thread(connected, port) as raw:
            found = await status(raw, READY)
    except ConnectionError:
        return False
    return found == with_status or (found != b"" and not with_status)


async def test_connections_above_the_maximum_are_told_so_and_further_ones_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime.http.server, "most_connections", lambda: 3)
    monkeypatch.setattr(runtime.http.connection, "_BESIDES", 1)
    async with serving() as (port, *_):
        held = [connected(port) for _ in range(5)]
        try:
            assert await status(held[4]) == b"", "one too many even for an answer"
            assert await status(held[3]) == b"503"
        finally:
            for raw in held:
                raw.close()
        await wait_until(lambda: is_answered(port, b"200"), "there is room again")


async def test_a_client_that_does_not_take_its_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.http.connection, "KEEP_ALIVE", 0.1)
    monkeypatch.setattr(runtime.http.connection, "GRACE", 0.3)

    ends: list[object] = []

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"x" * SIZE)(scope, receive, send)
        ends.append((await receive())["type"])  # disconnected

    async with serving(large) as (port, _, server):
        with connected(port) as raw:
            raw.sendall(GET)
            await wait_until(lambda: ends and not server._state.connections, "the connection is cut off")
            taken = 0
            while part := await asyncio.to_thread(received, raw):
                taken += part
            assert taken < SIZE, "the kernel holds some of it; the rest is not sent any more"


def received(raw: socket.socket) -> int:
    try:
        return len(raw.recv(1 << 20))
    except ConnectionError:
        return 0


async def test_the_end_waits_for_a_request_in_a_thread_and_for_no_silent_client() -> None:
    begun, release = threading.Event(), threading.Event()
    ended: list[str] = []

    def work() -> None:
        begun.set()
        release.wait()
        ended.append("work")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.to_thread(work)
        await PlainTextResponse("done")(scope, receive, send)

    async with serving(app) as (port, running, _):
        with connected(port), connected(port) as busy:
            busy.sendall(GET)
            await asyncio.to_thread(begun.wait)
            running.cancel()
            assert not (await asyncio.wait({running}, timeout=1.5))[0], "a transaction may be under way"
            with pytest.raises(OSError):
                connected(port)
            release.set()
            await asyncio.wait({running})
            assert ended == ["work"]


def test_the_limit_of_open_files_bounds_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, most in ((1024, 824), (100_000, 2000), (150, 100), (runtime.http.server.resource.RLIM_INFINITY, 2000)):
        monkeypatch.setattr(runtime.http.server.resource, "getrlimit", lambda what, files=files: (files, files))
        assert most_connections() == most


def test_a_port_in_use_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    original = socket.socket

    def recorded(*arguments: Any) -> socket.socket:
        made.append(original(*arguments))
        return made[-1]

    monkeypatch.setattr(runtime.http.server.socket, "socket", recorded)
    with original() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        with pytest.raises(OSError):
            open_sockets(parse_addresses("127.0.0.1,127.0.0.2"), taken.getsockname()[1])
    assert [one.fileno() for one in made] == [-1, -1]
