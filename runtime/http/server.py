"""Run the HTTP server within the worker's event loop: listen, limit, and stop in order.

uvicorn's protocol serves each connection. Its own server is not used: it would take over the signals, and could neither
replace certificates nor bound the time of a handshake.
"""

import asyncio
import logging
import math
import resource
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Final

import h11
from anyio.to_thread import current_default_thread_limiter
from uvicorn.config import Config
from uvicorn.server import ServerState

from runtime.addresses import Address
from runtime.http.connection import KEEP_ALIVE, MAX_HEAD, timed_connections
from runtime.http.edge import ANSWER_WITHIN, AT_ONCE, Edge
from runtime.http.shares import FairListener, Shares
from runtime.http.tls import ServerTls
from runtime.log import RateLimitedLog

log = logging.getLogger(__name__)

MOST_CONNECTIONS: Final = 2000
_SPARE_FILES: Final = 100
"""Open files for everything else: database, broker, metrics."""

_SHARE: Final = 10
"""One client may have one in so many of all connections (see :mod:`runtime.http.shares`). An agent has one."""

_BACKLOG: Final = 1024
_HANDSHAKE_WITHIN: Final = 30.0
"""Seconds; many clients may connect at once."""

_DATE_EVERY: Final = 0.5
_CLOSE_WITHIN: Final = 1.0
"""Seconds, at the end of the process, for clients to take their answers."""

_LOOK_EVERY: Final = 0.02

_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")
"""Browsers must not take plain text for something else."""


def open_sockets(addresses: Sequence[Address], port: int) -> list[socket.socket]:
    """Return a socket for each address, bound but not listening.

    Raises:
        OSError: an address is not local, or the port is in use.
    """
    found: list[socket.socket] = []
    try:
        for address in addresses:
            made = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
            found.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address.version == 6:
                # 0.0.0.0 and :: may both be used, each for its own protocol.
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((str(address), port))
    except OSError:
        for made in found:
            made.close()
        raise
    return found


def most_connections() -> int:
    """Return how many connections this process may have, by its limit of open files."""
    try:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except OSError:
        files = 1024
    if files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(_SPARE_FILES, min(MOST_CONNECTIONS, files - 2 * _SPARE_FILES))


class Server:
    """The server.

    Args:
        sockets: see :func:`open_sockets`; the server closes them.
        tls: ``None`` for plain HTTP.
    """

    def __init__(self, app: Edge, sockets: Sequence[socket.socket], tls: ServerTls | None) -> None:
        most = most_connections()
        self._app = app
        shares = Shares(math.ceil(most / _SHARE), app.unlimited)
        self._sockets = [FairListener(one, shares, app.connection_refused) for one in sockets]
        self._tls = tls
        self.listening = asyncio.Event()
        """Set once clients can connect."""
        self._state = ServerState()
        self._errors = RateLimitedLog(log)
        self._config = Config(
            app,
            http=timed_connections(most, ANSWER_WITHIN),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level=logging.CRITICAL,  # its messages have no rate limit; the edge logs what matters
            access_log=False,
            proxy_headers=False,  # see runtime.http.proxies
            server_header=False,
            limit_concurrency=most,
            timeout_keep_alive=KEEP_ALIVE,
            h11_max_incomplete_event_size=MAX_HEAD,
        )

    async def run(self) -> None:
        """Serve until cancelled, then let running requests end."""
        asyncio.get_running_loop().set_exception_handler(self._on_error)
        current_default_thread_limiter().total_tokens = AT_ONCE
        self._config.load()
        servers = [await self._listen(made) for made in self._sockets]
        self.listening.set()
        log.info("listening on %s", ", ".join(map(self._url, self._sockets)))
        try:
            while True:
                self._state.default_headers = [(b"date", formatdate(usegmt=True).encode()), _NO_SNIFFING]
                await asyncio.sleep(_DATE_EVERY)
        finally:
            for server in servers:
                server.close()
            await self._close()

    async def _listen(self, made: socket.socket) -> asyncio.Server:
        encrypted = self._tls is not None
        return await asyncio.get_running_loop().create_server(
            self._connection,
            sock=made,
            backlog=_BACKLOG,
            ssl=None if self._tls is None else self._tls.context,
            ssl_handshake_timeout=_HANDSHAKE_WITHIN if encrypted else None,
            ssl_shutdown_timeout=_CLOSE_WITHIN if encrypted else None,
        )

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self._config.http_protocol_class(  # type: ignore[call-arg]  # the base is too general
            config=self._config, server_state=self._state, app_state={}
        )
        return made

    async def _close(self) -> None:
        """Close idle connections, let others take their answers, and wait for requests that are in a thread.

        The worker does not wait for this for long.
        """
        for connection in list(self._state.connections):
            with suppress(h11.LocalProtocolError):
                connection.shutdown()
        await _until(lambda: not self._state.connections, _CLOSE_WITHIN)
        for connection in list(self._state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # in which they are closed
        await _until(lambda: not self._app.running, math.inf)

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log errors outside of tasks, with a rate limit, since clients may cause them by broken connections."""
        error, said = context.get("exception"), str(context.get("message"))
        self._errors.log(logging.ERROR, said, "event loop: %s", said, exc_info=error or False)

    def _url(self, made: socket.socket) -> str:
        host, port = made.getsockname()[:2]
        return f"{'http' if self._tls is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"


async def _until(done: Callable[[], bool], within: float) -> None:
    """Wait until ``done``, for so many seconds at most."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not done() and loop.time() < deadline:  # noqa: ASYNC110  # connections of a library, and threads
        await asyncio.sleep(_LOOK_EVERY)
