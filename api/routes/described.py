"""Describe requests and answers for OpenAPI, where the code reads and writes them itself."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import Depends
from fastapi.security import HTTPBearer
from pydantic import BaseModel

BEARER: Final = Depends(HTTPBearer(auto_error=False, scheme_name="apiKey", description="The API key of a host."))
"""Only describes the header; the code that checks it is in :mod:`api.authorization`."""

OPTIONAL_KEY: Final[list[dict[str, list[str]]]] = [{}, {"apiKey": []}]
"""The same for a route that accepts requests without a key."""

_WORDS: Final[Mapping[int, str]] = {
    400: "Malformed.",
    401: "The API key is missing, wrong, replaced or revoked.",
    403: "Refused, with the reason.",
    404: "There is none here.",
    408: "The request was too slow.",
    409: "The registration was begun from another address.",
    410: "The registration has ended.",
    413: "The body is too large.",
    415: "The body has another type.",
    429: "Too many; try again later.",
    503: "The database, the CA or the clock is unavailable; try again later.",
}
_ALWAYS: Final = (400, 408, 413, 503)
"""Statuses that any request may get."""


def answers(*refusals: int, of: type[BaseModel] | None = None) -> dict[int | str, Any]:
    """Return the description of a route's answers.

    Args:
        refusals: statuses of answers in plain text, beside those of any request.
        of: the JSON of the good answer.
    """
    found: dict[int | str, Any] = {}
    if of is not None:
        found[200] = {"model": of, "description": "Good."}
    for status in sorted({*refusals, *_ALWAYS}):
        found[status] = {"description": _WORDS[status], "content": {"text/plain": {"schema": {"type": "string"}}}}
    return found


def header(name: str, description: str, *, required: bool = False, pattern: str | None = None) -> dict[str, Any]:
    """Return the description of a header of the request."""
    schema = {"type": "string"} if pattern is None else {"type": "string", "pattern": pattern}
    return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}


def body(content_type: str, schema: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    """Return the description of the request's body."""
    return {"requestBody": {"required": required, "content": {content_type: {"schema": dict(schema)}}}}
