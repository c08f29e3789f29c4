"""Answer while the client waits: line by line, and not longer than it waits."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runtime.http.answers import NO_STORE

T = TypeVar("T")

Write = Callable[[str], Awaitable[None]]
"""Sends one line."""

NDJSON: Final = "application/x-ndjson"


class LineStream(Response):
    """An answer whose lines are sent as they come.

    Args:
        produce: writes the lines. What it raises before the first one is answered as any other error.
    """

    media_type = NDJSON

    def __init__(self, produce: Callable[[Write], Coroutine[Any, Any, None]]) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(NO_STORE)  # without a length, since there is no body yet
        self._produce = produce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Implement ASGI."""
        begun = False

        async def write(line: str) -> None:
            nonlocal begun
            if not begun:
                begun = True
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": f"{line}\n".encode(), "more_body": True})

        await while_present(receive, self._produce(write))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def while_present(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``, which is cancelled when the client is gone: also at the end of this process, which
    closes all connections and then waits for the requests.

    Args:
        receive: of a request whose body was read.

    Raises:
        ClientDisconnect: the client is gone.
    """
    working = asyncio.create_task(work, name="answer")
    gone = asyncio.create_task(_until_gone(receive), name="disconnection")
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.wait({working, gone})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
