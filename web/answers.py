"""Make the public answers: with caching headers and a tag, and errors as JSON for tools, as a page for people."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from runtime.http.answers import Declined
from runtime.http.asgi import Refusals
from schema.names import Environment
from web.caching import ERRORS, USUAL, etag, is_known
from web.templates import error_page

JSON: Final = "application/json"
PLAIN: Final = "text/plain; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"

_TOOLS: Final = ("api", "metrics", "openapi.json")


class Problem(BaseModel):
    """An error, for tools."""

    message: str


ERROR_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Problem, "description": words}
    for status, words in (
        (400, "A parameter cannot be used; the message says why."),
        (404, "There is no such server, monitor or mode."),
        (408, "The request was too slow."),
        (413, "The request is too large."),
        (500, "An unexpected error."),
        (503, "Busy, or the database is unavailable; try again later."),
    )
}
"""Errors in the OpenAPI description of the routes for tools."""


def no_server() -> Declined:
    """Return the error of a server that is unknown, or was deleted long ago."""
    return Declined(404, "server", "server not found")


def no_monitor() -> Declined:
    """Return the error of a monitor that is unknown."""
    return Declined(404, "monitor", "monitor not found")


def no_mode() -> Declined:
    """Return the error of an unknown format."""
    return Declined(404, "mode", "invalid mode")


def answer(
    request: Request, body: bytes, media_type: str, cache: str = USUAL, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an answer with a tag, or only that it has not changed since the client's last request."""
    tag = etag(body)
    common = {"ETag": tag, "Cache-Control": cache, **(headers or {})}
    if is_known(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=common)
    return Response(body, 200, common, media_type)


def moved(path: str, status: int = 301) -> Response:
    """Return a redirection to another address of ours."""
    return Response(b"", status, {"Location": path, "Cache-Control": USUAL})


def is_for_tools(path: str) -> bool:
    """Return whether a path is asked by tools rather than by people."""
    parts = path.strip("/").split("/")
    return parts[0] in _TOOLS or (parts[0] == "scores" and len(parts) > 2)


def refusals(env: Environment) -> Refusals:
    """Return the answers to errors: as a page for people, as JSON for tools."""

    def refused(path: str, given: Response) -> Response:
        status = given.status_code
        words = "internal error" if status == 500 else bytes(given.body).decode().strip()
        # An error of this moment must not be seen for minutes after it.
        headers = {"Cache-Control": "no-store" if status == 503 else ERRORS}
        headers |= {
            name: value for name, value in given.headers.items() if name in ("retry-after", "allow", "connection")
        }
        if is_for_tools(path):
            body = msgspec.json.encode({"message": words}) + b"\n"
            return Response(body, status, headers, JSON)
        return Response(error_page(env, status, HTTPStatus(status).phrase, words), status, headers, HTML)

    return refused
