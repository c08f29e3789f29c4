"""Guard the application: who asks, how much, how long; counters, and at most one log line per request.

It is the outermost part of the ASGI application, so its limits hold for every route and page. A request passes three
stages. Its body is received, in the event loop, so a slow client occupies no thread. Then it waits for its turn, in the
order of arrival: as many requests run at once as there are threads for them. One whose time is over, or whose client is
gone, leaves the queue without having cost anything, so an API that was overloaded does not stay so. Then it runs. A
thread cannot be stopped: if it takes too long, the client is answered, and the request keeps its place until its end.

One client has few requests in all three stages together, so others wait for few of them.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from starlette.responses import Response

from runtime.addresses import Network
from runtime.http.answers import Failures, text
from runtime.http.asgi import FAILURE, SILENT_PROXY, App, Message, Receive, Refusals, Scope, Send
from runtime.http.proxies import Client, MalformedHeader, client_of
from runtime.http.shares import LOOPBACK, Shares
from runtime.log import RateLimitedLog

log = logging.getLogger(__name__)

MAX_BODY: Final = 64 * 1024
"""Maximum bytes of a request's body."""

ANSWER_WITHIN: Final = 30.0
"""Maximum seconds from the head of a request to its answer."""

AT_ONCE: Final = 16
"""Maximum requests that run at once: one for each thread. The database's pool has fewer connections."""

AT_ONCE_OF_ONE: Final = 32
"""Maximum requests of one client (see :mod:`runtime.http.shares`) at once. An agent sends one after the other."""

_CLOSE: Final = {"Connection": "close"}


class EdgeMetrics(Protocol):
    """Counts requests; thread-safe."""

    def requested(self, route: str, status: int, seconds: float) -> None:
        """Count a request; ``route`` is a pattern, never what a client sent."""

    def refused(self, kind: str) -> None:
        """Count a refused request."""


class _Refused(Exception):
    """A request is answered before it runs."""

    def __init__(self, response: Response, kind: str) -> None:
        super().__init__(kind)
        self.response = response
        self.kind = kind


