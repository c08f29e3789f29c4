"""Guard the application: who asks, how much, how long; counters, and at most one log line per request.

It is the outermost part of the ASGI application, so its limits hold for every route and page. Bodies arrive in the
event loop, so a slow client occupies no thread. A request that takes too long is answered while its thread, which
cannot be stopped, runs to its end; the number of such requests is limited.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

from api.answers import Failures, text
from api.metrics import ApiMetrics
from api.proxies import Client, MalformedHeader, client_of
from api.requests import SILENT_PROXY
from runtime.addresses import Network
from runtime.log import RateLimitedLog

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY: Final = 64 * 1024
"""Maximum bytes of a request's body."""

ANSWER_WITHIN: Final = 20.0
"""Maximum seconds from the head of a request to its answer."""

MOST_ABANDONED: Final = 100
"""Maximum requests that were answered because they took too long, and still wait for a thread or run in one. With more
of them, further requests are refused."""

FAILURE: Final = "ntppool.failure"
"""Key in the ASGI scope: the error that ended the application."""

_CLOSE: Final = {"Connection": "close"}


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
    uploading: bool = False
    """The application waits for more of the body."""
    complete: bool = False
    """The body has arrived."""
    size: int = 0

    @property
    def too_large(self) -> bool:
        return self.size > MAX_BODY

    async def receive(self) -> Message:
        """Receive for the application, no more than the maximum."""
        if self.ended or self.too_large:
            return {"type": "http.disconnect"}
        self.uploading = not self.complete
        message = await self.receive_from_client()
        self.uploading = False
        if message["type"] == "http.request":
            self.size += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        return {"type": "http.disconnect"} if self.too_large else message

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
        trusted: networks of proxies whose forwarded headers count.
        within: seconds for one request.
    """

    def __init__(
        self, app: App, metrics: ApiMetrics, trusted: Sequence[Network], *, within: float = ANSWER_WITHIN
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._trusted = trusted
        self._within = within
        self._failures = Failures()
        self._refusals = RateLimitedLog(log)
        self._running: set[asyncio.Task[None]] = set()
        self._abandoned: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """Number of requests that run, including those that have been answered because they took too long."""
        return len(self._running)

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
        finally:
            self._note(scope, exchange, time.monotonic() - began)

    async def _handle(self, scope: Scope, exchange: _Exchange) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        exchange.client = peer = scope["client"][0] if scope.get("client") else ""
        try:
            client = client_of(peer, scope["scheme"], headers, self._trusted)
        except MalformedHeader as error:
            await self._refuse(exchange, text(400, str(error), _CLOSE), "forwarded")
            return
        exchange.client = client.address
        _name_client(scope, client)
        if _announced_size(headers) > MAX_BODY:
            await self._refuse(exchange, _too_large(), "too_large")
        elif len(self._abandoned) >= MOST_ABANDONED:
            await self._refuse(exchange, text(503, "The server is overloaded; try again later.", _CLOSE), "overload")
        else:
            await self._run(scope, exchange)

    async def _run(self, scope: Scope, exchange: _Exchange) -> None:
        running = asyncio.create_task(self._answered(scope, exchange), name="request")
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        try:
            await asyncio.wait({running}, timeout=self._within)
        except asyncio.CancelledError:
            running.cancel()
            raise
        if exchange.too_large:
            await self._refuse(exchange, _too_large(), "too_large")
        elif not running.done():
            await self._give_up(running, exchange)

    async def _give_up(self, running: asyncio.Task[None], exchange: _Exchange) -> None:
        """Answer a request that takes too long."""
        if exchange.uploading:
            running.cancel()  # it is in no thread
            await self._refuse(exchange, text(408, "The request was too slow.", _CLOSE), "slow")
        else:
            self._abandoned.add(running)
            running.add_done_callback(self._abandoned.discard)
            await self._refuse(exchange, text(503, "This took too long; try again later.", _CLOSE), "deadline")

    async def _answered(self, scope: Scope, exchange: _Exchange) -> None:
        """Run the application, and answer its error."""
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:
            failure: Exception | None = error
        else:
            failure = scope.get(FAILURE)
        if failure is not None and not exchange.ended and not exchange.too_large:
            await self._refuse(exchange, *self._failures.answer_to(failure))

    async def _refuse(self, exchange: _Exchange, response: Response, kind: str) -> None:
        self._metrics.refused(kind)
        await exchange.answer(response)

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


async def carry_errors(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Run ``app``, and leave its error in the scope for :class:`Edge`.

    For use within a framework that would answer an unexpected error itself.
    """
    try:
        await app(scope, receive, send)
    except Exception as error:
        scope[FAILURE] = error


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
