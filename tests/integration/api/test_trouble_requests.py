"""Test that no client keeps others out, and that whatever it sends ends in an answer or a close, in bounded memory."""

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.metrics import NoOpMeterProvider
from sqlalchemy.engine import Engine
from starlette.responses import PlainTextResponse
from uvicorn.config import Config
from uvicorn.server import ServerState

import runtime.http.edge
import runtime.http.server
from api.metrics import ApiMetrics
from runtime.addresses import parse_addresses, parse_networks
from runtime.http.asgi import App, Receive, Scope, Send
from runtime.http.connection import GRACE, MAX_HEAD, timed_connections
from runtime.http.edge import ANSWER_WITHIN, MAX_BODY, Edge
from runtime.http.server import Server, open_sockets
from runtime.http.shares import LOOPBACK, Shares, participant
from runtime.http.tls import ServerTls
from testbed.fixtures.api import Clock
from testbed.fixtures.whole_api import whole_api
from testbed.ports import free_port
from testbed.random_inputs import examples
from testbed.tls import LocalCa
from testbed.waiting import PATIENCE, wait_until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def metrics() -> ApiMetrics:
    return ApiMetrics(NoOpMeterProvider().get_meter("test"))


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


# ---- the share of one participant ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "who"),
    [
        ("8.8.4.4", "8.8.4.4"),
        ("::ffff:8.8.4.4", "8.8.4.4"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.9.9.9", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("192.0.2.7", None),
        ("nobody", None),
        ("", None),
    ],
)
def test_a_participant_is_an_address_or_a_64(address: str, who: str | None) -> None:
    assert participant(address, (*LOOPBACK, *parse_networks("192.0.2.0/24"))) == who


@given(st.lists(st.tuples(st.sampled_from(["8.8.4.4", "9.9.9.9", "2001:db8::1", "2001:db8::2"]), st.booleans())))
def test_nobody_has_more_than_the_share_and_what_is_given_back_is_forgotten(steps: list[tuple[str, bool]]) -> None:
    shares, held = Shares(2), [("", lambda: None)]
    for address, more in steps:
        who = participant(address)
        mine = [one for one in held if one[0] == who]
        if more:
            taken = shares.take(address)
            assert (taken is None) == (len(mine) == 2)
            held += [] if taken is None else [(str(who), taken)]
        elif mine:
            held.remove(mine[0])
            mine[0][1]()
            mine[0][1]()  # changes nothing
        assert len(shares) == len({one[0] for one in held}) - 1
    for _, give_back in held:
        give_back()
    assert len(shares) == 0


async def ask(edge: Edge, peer: str, forwarded: str = "") -> int:
    """Send a request without a body; return the status of the answer."""
    statuses: list[int] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    scope = {"type": "http", "method": "GET", "path": "/", "scheme": "http", "headers": headers, "client": (peer, 1)}
    await edge(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize("proxied", [False, True])
async def test_one_client_has_few_requests_at_once_and_others_are_served(proxied: bool) -> None:
    release, running = asyncio.Event(), threading.Semaphore(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        running.release()
        if scope["client"][0] != "9.9.9.9":
            await release.wait()
        await hello(scope, receive, send)

    edge = Edge(app, metrics(), parse_networks("192.0.2.1"), within=0.2, at_once=3, at_once_of_one=2)

    def by(client: str) -> Any:
        return ask(edge, "192.0.2.1", client) if proxied else ask(edge, client)

    many = [asyncio.create_task(by(f"2001:db8::{number}")) for number in range(4)]
    assert await many[3] == 503 and await many[2] == 503, "refused at once"
    assert await by("9.9.9.9") == 200, "a place is left for others"
    assert [await one for one in many[:2]] == [503, 503], "they took too long"
    assert await by("2001:db8::9") == 503, "their threads are still busy"
    release.set()
    await wait_until(lambda: not edge.running)
    assert await by("2001:db8::9") == 200


async def test_requests_that_never_run_give_their_share_back() -> None:
    edge = Edge(hello, metrics(), (), within=0.05, at_once=1, at_once_of_one=1)
    sent: list[Any] = []

    async def stalls() -> Any:
        await asyncio.Event().wait()

    async def leaves() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("status"))

    for receive in (stalls, leaves) * 2:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "scheme": "http",
            "headers": [],
            "client": ("9.9.9.9", 1),
        }
        await edge(scope, receive, send)
    assert sent[::2] == [408, 503, 408, 503]
    assert await ask(edge, "9.9.9.9") == 200


