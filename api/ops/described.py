"""Describe operators' routes for OpenAPI, where the code reads and writes requests itself."""

from collections.abc import Mapping
from typing import Any, Final

from api.ops.check import MOST_MONITORS, MOST_SAMPLES, USUAL_MONITORS
from api.ops.stream import NDJSON

_WORDS: Final[Mapping[int, str]] = {
    400: "Malformed, or an address that is not measured.",
    401: "The key is missing or not valid.",
    403: "The key is not that of an operator.",
    404: "There is no such monitor or server, or no agent that answers.",
    408: "The request was too slow.",
    409: "No monitor can measure this address, or trace the route to it, now.",
    413: "The body is too large.",
    429: "Too many; try again later.",
    502: "The agent's answer cannot be used.",
    503: "The broker, the database or the clock is unavailable, or there are too many requests; try again later.",
    504: "The agent did not answer in time.",
}
_ALWAYS: Final = (400, 401, 403, 408, 413, 429, 503)
"""Statuses that any request may get."""


def answers(*refusals: int, good: Mapping[str, Any]) -> dict[int | str, Any]:
    """Return the description of a route's answers; refusals are plain text."""
    found: dict[int | str, Any] = {200: {"description": "Good.", **good}}
    for status in sorted({*refusals, *_ALWAYS}):
        found[status] = {"description": _WORDS[status], "content": {"text/plain": {"schema": {"type": "string"}}}}
    return found


def text_of(content_type: str, description: str) -> dict[str, Any]:
    """Return the description of an answer that is text of this type."""
    return {"content": {content_type: {"schema": {"type": "string", "description": description}}}}


METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
METRICS_TEXT: Final = text_of("text/plain", "Prometheus' text format, version 0.0.4.")

LINES: Final = text_of(
    NDJSON,
    "A line of JSON for the check with the monitors that are asked; one for each of them, as the answers come, with "
    "`result`, or with `said` if there is none; and a last one with the numbers of both.",
)


ROUTE_LINES: Final = text_of(
    NDJSON,
    "A line of JSON for the check with the monitors that are asked; one for each of them, as the answers come, with "
    "`result` and `traces`, or with `said` if there are none; and a last one with the numbers of all, of those that "
    "traced the route, and of the routes that were stored.",
)

KEPT_ROUTES: Final[Mapping[str, Any]] = {
    "content": {"application/json": {"schema": {"type": "array", "items": {"type": "object"}}}}
}

MOST_ROUTES: Final = 100
USUAL_ROUTES: Final = 20
"""Numbers of stored routes in an answer."""


def _parameter(name: str, where: str, description: str, schema: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    return {"name": name, "in": where, "required": required, "description": description, "schema": dict(schema)}


def _number(most: int, usual: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 1, "maximum": most, "default": usual}


_NAME: Final = {"type": "string", "minLength": 1, "maxLength": 253}

NAME_PARAMETER: Final = {
    "parameters": [_parameter("name", "query", "Full or short name of the monitor.", _NAME, required=True)]
}

_IP: Final = _parameter("ip", "path", "The address to measure.", {"type": "string", "minLength": 1}, required=True)
_FROM: Final = _parameter(
    "from",
    "query",
    "Full or short name of a monitor that measures; may be repeated. Default: some near, some far.",
    {"type": "array", "items": _NAME, "maxItems": MOST_MONITORS},
    required=False,
)


def _optional_number(name: str, description: str, most: int, usual: int) -> dict[str, Any]:
    return _parameter(name, "query", description, _number(most, usual), required=False)


CHECK_PARAMETERS: Final = {
    "parameters": [
        _IP,
        _FROM,
        _optional_number("monitors", "How many to choose.", MOST_MONITORS, USUAL_MONITORS["ntp"]),
        _optional_number("samples", "Packets of each.", MOST_SAMPLES, MOST_SAMPLES),
    ]
}

TRACEROUTE_PARAMETERS: Final = {
    "parameters": [
        _IP,
        _FROM,
        _optional_number("monitors", "How many to choose.", MOST_MONITORS, USUAL_MONITORS["traceroute"]),
    ]
}

KEPT_ROUTES_PARAMETERS: Final = {
    "parameters": [_IP, _optional_number("limit", "How many at most.", MOST_ROUTES, USUAL_ROUTES)]
}
