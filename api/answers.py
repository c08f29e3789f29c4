"""Make the API's answers to machines: JSON, and the answers to errors that only the API knows.

Every refusal below 500 is plain text, since agents of the older protocol print it and end; JSON would make them ask
again at once, for ever. No answer quotes a key, a token or an error of a library.
"""

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.responses import Response

from auth.ca.authority import AuthorityUnavailable, NoAuthority
from auth.certificates import TooManyCertificates
from runtime.clock import ClockDoubted
from runtime.http.answers import NO_STORE, Answer, Failures, text


def as_json(answer: BaseModel, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer as JSON, without members that are not set."""
    body = answer.model_dump_json(by_alias=True, exclude_none=True)
    return Response(body, 200, {**NO_STORE, **(headers or {})}, "application/json")


class ApiFailures(Failures):
    """Turn errors into answers. Used in the event loop only."""

    def own_answer(self, error: Exception) -> Answer | None:
        """Return the answer to an error of the CA or of the clock."""
        match error:
            case ClockDoubted():
                return text(503, "The clock of this server is being checked; try again later."), "clock"
            case TooManyCertificates():
                return text(
                    429, "This host has had too many certificates lately; try again in an hour."
                ), "certificates"
            case NoAuthority():
                return text(404, "This pool has no certificates for agents."), "no_authority"
            case AuthorityUnavailable():
                self.warn("CA", "%s", error)
                return text(503, "The certificate authority is unavailable; try again later."), "authority"
        return None