def test_agents_and_a_proxys_clients_have_room() -> None:
    """An agent sends one request at a time, a browser about six; what counts are hosts of one /64."""
    edge = Edge(hello, metrics(), parse_networks("192.0.2.0/24"))
    assert runtime.http.edge.AT_ONCE_OF_ONE >= 2 * runtime.http.edge.AT_ONCE
    assert {*parse_networks("192.0.2.0/24"), *LOOPBACK} == set(edge.unlimited)


@asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch, app: App, tls: ServerTls | None = None) -> AsyncIterator[int]:
    """Run a server to which loopback is like any network, with three connections for a client; yield its port."""
    monkeypatch.setattr(runtime.http.edge, "LOOPBACK", ())
    monkeypatch.setattr(runtime.http.server, "most_connections", lambda: 30)
    port = free_port()
    server = Server(Edge(app, metrics(), ()), open_sockets(parse_addresses("127.0.0.1"), port), tls)
    running = asyncio.create_task(server.run())
    await wait_until(lambda: server._config.loaded)
    await asyncio.sleep(0)
    try:
        yield port
    finally:
        running.cancel()
        await asyncio.wait({running})


def exchange(raw: socket.socket) -> bytes:
    try:
        raw.sendall(GET)
        return raw.recv(15)
    except OSError:
        return b""


@pytest.mark.parametrize("encrypted", [False, True])
async def test_connections_of_one_client_beyond_its_share_are_closed_and_others_are_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, encrypted: bool
) -> None:
    """Also with TLS, where a client may open connections and say nothing."""
    ca, tls = LocalCa(), None
    if encrypted:
        pair = ca.issue("127.0.0.1")
        (tmp_path / "cert.pem").write_text(pair.certificate)
        (tmp_path / "key.pem").write_text(pair.key)
        tls = ServerTls(tmp_path / "cert.pem", tmp_path / "key.pem")

    async def fetched(source: str) -> bytes:
        context = None if tls is None else ssl.create_default_context(cadata=ca.certificate)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, local_addr=(source, 0))
            writer.write(GET)
            found = await reader.read(15)
            writer.close()
        except OSError:
            return b""
        return found

    async with serving(monkeypatch, hello, tls) as port:
        with ExitStack() as stack, caplog.at_level(logging.WARNING):
            for _ in range(3):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE, ("127.0.0.7", 0)))
            assert await fetched("127.0.0.7") == b""
            assert await fetched("127.0.0.8") == b"HTTP/1.1 200 OK", "others are not concerned"
        await wait_until(lambda: fetched("127.0.0.7"), "there is room again")
        assert caplog.text.count("too many connections from 127.0.0.7") == 1


# ---- whatever a client sends -----------------------------------------------------------------------------------------


class FakeTransport(asyncio.Transport):
    """The client's end of a connection: it takes what is written, and sends only while it may."""

    def __init__(self) -> None:
        super().__init__({"peername": ("8.8.4.4", 5), "sockname": ("127.0.0.1", 1)})
        self.connection: Any = None
        self.written = bytearray()
        self.closed = self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        raise AssertionError("the connection becomes nothing else")


