"""Name the types of ASGI, and carry errors around a framework that would answer them itself."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from starlette.responses import Response

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Refusals = Callable[[str, Response], Response]
"""Returns the answer to a refused request of a path; given is the one for machines."""

FAILURE: Final = "ntppool.failure"
"""Key in the ASGI scope: the error that ended the application."""

SILENT_PROXY: Final = "ntppool.silent_proxy"
"""Key in the ASGI scope, true if the client is a proxy of ours that did not name its client."""


async def carry_errors(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Run ``app``, and leave its error in the scope for :class:`runtime.http.edge.Edge`.

    For use within a framework that would answer an unexpected error itself.
    """
    try:
        await app(scope, receive, send)
    except Exception as error:
        scope[FAILURE] = error
