"""Make the answers that all HTTP servers have in common: words in plain text, and the answer to each kind of error.

No answer quotes a secret or an error of a library.
"""

import logging
from collections.abc import Mapping
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response

from runtime.db.retry import DatabaseUnavailable, Reaction, reaction_to
from runtime.http.asgi import App, Receive, Refusals, Scope, Send, carry_errors
from runtime.log import RateLimitedLog

log = logging.getLogger(__name__)

NO_STORE: Final[Mapping[str, str]] = {"Cache-Control": "no-store"}

_USUAL: Final[Mapping[int, str]] = {
    404: "There is nothing at this address.",
    405: "This address does not accept this method.",
}

Answer = tuple[Response, str]
"""The answer to an error, and its kind for the counter of refusals."""


class Declined(Exception):
    """A request is refused.

    Args:
        kind: for the counter of refusals.
        words: say why, and what to do; for the person at the host.
    """

    def __init__(self, status: int, kind: str, words: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(kind)
        self.status = status
        self.kind = kind
        self.words = words
        self.headers = dict(headers or {})


def text(status: int, words: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer in words."""
    return PlainTextResponse(f"{words}\n", status, {**NO_STORE, **(headers or {})})


class Failures:
    """Turn errors into answers. Used in the event loop only."""

    def __init__(self) -> None:
        self._warning = RateLimitedLog(log)

    def answer_to(self, error: Exception) -> Answer:
        """Return the answer to an error; log it if operators must know."""
        match error:
            case Declined():
                return text(error.status, error.words, error.headers), error.kind
            case HTTPException():
                words = _USUAL.get(error.status_code, str(error.detail))
                return text(error.status_code, words, error.headers), f"http_{error.status_code}"
            case RequestValidationError():
                return text(400, "This request is malformed."), "malformed"
            case ClientDisconnect():
                # The client is gone, or this process is about to end.
                return text(503, "The connection has ended; try again."), "disconnected"
        if (found := self.own_answer(error)) is not None:
            return found
        if isinstance(error, DatabaseUnavailable) or reaction_to(error) is not Reaction.DEFECT:
            # Without the statement and its values, which may be long and private.
            self.warn("database", "database: %s", getattr(error, "orig", error))
            return text(503, "The database is unavailable; try again later."), "database"
        return self._defect(error)

    def own_answer(self, error: Exception) -> Answer | None:
        """Return the answer to an error specific to this server, or ``None`` for any other error."""
        return None

    def warn(self, key: str, words: str, *args: object) -> None:
        """Log what operators must know, at most once a minute for each key."""
        self._warning.log(logging.WARNING, key, words, *args)

    def _defect(self, error: Exception) -> Answer:
        kind = type(error).__name__
        if isinstance(error, DBAPIError):
            self._warning.log(logging.ERROR, kind, "unexpected error of the database: %s", error.orig)
        else:
            self._warning.log(logging.ERROR, kind, "unexpected %s", kind, exc_info=error)
        return text(500, "An unexpected error occurred; the operators can find it in the log."), "defect"


def answer_errors(app: FastAPI, answers: Refusals, failures: Failures) -> None:
    """Answer the framework's own refusals, and let all other errors reach the edge.

    The framework would answer an unexpected error itself, and then raise it again.
    """

    async def answer(request: Request, error: Exception) -> Response:
        return answers(request.url.path, failures.answer_to(error)[0])

    app.add_exception_handler(HTTPException, answer)
    app.add_exception_handler(RequestValidationError, answer)
    app.add_middleware(_PassErrors)


class _PassErrors:
    """ASGI middleware that carries errors around the framework's outermost handler."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await carry_errors(self._app, scope, receive, send)
