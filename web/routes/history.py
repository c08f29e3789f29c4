"""Answer with the history of a server: ``json`` and ``log``, ranges for Grafana, and its monitors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.engine import Connection
from starlette.concurrency import run_in_threadpool

from runtime.http.answers import Declined
from web.answers import ERROR_RESPONSES, JSON, PLAIN, answer, moved, no_mode
from web.caching import of_history
from web.formats.history import history_csv, history_json, monitors_json
from web.formats.ranges import range_json
from web.model import Entry, epoch, from_epoch, newest_first, oldest_first
from web.parameters import BadParameter, parse_limit, parse_range, parse_since
from web.routes.parts import in_path, monitor_named, server_named, wanted_monitor
from web.services import Services
from web.store import history
from web.store.monitors import monitors_by_id, monitors_of

HEAVY_ROWS: Final = 1000
"""Rows from which on a request counts as heavy."""

MOST_IN_RANGE: Final = 60_000
"""Rows of the log in a range: two weeks of all monitors of a server."""

_INLINE: Final = {"Content-Disposition": "inline"}

Text = Annotated[str | None, Query(max_length=300)]
_HISTORY: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The history.", "content": {"application/json": {}, "text/plain": {}}},
    304: {"description": "It has not changed."},
}
_MOVED: Final[dict[int | str, dict[str, Any]]] = {
    301: {"description": "The address of the data."},
    200: {"description": "The monitors."},
}


def history_router(services: Services) -> APIRouter:
    """Return the routes of histories."""
    router = APIRouter()

    async def scores(
        request: Request, server: str, mode: str, limit: Text = None, monitor: Text = None, since: Text = None
    ) -> Response:
        """Return the newest results or scores of a server, or those after a time.

        `mode` is `json` or `log` (CSV); `monitor` a number, a short name, `*` for all, or empty for the pool's score;
        `limit` 1 to 10000; with `since`, the oldest of the newer ones come first.
        """
        if mode not in ("json", "log"):
            raise no_mode()
        made = _Scores(services, server, mode, limit, monitor, since)
        heavy = made.limit > HEAVY_ROWS
        body, cache = await (services.heavy.run(made.make) if heavy else run_in_threadpool(made.make))
        if mode == "json":
            return answer(request, body, JSON, cache)
        return answer(request, body, PLAIN, cache, _INLINE)

    for prefix in ("/api/data/server/scores", "/api/server/scores"):
        router.add_api_route(
            f"{prefix}/{{server}}/{{mode}}",
            scores,
            methods=["GET"],
            response_class=Response,
            responses={**_HISTORY, **ERROR_RESPONSES},
            summary="History of a server",
            operation_id=prefix.strip("/").replace("/", "_"),
        )

    @router.get(
        "/api/v2/server/scores/{server}/{mode}",
        response_class=Response,
        responses={**_HISTORY, **ERROR_RESPONSES},
        summary="Range of the history of a server, for Grafana",
    )
    async def ranges(
        request: Request,
        server: str,
        mode: str,
        begin: Annotated[str | None, Query(alias="from", max_length=300)] = None,
        to: Text = None,
        maxDataPoints: Text = None,  # Grafana's name
        monitor: Text = None,
        interval: Text = None,
    ) -> Response:
        """Return the results and scores of a server in a range, thinned out to `maxDataPoints` for each monitor.

        `from` and `to` are seconds since 1970, or relative such as `-3d`, `-2h`, `-30m`; 90 days at most. The lowest
        and highest values are kept. `interval` is accepted for Grafana; `maxDataPoints` decides.
        """
        if mode != "json":
            raise no_mode()
        body, cache = await services.heavy.run(lambda: _range(services, server, monitor, (begin, to, maxDataPoints)))
        return answer(request, body, JSON, cache)

    @router.get(
        "/scores/{server}/{mode}",
        response_class=Response,
        responses={**_MOVED, **ERROR_RESPONSES, 304: {"description": "They have not changed."}},
        summary="Monitors of a server, and the former addresses of its history",
    )
    def of_page(request: Request, server: str, mode: str) -> Response:
        """Return the monitors of a server (`monitors`), or redirect to its history (`json`, `log`)."""
        if mode == "monitors":
            found = services.read(lambda c: monitors_of(c, server_named(c, server, services.now()).id))
            return answer(request, monitors_json(found), JSON)
        if mode not in ("json", "log"):
            raise no_mode()
        query = f"?{request.url.query}" if request.url.query else ""
        return moved(f"/api/data/server/scores/{in_path(server)}/{mode}{query}")

    return router


class _Scores:
    """One request for a history.

    Raises:
        Declined: a parameter cannot be used.
    """

    def __init__(
        self, services: Services, server: str, mode: str, limit: str | None, monitor: str | None, since: str | None
    ) -> None:
        self._services = services
        self._server = server
        self._mode = mode
        self.limit = parse_limit(limit)
        self._wanted = wanted_monitor(monitor)
        with _sentences():
            self._since = parse_since(since)

    def make(self) -> tuple[bytes, str]:
        """Return the answer, and how long it may be kept; blocks."""
        return self._services.read(self._read)

    def _read(self, connection: Connection) -> tuple[bytes, str]:
        now = self._services.now()
        server = server_named(connection, self._server, now)
        monitor = monitor_named(connection, server, self._wanted)
        monitor_id = None if monitor is None else monitor.id
        if self._since is None:
            entries = newest_first(history.newest(connection, server.id, self.limit, now, monitor_id))
        else:
            after = from_epoch(self._since)
            entries = oldest_first(history.since(connection, server.id, self.limit, after, now, monitor_id))
        ids = {entry.monitor_id for entry in entries}
        monitors = [monitor] if monitor is not None else monitors_by_id(connection, server.id, ids)
        cache = _caching(entries, now)
        if self._mode == "json":
            return history_json(server.ip, entries, monitors), cache
        return history_csv(server.ip, entries, {one.id: one.name for one in monitors}), cache


def _range(
    services: Services, text: str, monitor: str | None, parameters: tuple[str | None, str | None, str | None]
) -> tuple[bytes, str]:
    now = services.now()
    with _sentences():
        wanted = parse_range(*parameters, epoch(now))
    asked = wanted_monitor(monitor, "*")

    def read(connection: Connection) -> tuple[bytes, str]:
        server = server_named(connection, text, now)
        found = monitor_named(connection, server, asked)
        begin, end = from_epoch(wanted.begin), from_epoch(wanted.end)
        entries = history.in_range(
            connection, server.id, MOST_IN_RANGE + 1, begin, end, None if found is None else found.id
        )
        if len(entries) > MOST_IN_RANGE:
            raise Declined(
                400, "range", f"this range has more than {MOST_IN_RANGE} rows: ask for less time, or for one monitor"
            )
        monitors = monitors_by_id(connection, server.id, {entry.monitor_id for entry in entries})
        body = range_json(oldest_first(entries), {one.id: one for one in monitors}, wanted.points)
        return body, _caching(entries, now)

    return services.read(read)


def _caching(entries: Sequence[Entry], now: datetime) -> str:
    return of_history([entry.ts for entry in entries], now)


@contextmanager
def _sentences() -> Iterator[None]:
    """Answer 400 with what is wrong with a parameter."""
    try:
        yield
    except BadParameter as error:
        raise Declined(400, "parameter", str(error)) from None
