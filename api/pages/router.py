"""Join the pages into one router."""

from fastapi import APIRouter

from api.pages.confirm import add_confirm_routes
from api.pages.login import add_login_routes
from api.pages.manage import add_manage_routes
from api.pages.site import open_site, page_route
from api.services import Services


def pages_router(services: Services) -> APIRouter:
    """Return the routes of people's pages: ``/login``, ``/logout`` and everything below ``/manage``.

    They are no part of the API's description, which is for machines.

    Raises:
        ConfigurationError: the login is not completely configured.
    """
    site = open_site(services)
    router = APIRouter(route_class=page_route(site), include_in_schema=False)
    add_login_routes(router, site)
    add_confirm_routes(router, site)
    add_manage_routes(router, site)
    return router
