"""Test the limits of every request: size, time, and errors that become answers without secrets."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy.exc import OperationalError
from starlette.responses import PlainTextResponse

from api.answers import ApiFailures
from api.metrics import ApiMetrics
from auth.ca.authority import AuthorityUnavailable, NoAuthority
from runtime.addresses import parse_networks
from runtime.clock import ClockDoubted
from runtime.db.retry import DatabaseUnavailable
from runtime.http.answers import Declined
from runtime.http.asgi import Message, Receive, Scope, Send
from runtime.http.edge import MAX_BODY, Edge

App = Callable[[Scope, Receive, Send], Awaitable[None]]
SECRET = "ntpm_" + "ab" * 32


class Counted:
    """Metrics, and their values by name and labels."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader])
        self.metrics = ApiMetrics(self._provider.get_meter("test"))

    def read(self) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        data: Any = self._reader.get_metrics_data()
        for metric in (m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics):
            for point in metric.data.data_points:
                key = (metric.name.removeprefix("ntppool.api."), *point.attributes.values())
                found[key] = point.value if hasattr(point, "value") else point.count
        return found


@pytest.fixture
def counted() -> Counted:
    return Counted()


class Client:
    """A client that sends a request in pieces, and collects the answer."""

    def __init__(self, *pieces: bytes, headers: list[tuple[bytes, bytes]] | None = None, stalls: bool = False) -> None:
        self._pieces = list(pieces) or [b""]
        self._stalls = stalls
        self.headers = headers or []
        self.messages: list[Message] = []

    async def receive(self) -> Message:
        if not self._pieces:
            await asyncio.Event().wait()
        body = self._pieces.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self._pieces) or self._stalls}

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    async def ask(self, edge: Edge, path: str = "/x", peer: str = "8.8.4.4") -> tuple[int, str]:
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "scheme": "http",
            "query_string": b"",
            "headers": self.headers,
            "client": (peer, 1),
        }
        await edge(scope, self.receive, self.send)
        starts = [message for message in self.messages if message["type"] == "http.response.start"]
        assert len(starts) == 1, "exactly one answer"
        body = b"".join(message.get("body", b"") for message in self.messages)
        return starts[0]["status"], body.decode()


