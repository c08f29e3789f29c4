"""Make the answers to machines: JSON, or words in plain text, and the answer to each kind of error.

Every refusal below 500 is plain text, since agents of the older protocol print it and end; JSON would make them ask
again at once, for ever. No answer quotes a key, a token or an error of a library.
"""

import logging
from collections.abc import Mapping
from typing import Final

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response

from auth.ca.authority import AuthorityUnavailable, NoAuthority
from auth.certificates import TooManyCertificates
from runtime.clock import ClockDoubted
from runtime.db.retry import DatabaseUnavailable, Reaction, reaction_to
from runtime.log import RateLimitedLog

log = logging.getLogger(__name__)

NO_STORE: Final[Mapping[str, str]] = {"Cache-Control": "no-store"}

_USUAL: Final[Mapping[int, str]] = {
    404: "There is nothing at this address.",
    405: "This address does not accept this method.",
}


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


def as_json(answer: BaseModel, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer as JSON, without members that are not set."""
    body = answer.model_dump_json(by_alias=True, exclude_none=True)
    return Response(body, 200, {**NO_STORE, **(headers or {})}, "application/json")


class Failures:
    """Turn errors into answers. Used in the event loop only."""

    def __init__(self) -> None:
        self._warning = RateLimitedLog(log)

    def answer_to(self, error: Exception) -> tuple[Response, str]:
        """Return the answer to an error, and its kind for the counter of refusals; log it if operators must know."""
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
            case ClockDoubted():
                return text(503, "The clock of this server is being checked; try again later."), "clock"
            case TooManyCertificates():
                return text(
                    429, "This host has had too many certificates lately; try again in an hour."
                ), "certificates"
            case NoAuthority():
                return text(404, "This pool has no certificates for agents."), "no_authority"
            case AuthorityUnavailable():
                self._say("CA", "%s", error)
                return text(503, "The certificate authority is unavailable; try again later."), "authority"
        if isinstance(error, DatabaseUnavailable) or reaction_to(error) is not Reaction.DEFECT:
            # Without the statement and its values, which may be long and private.
            self._say("database", "database: %s", getattr(error, "orig", error))
            return text(503, "The database is unavailable; try again later."), "database"
        return self._defect(error)

    def _defect(self, error: Exception) -> tuple[Response, str]:
        kind = type(error).__name__
        if isinstance(error, DBAPIError):
            self._warning.log(logging.ERROR, kind, "unexpected error of the database: %s", error.orig)
        else:
            self._warning.log(logging.ERROR, kind, "unexpected %s", kind, exc_info=error)
        return text(500, "An unexpected error occurred; the operators can find it in the log."), "defect"

    def _say(self, key: str, words: str, *args: object) -> None:
        self._warning.log(logging.WARNING, key, words, *args)
