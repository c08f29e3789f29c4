"""Compose the application: formats for tools, pages for people, and one answer to every error."""

from collections.abc import Sequence

import msgspec
from fastapi import FastAPI, Request, Response

from runtime.addresses import Network
from runtime.http.answers import Failures, answer_errors
from web.answers import JSON, answer, refusals
from web.edge import PublicEdge
from web.pages.router import pages_router
from web.routes.history import history_router
from web.routes.tools import tools_router
from web.services import Services


def build_web(services: Services) -> FastAPI:
    """Return the routes and pages, without the limits of :class:`web.edge.PublicEdge`."""
    app = FastAPI(
        title="NTP Pool Monitor: public data",
        version="1",
        summary="Scores of the servers of the pool, and the results from which they come.",
        openapi_url=None,  # served below, with the headers of all answers
        redirect_slashes=False,
    )
    for router in (history_router(services), tools_router(services), pages_router(services)):
        app.include_router(router)

    @app.get("/openapi.json", include_in_schema=False)
    def description(request: Request) -> Response:
        return answer(request, msgspec.json.encode(app.openapi()) + b"\n", JSON)

    answer_errors(app, refusals(services.env), Failures())
    return app


def guarded(app: FastAPI, services: Services, trusted: Sequence[Network]) -> PublicEdge:
    """Return the application with its limits.

    Args:
        trusted: networks of proxies whose forwarded headers count.
    """
    return PublicEdge(app, services.metrics, trusted, refusals=refusals(services.env))
