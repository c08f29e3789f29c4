"""Serve the pages on which people log in and out."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response

from api.pages.forms import FormToken, Goto
from api.pages.request_checks import LOGIN_START, path_after_login
from api.pages.session import KeyLogin, end_of, new_session
from api.pages.site import Site
from auth.api_key_store import authenticate
from auth.api_keys import Audience
from auth.ended_sessions import end_session
from runtime.db.engine import transaction


def add_login_routes(router: APIRouter, site: Site) -> None:
    """Add the routes for logging in, in the way that is configured, and out."""

    @router.get("/login")
    def show_login(request: Request, goto: Goto = "") -> Response:
        visit, goto = site.visit(request), path_after_login(goto)
        if visit is not None:
            return site.go(request, goto)
        if site.provider is None:
            return site.page_of_visitor(request, "login.html", goto=goto, error="")
        start = f"{LOGIN_START}?" + urlencode({"next": goto})
        return site.page_of_visitor(request, "login_provider.html", start=start, host=site.provider.host)

    @router.post("/logout")
    def log_out(request: Request, form_token: FormToken = "") -> Response:
        site.check_origin(request)
        session = site.session(request)
        if session is not None and session.login is not None:
            site.check_form_token(session, form_token)
            ended, forget_on = session.id, end_of(session)
            transaction(site.services.engine, lambda connection: end_session(connection, ended, forget_on))
        return site.go(request, "/login", new_session(site.services.now()), notice="You are logged out.")

    if site.provider is None:
        _add_key_login(router, site)
    else:
        from api.pages.provider_login import add_provider_login  # whose libraries take long to load

        add_provider_login(router, site, site.provider)


def _add_key_login(router: APIRouter, site: Site) -> None:
    @router.post("/login")
    def log_in(
        request: Request,
        key: Annotated[str, Form(max_length=200)] = "",
        form_token: FormToken = "",
        goto: Annotated[str, Form(alias="next", max_length=2_000)] = "",
    ) -> Response:
        site.check_origin(request)
        site.check_form_token(site.session(request), form_token)
        if site.visit(request) is not None:  # in another tab
            return site.go(request, path_after_login(goto))
        network = site.begin_login(request)
        services, now = site.services, site.services.now()
        try:
            found = authenticate(services.engine, services.peppers, key.strip(), now)
        except Exception:
            site.limit.succeeded(network)  # an outage of the database is no failure of the person
            raise
        if found is None or found.audience is not Audience.ACCOUNT or found.account_id is None:
            services.metrics.refused("login")
            values = {"goto": path_after_login(goto), "error": _why_refused(key.strip())}
            return site.page_of_visitor(request, "login.html", status=403, **values)
        site.limit.succeeded(network)
        return site.go(request, path_after_login(goto), new_session(now, KeyLogin(found.id)))


def _why_refused(text: str) -> str:
    """Return the sentence about a key that is not accepted; it quotes nothing of it."""
    if text.startswith("ntpm_"):
        return "This is the key of a host, which only its agent uses. Log in with the key of your account."
    return (
        "This key is not valid. Check that you have copied all of it. If you have, it was revoked: ask an operator of "
        "the pool for a new one."
    )
