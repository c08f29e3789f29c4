"""Read a request completely before a thread works on it: a slow client occupies none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.requests import Request

from runtime.http.answers import Declined
from runtime.http.asgi import SILENT_PROXY

_MOST_FIELDS: Final = 20
_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Asked:
    """A complete request. Its parts are whatever the client sent, and may hold secrets."""

    peer: str
    """Address of the client, see :mod:`runtime.http.proxies`."""
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    query: Mapping[str, str] = field(repr=False)
    behind_silent_proxy: bool = False
    """The client is unknown: a proxy of ours did not name it."""

    def header(self, name: str) -> str | None:
        """Return the value of a header; ``None`` unless it was sent exactly once."""
        values = self.headers.getlist(name)
        return values[0] if len(values) == 1 else None

    def bearer(self) -> str | None:
        """Return what the header ``Authorization`` holds as a bearer token."""
        scheme, _, value = (self.header("authorization") or "").partition(" ")
        return value.strip() if scheme.lower() == "bearer" else None

    def form(self) -> dict[str, str]:
        """Return the fields of the form in the body; an empty body is an empty form.

        Raises:
            Declined: it is no form, or a field occurs twice.
        """
        if not self.body:
            return {}
        kind = (self.header("content-type") or "").partition(";")[0].strip().lower()
        if kind != _FORM:
            raise Declined(415, "malformed", f"The body must be a form ({_FORM}).")
        try:
            fields = parse_qsl(
                self.body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
            )
        except ValueError:  # includes UnicodeDecodeError
            raise Declined(400, "malformed", "The form in the body is malformed.") from None
        found = dict(fields)
        if len(found) != len(fields):
            raise Declined(400, "malformed", "A field of the form occurs twice.")
        return found


async def read_request(request: Request) -> Asked:
    """Return the request with its body; a dependency of the routes."""
    return Asked(
        peer="" if request.client is None else request.client.host,
        headers=request.headers,
        body=await request.body(),
        query=dict(request.query_params),
        behind_silent_proxy=bool(request.scope.get(SILENT_PROXY)),
    )
