"""Compose the application: routes for machines, pages for people, and one answer to every error."""

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.answers import Failures
from api.broker_of_agents import BrokerOfAgents
from api.edge import App, Edge, Receive, Refusals, Scope, Send, carry_errors
from api.pages.refusals import refusals
from api.published import Published
from api.routes.access import access_router
from api.routes.host import host_router
from api.routes.public import public_router
from api.routes.registration import registration_router
from api.services import Services


def build_api(
    services: Services, published: Published, broker: BrokerOfAgents, pages: Sequence[APIRouter] = ()
) -> FastAPI:
    """Return the routes and pages, without the limits of :class:`api.edge.Edge`."""
    app = FastAPI(
        title="NTP Pool Monitor: management API",
        version="1",
        summary="Registration, configuration, tokens and certificates of monitoring agents.",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    # Without prefixes: a route's own path is the label of its metrics.
    app.include_router(public_router(services.env, published))
    app.include_router(registration_router(services))
    app.include_router(host_router(services, broker))
    app.include_router(access_router(services))
    for router in pages:
        app.include_router(router, include_in_schema=False)
    _answer_errors(app, refusals(services.env))
    return app


def guarded(api: FastAPI, services: Services) -> Edge:
    """Return the application with its limits."""
    return Edge(api, services.metrics, services.settings.trusted_proxies(), refusals=refusals(services.env))


def _answer_errors(app: FastAPI, answers: Refusals) -> None:
    """Answer the framework's own refusals, and let all other errors reach the edge.

    The framework would answer an unexpected error itself, and then raise it again.
    """
    failures = Failures()

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