async def read_all(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client is gone")
        body += message["body"]
        if not message["more_body"]:
            return body


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    scope["route"] = SimpleNamespace(path="/x/{id}")
    body = await read_all(receive)
    await PlainTextResponse(f"{scope['client'][0]} {scope['scheme']} {len(body)}")(scope, receive, send)


def raising(error: Exception) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return app


async def test_requests_pass_with_the_client_that_a_trusted_proxy_names(counted: Counted) -> None:
    edge = Edge(echo, counted.metrics, parse_networks("127.0.0.1"))
    forwarded = [(b"x-forwarded-for", b"9.9.9.9"), (b"x-forwarded-proto", b"https")]
    assert await Client(b"ab", b"c", headers=forwarded).ask(edge, peer="127.0.0.1") == (200, "9.9.9.9 https 3")
    assert await Client(b"abc", headers=forwarded).ask(edge, peer="8.8.4.4") == (200, "8.8.4.4 http 3")
    wrong = Client(b"", headers=[(b"x-forwarded-for", b"x")])
    assert (await wrong.ask(edge, peer="127.0.0.1"))[0] == 400
    found = counted.read()
    assert found["requests", "/x/{id}", "2xx"] == 2 and found["requests", "unknown", "4xx"] == 1
    assert found["refusals", "forwarded"] == 1 and found["request", "/x/{id}"] == 2


async def test_a_body_of_64_kib_passes_and_a_larger_one_does_not(counted: Counted) -> None:
    edge = Edge(echo, counted.metrics, ())
    half = b"x" * (MAX_BODY // 2)
    assert (await Client(half, half).ask(edge))[0] == 200
    assert (await Client(half, half, b"x").ask(edge))[0] == 413
    announced = Client(stalls=True, headers=[(b"content-length", str(MAX_BODY + 1).encode())])
    assert (await announced.ask(edge))[0] == 413, "refused before it is sent"
    assert edge.running == 0
    assert counted.read()["refusals", "too_large"] == 2


async def test_a_slow_body_is_cut_off_and_leaves_nothing(counted: Counted) -> None:
    edge = Edge(echo, counted.metrics, (), within=0.05)
    status, words = await Client(b"a", stalls=True).ask(edge)
    assert (status, words) == (408, "The request was too slow.\n")
    for _ in range(5):
        await asyncio.sleep(0)
    assert edge.running == 0
    assert counted.read()["refusals", "slow"] == 1


async def test_slow_work_is_answered_in_time_and_keeps_its_place(counted: Counted) -> None:
    release = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_all(receive)
        await asyncio.to_thread(release.wait)
        await PlainTextResponse("late")(scope, receive, send)

    edge = Edge(app, counted.metrics, (), within=0.05, at_once=2)
    for _ in range(2):
        assert await Client(b"a").ask(edge) == (503, "This took too long; try again later.\n")
    assert edge.running == 2
    assert await Client(b"a").ask(edge) == (503, "The server is overloaded; try again later.\n")
    assert edge.running == 2, "no further thread is occupied"
    release.set()
    while edge.running:
        await asyncio.sleep(0.001)
    found = counted.read()
    assert (found["refusals", "deadline"], found["refusals", "overload"]) == (2, 1)
    assert (await Client(b"a").ask(Edge(echo, counted.metrics, (), at_once=2)))[0] == 200


async def test_requests_run_in_the_order_of_their_arrival_unless_their_client_is_gone(counted: Counted) -> None:
    order: list[str] = []
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        order.append(scope["path"])
        await read_all(receive)
        await go_on.wait()
        await PlainTextResponse("done")(scope, receive, send)

    class Leaving(Client):
        async def receive(self) -> Message:
            return {"type": "http.disconnect"} if not self._pieces else await super().receive()

    edge = Edge(app, counted.metrics, (), at_once=1)
    clients = [Client(b"a"), Leaving(b"b"), Client(b"c"), Client(b"d")]
    asked = [asyncio.create_task(client.ask(edge, path=f"/{n}")) for n, client in enumerate(clients)]
    assert (await asked[1])[0] == 503
    go_on.set()
    assert [(await one)[0] for one in asked] == [200, 503, 200, 200]
    assert order == ["/0", "/2", "/3"], "who is gone costs nothing"
    assert counted.read()["refusals", "disconnected"] == 1


PRIVATE = OperationalError("SELECT secret", {"p": SECRET}, sqlite3.OperationalError("disk I/O error"))
DEFECT = OperationalError("SELECT secret", {"p": SECRET}, sqlite3.OperationalError("no such column"))


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Declined(410, "ended", "It has ended."), 410, "ended"),
        (DatabaseUnavailable(SECRET), 503, "database"),
        (PRIVATE, 503, "database"),
        (ClockDoubted("apart"), 503, "clock"),
        (AuthorityUnavailable("CA: no"), 503, "authority"),
        (NoAuthority("CA: none"), 404, "no_authority"),
        (DEFECT, 500, "defect"),
        (KeyError("bug"), 500, "defect"),
    ],
)
async def test_errors_become_answers_in_words_without_secrets(
    counted: Counted, caplog: pytest.LogCaptureFixture, error: Exception, status: int, kind: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        found, words = await Client().ask(
            Edge(raising(error), counted.metrics, (), failures=ApiFailures()), path=f"/{SECRET}"
        )
    assert found == status and words.endswith(".\n") and words[0].isupper()
    assert counted.read()["refusals", kind] == 1
    assert "SELECT secret" not in caplog.text
    # A text of the database may be anything; the formatter of our logs hides keys.
    assert SECRET not in words and (SECRET not in caplog.text or isinstance(error, DatabaseUnavailable))
    assert ("Traceback" in caplog.text) == isinstance(error, KeyError)


async def test_refusals_are_logged_with_a_rate_limit(counted: Counted, caplog: pytest.LogCaptureFixture) -> None:
    edge = Edge(raising(Declined(401, "key", "No.")), counted.metrics, ())
    with caplog.at_level(logging.INFO):
        for _ in range(100):
            await Client().ask(edge)
    assert caplog.text.count("POST unknown from 8.8.4.4: 401") == 1


async def test_an_answer_that_has_begun_is_not_replaced(counted: Counted) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("bug")

    assert (await Client().ask(Edge(app, counted.metrics, ())))[0] == 200


async def test_web_sockets_are_not_answered(counted: Counted) -> None:
    client = Client()
    await Edge(echo, counted.metrics, ())({"type": "websocket"}, client.receive, client.send)
    assert client.messages == []
