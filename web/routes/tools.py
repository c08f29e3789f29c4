"""Answer monitoring systems: the state of a server as a status, and its metrics."""

from datetime import timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.engine import Connection

from scorer.policy import HANDED_OUT_ABOVE
from web.answers import ERROR_RESPONSES, JSON, PLAIN, answer
from web.formats.tools import check_json, check_line, metrics_text
from web.model import Monitor, Server
from web.routes.parts import server_named
from web.services import Services
from web.store import history
from web.store.monitors import monitors_of
from web.verdict import DEFAULT_AGREE, check

HOURS: Final = 24
"""Hours of results in the metrics of a server."""

METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"

Threshold = Annotated[float, Query(ge=-100.0, le=20.0, allow_inf_nan=False)]
Monitors = Annotated[int, Query(ge=1, le=100)]


def tools_router(services: Services) -> APIRouter:
    """Return the routes for monitoring systems."""
    router = APIRouter()

    def server_with_monitors(text: str) -> tuple[Server, list[Monitor]]:
        def read(connection: Connection) -> tuple[Server, list[Monitor]]:
            server = server_named(connection, text, services.now())
            return server, monitors_of(connection, server.id)

        return services.read(read)

    @router.get(
        "/api/status-check/{server}",
        response_class=Response,
        responses={
            **ERROR_RESPONSES,
            200: {
                "description": "The server is well, or nothing is known.",
                "content": {"application/json": {}, "text/plain": {}},
            },
            304: {"description": "It has not changed."},
            503: {"description": "The server is not well.", "content": {"application/json": {}, "text/plain": {}}},
        },
        summary="State of a server, for monitoring systems",
    )
    def status_check(
        request: Request, server: str, threshold: Threshold = HANDED_OUT_ABOVE, monitors: Monitors = DEFAULT_AGREE
    ) -> Response:
        """Answer 503 if the server's score is not above `threshold`, and at least `monitors` monitors agree.

        If fewer monitors measure the server, all of them must agree. A server without results of the last hour is
        `UNKNOWN`, which is no alarm. The answer is one line, or JSON if the client accepts that.
        """
        found, measuring = server_with_monitors(server)
        state = check(found, measuring, threshold, monitors, services.now())
        as_json = JSON in request.headers.get("accept", "")
        body, kind = (check_json(found, state), JSON) if as_json else (check_line(found, state), PLAIN)
        if state.state == "bad":
            return Response(body, 503, {"Cache-Control": "no-store", "Vary": "Accept"}, kind)
        return answer(request, body, kind, "s-maxage=30,max-age=30", {"Vary": "Accept"})

    @router.get(
        "/metrics/server/{server}",
        response_class=Response,
        responses={
            **ERROR_RESPONSES,
            200: {"description": "The metrics.", "content": {"text/plain": {}}},
            304: {"description": "They have not changed."},
        },
        summary="Metrics of a server, for Prometheus",
    )
    def metrics(request: Request, server: str) -> Response:
        """Return score, results, losses and round-trip times of a server."""
        found, measuring = server_with_monitors(server)
        after = services.now() - timedelta(hours=HOURS)
        sums = services.read(lambda connection: history.sums(connection, found.id, after))
        return answer(request, metrics_text(found, measuring, sums, HOURS), METRICS)

    return router
