"""Guard the public pages with the limits of every HTTP server, and give all answers their common headers.

``HEAD`` is answered as ``GET``, whose body the server library omits. Clients behind an HTTP proxy name the whole URL in
their request, of which only the path counts.
"""

import re
import secrets
from collections.abc import Iterable
from typing import Any, Final

from runtime.http.asgi import Message, Receive, Scope, Send
from runtime.http.edge import Edge
from schema.trace_context import TraceIds, find_trace_context, ids_of

SECURITY: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Nothing outside is loaded, no script runs, and no other site shows these pages as a part of its own."""

_COMMON: Final = {"Access-Control-Allow-Origin": "*", **SECURITY}
_HEADERS: Final = [(name.lower().encode(), value.encode()) for name, value in _COMMON.items()]
_ABSOLUTE: Final = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


class PublicEdge(Edge):
    """The guarded application of the public pages."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; implements ASGI."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        trace = trace_context(scope["headers"]).encode()

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS, (b"traceparent", trace)]
            await send(message)

        await super().__call__(normal(scope), receive, with_headers)


def normal(scope: Scope) -> dict[str, Any]:
    """Return a request as the application knows it."""
    found = dict(scope)
    if found["method"] == "HEAD":
        found["method"] = "GET"
    path: str = found["path"]
    if (whole := _ABSOLUTE.match(path)) is not None:
        found["path"] = path[whole.end() :] or "/"
        found["raw_path"] = found["path"].encode()
    return found


def trace_context(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the trace context of an answer: a new span in the client's trace, or in a new one."""
    given = [("traceparent", value.decode("latin-1")) for name, value in headers if name == b"traceparent"]
    parent = find_trace_context(given)
    trace = secrets.randbits(128) or 1 if parent is None else ids_of(parent).trace
    return TraceIds(trace, secrets.randbits(64) or 1).as_text(0)
