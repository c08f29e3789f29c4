"""Compose the application: routes for machines, pages for people, and one answer to every error."""

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI

from api.answers import ApiFailures
from api.broker_of_agents import BrokerOfAgents
from api.pages.refusals import refusals
from api.published import Published
from api.routes.certificate import certificate_router
from api.routes.config import config_router
from api.routes.older_token import older_token_router
from api.routes.public import public_router
from api.routes.registration import registration_router
from api.routes.token import token_router
from api.services import Services
from runtime.http.answers import answer_errors
from runtime.http.edge import Edge


def build_api(
    services: Services, published: Published, broker: BrokerOfAgents, pages: Sequence[APIRouter] = ()
) -> FastAPI:
    """Return the routes and pages, without the limits of :class:`runtime.http.edge.Edge`."""
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
    app.include_router(config_router(services, broker))
    app.include_router(token_router(services))
    app.include_router(certificate_router(services))
    app.include_router(older_token_router(services))
    for router in pages:
        app.include_router(router, include_in_schema=False)
    answer_errors(app, refusals(services.env), ApiFailures())
    return app


def guarded(api: FastAPI, services: Services) -> Edge:
    """Return the application with its limits."""
    trusted = services.settings.trusted_proxies()
    return Edge(api, services.metrics, trusted, failures=ApiFailures(), refusals=refusals(services.env))