WORDS = (
    *(
        b"GET ",
        b"POST ",
        b"HEAD ",
        b"\xff\x00 ",
        b"CONNECT ",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02",
    ),
    *(b"/monitor/api/registration", b"/manage/monitors/confirm/" + b"0" * 32, b"/login", b"*", b"//x/../\xc3\xa4"),
    *(b"http://other.example/monitor/api/config", b"/%00%0d%0a%ff", b"/?" + b"a=b&" * 900, b"/monitor/api/config"),
    *(
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b" HTTP/9.9\r\n",
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"0\r\n\r\n",
        b"\r\n\r\n\r\n",
    ),
    *(b"Host: x\r\n", b"Host: x\r\nHost: y\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n"),
    *(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"Content-Length: 99999999999999999999999\r\n"),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Expect: 100-continue\r\n",
        b"5\r\nhello\r\n",
    ),
    *(b"fffffffff\r\n", b"-5\r\n", b"5;" + b"x" * 9000 + b"\r\n", b"X" * 20_000, b"A: " + b"b" * 5000 + b"\r\n"),
    *(
        b"Upgrade: websocket\r\nConnection: upgrade\r\n",
        b"Upgrade: h2c\r\nHTTP2-Settings: x\r\n",
        b" folded: x\r\n",
    ),
    *(b"Authorization: Bearer ntpm_\xff\r\n", b"Registration-ID: \x00\r\n", b"X-Forwarded-For: 1.1.1.1\r\n"),
    *(
        b"Registration-ID: 01ARZ3NDEKTSV4RRFFQ69G5FAV\r\n",
        b"Cookie: " + b"a=;" * 500 + b"\r\n",
        b"Range: bytes=0-\r\n",
    ),
    *(b"Content-Type: application/x-www-form-urlencoded\r\n", b"hostname=%00&a=%ff", b"y" * 9000, b"a" * 70_000),
    b"Content-Type: multipart/form-data; boundary=x\r\n",
)
HEAD = b"POST /monitor/api/registration HTTP/1.1\r\nHost: x\r\n"
BEGINNINGS = (b"", HEAD, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", GET, GET * 20, b"POST /login HTTP/1.1\r\n")
SENT = st.tuples(
    st.sampled_from(range(len(BEGINNINGS))),
    st.lists(st.sampled_from(range(len(WORDS))) | st.binary(max_size=30), max_size=12),
)
"""By their numbers, since some of the words are long."""


def spelled(beginning: int, words: Sequence[int | bytes]) -> bytes:
    return BEGINNINGS[beginning] + b"".join(WORDS[word] if isinstance(word, int) else word for word in words)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


def test_whatever_is_sent_ends_in_an_answer_or_a_close_within_bounded_memory(
    sqlite_engine: Engine, tmp_path: Path, runner: asyncio.Runner
) -> None:
    edge = whole_api(sqlite_engine, tmp_path, now=Clock()).edge
    config = Config(
        edge, http=timed_connections(9, ANSWER_WITHIN), ws="none", lifespan="off", interface="asgi3", log_config=None,
        log_level=logging.CRITICAL, proxy_headers=False, h11_max_incomplete_event_size=MAX_HEAD, limit_concurrency=9,
    )  # fmt: skip
    config.load()
    errors: list[Any] = []

    async def exchange(sent: bytes, cut: Sequence[int]) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        state, transport = ServerState(), FakeTransport()
        connection: Any = config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]
        transport.connection = connection
        connection.connection_made(transport)
        for piece in pieces(sent, cut):
            if transport.closed:
                break
            connection.data_received(piece)
            held = len(connection.conn.trailing_data[0])
            body = 0 if connection.cycle is None else len(connection.cycle.body)
            assert transport.closed or (held <= MAX_HEAD and body <= 2 * MAX_BODY + len(piece))
            while transport.paused and not transport.closed:
                await asyncio.sleep(0.0005)
        await wait_until(lambda: not state.tasks or waits_for_its_body(connection), lambda: str(sent))
        # It is over, or there is a time at which it will be.
        ends = connection._timer
        assert transport.closed or 0 < ends.when() - loop.time() <= ANSWER_WITHIN + GRACE + 1
        statuses = [
            line.split(b" ")[1] for line in bytes(transport.written).split(b"\r\n") if line.startswith(b"HTTP/1")
        ]
        assert all(status[:1] in b"1234" or status == b"503" for status in statuses), transport.written
        transport.close()
        await wait_until(lambda: not edge.running and not state.tasks and not state.connections)
        assert errors == [] and connection._timer is None

    @given(SENT, st.lists(st.integers(1, 9000), max_size=6))
    @examples(150)
    def fuzz(sent: tuple[int, list[int | bytes]], cut: list[int]) -> None:
        runner.run(exchange(spelled(*sent), cut))

    fuzz()


def waits_for_its_body(connection: Any) -> bool:
    """Return whether the client has yet to send the rest of its request."""
    return connection.cycle is not None and connection.cycle.more_body and not connection.cycle.response_started


def pieces(sent: bytes, cut: Sequence[int]) -> Iterator[bytes]:
    """Yield what arrives at a time."""
    for size in cut:
        if sent[:size]:
            yield sent[:size]
        sent = sent[size:]
    for at in range(0, len(sent), 65_536):
        yield sent[at : at + 65_536]