@dataclass(slots=True)
class _Exchange:
    """One request and its answer, as far as they have got."""

    receive_from_client: Receive
    send_to_client: Send
    client: str = ""
    status: int = 0
    """0 until the answer has begun."""
    ended: bool = False
    """What the application still says is discarded."""
    body: bytes | None = None
    """The body, until the application has received it."""

    async def receive_body(self) -> None:
        """Receive the whole body.

        Raises:
            _Refused: it is too large, or the client is gone.
        """
        parts, size = [], 0
        while True:
            message = await self.receive_from_client()
            if message["type"] != "http.request":
                raise _Refused(text(503, "The connection has ended; try again.", _CLOSE), "disconnected")
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > MAX_BODY:
                raise _Refused(_too_large(), "too_large")
            if not message.get("more_body", False):
                self.body = b"".join(parts)
                return

    async def receive(self) -> Message:
        """Give the body to the application."""
        if self.body is not None and not self.ended:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self.receive_from_client()

    async def send(self, message: Message) -> None:
        """Send for the application."""
        if not self.ended:
            await self._send(message)

    async def answer(self, response: Response) -> None:
        """Answer in place of the application, unless it has begun to answer."""
        self.ended = True
        if self.status:
            return
        head = {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
        await self._send(head)
        await self._send({"type": "http.response.body", "body": bytes(response.body)})

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
        await self.send_to_client(message)


class Edge:
    """The guarded application.

    Args:
        failures: the answers to errors; default: those that all servers have.
        refusals: the answers to refused requests; default: those for machines.
        trusted: networks of proxies whose forwarded headers count.
        within: seconds for one request.
        at_once: maximum requests that run at once.
        at_once_of_one: maximum requests of one client that run or wait.
    """

    def __init__(
        self,
        app: App,
        metrics: EdgeMetrics,
        trusted: Sequence[Network],
        *,
        failures: Failures | None = None,
        refusals: Refusals = lambda _, given: given,
        within: float = ANSWER_WITHIN,
        at_once: int = AT_ONCE,
        at_once_of_one: int = AT_ONCE_OF_ONE,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._trusted = trusted
        self.unlimited: tuple[Network, ...] = (*trusted, *LOOPBACK)
        """Networks of clients that may have any number of connections: the proxies name their own clients."""
        self._shares = Shares(at_once_of_one, self.unlimited)
        self._within = within
        self._failures = failures or Failures()
        self._refusals = RateLimitedLog(log)
        self._places = asyncio.Semaphore(at_once)
        self._running: set[asyncio.Task[None]] = set()
        self._refusal = refusals

    @property
    def running(self) -> int:
        """Number of requests that run, including those that have been answered because they took too long."""
        return len(self._running)

    def connection_refused(self, address: str) -> None:
        """Record that a client had too many connections, and that a further one was closed."""
        self._metrics.refused("connections")
        self._refusals.log(
            logging.WARNING, "connections", "too many connections from %s: a further one closed", address
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; implements ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there are no web sockets
        began = time.monotonic()
        exchange = _Exchange(receive, send)
        try:
            await self._handle(scope, exchange)
        except _Refused as refused:
            await self._refuse(scope, exchange, refused.response, refused.kind)
        finally:
            self._note(scope, exchange, time.monotonic() - began)

    async def _handle(self, scope: Scope, exchange: _Exchange) -> None:
        deadline = asyncio.get_running_loop().time() + self._within
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        exchange.client = peer = scope["client"][0] if scope.get("client") else ""
        try:
            client = client_of(peer, scope["scheme"], headers, self._trusted)
        except MalformedHeader as error:
            raise _Refused(text(400, str(error), _CLOSE), "forwarded") from None
        exchange.client = client.address
        _name_client(scope, client)
        if _announced_size(headers) > MAX_BODY:
            raise _Refused(_too_large(), "too_large")
        give_back = self._shares.take(client.address)
        if give_back is None:
            # Not below 500, since agents take that for an answer to what they have asked.
            raise _Refused(text(503, "Your address has too many requests at once; try again later.", _CLOSE), "share")
        running = None
        try:
            await self._receive_body(exchange, deadline)
            await self._wait_for_place(exchange, deadline)
            running = self._start(scope, exchange)
            running.add_done_callback(lambda _: give_back())
        finally:
            if running is None:
                give_back()
        await asyncio.wait({running}, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        if not running.done():
            raise _Refused(text(503, "This took too long; try again later.", _CLOSE), "deadline")

    async def _receive_body(self, exchange: _Exchange, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await exchange.receive_body()
        except TimeoutError:
            raise _Refused(text(408, "The request was too slow.", _CLOSE), "slow") from None

    async def _wait_for_place(self, exchange: _Exchange, deadline: float) -> None:
        """Wait until the request may run, as long as its client waits."""
        if not self._places.locked():
            await self._places.acquire()
            return
        place = asyncio.create_task(self._places.acquire(), name="place")
        gone = asyncio.create_task(_until_disconnected(exchange.receive_from_client), name="disconnection")
        done: set[asyncio.Task[Any]] = set()
        try:
            left = deadline - asyncio.get_running_loop().time()
            waited = await asyncio.wait({place, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            done = waited[0]
        finally:
            await self._stop_waiting(place, gone, keep=place in done)
        if place in done:
            return
        if gone in done:
            raise _Refused(text(503, "The connection has ended; try again.", _CLOSE), "disconnected")
        raise _Refused(text(503, "The server is overloaded; try again later.", _CLOSE), "overload")

    async def _stop_waiting(self, place: asyncio.Task[bool], gone: asyncio.Task[None], *, keep: bool) -> None:
        gone.cancel()
        if not keep:
            place.cancel()
        await asyncio.wait({place, gone})
        if not keep and not place.cancelled():
            self._places.release()

    def _start(self, scope: Scope, exchange: _Exchange) -> asyncio.Task[None]:
        running = asyncio.create_task(self._answered(scope, exchange), name="request")
        self._running.add(running)
        running.add_done_callback(self._end)
        return running

    def _end(self, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        self._places.release()

    async def _answered(self, scope: Scope, exchange: _Exchange) -> None:
        """Run the application, and answer its error."""
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:
            failure: Exception | None = error
        else:
            failure = scope.get(FAILURE)
        if failure is not None and not exchange.ended:
            await self._refuse(scope, exchange, *self._failures.answer_to(failure))

    async def _refuse(self, scope: Scope, exchange: _Exchange, response: Response, kind: str) -> None:
        self._metrics.refused(kind)
        await exchange.answer(self._refusal(scope["path"], response))

    def _note(self, scope: Scope, exchange: _Exchange, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.requested(route, exchange.status or 499, seconds)
        if exchange.status >= 400:
            # The pattern of the route, since an address may contain a secret.
            level = logging.INFO if exchange.status < 500 else logging.WARNING
            what = f"{scope['method']} {route}"
            self._refusals.log(
                level, f"{what} {exchange.status}", "%s from %s: %d", what, exchange.client, exchange.status
            )


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _name_client(scope: Scope, client: Client) -> None:
    scope["client"] = (client.address, 0)
    scope["scheme"] = client.scheme
    scope[SILENT_PROXY] = client.is_proxy


def _announced_size(headers: Sequence[tuple[bytes, bytes]]) -> int:
    """Return the size in the header ``Content-Length``; 0 without one."""
    sizes = [value for name, value in headers if name == b"content-length"]
    return int(sizes[0]) if len(sizes) == 1 and sizes[0].isdigit() and len(sizes[0]) < 20 else 0


def _too_large() -> Response:
    return text(413, f"The body must have at most {MAX_BODY} bytes.", _CLOSE)
