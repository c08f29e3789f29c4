"""Join what all pages need: sessions, the person of a request, checks of forms, templates and security headers."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec
from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment

from api.pages.errors import LoginNeeded, PageError, page_error
from api.pages.login_limit import WITHIN_SECONDS, LoginLimit
from api.pages.person import read_person
from api.pages.request_checks import HOME, is_own_form, network_of_peer
from api.pages.session import (
    ATTEMPT_LIFE,
    PURPOSE,
    SESSION_LIFE,
    VISIT_LIFE,
    Attempt,
    KeyLogin,
    Seals,
    Session,
    UserLogin,
    new_session,
)
from api.pages.templates import HEADERS, error_page, open_templates, render
from api.services import Services
from auth.ended_sessions import has_ended
from auth.registration.model import Confirmer
from runtime.db.engine import reading
from runtime.settings import operator_entries

if TYPE_CHECKING:
    from api.pages.oidc import Provider


@dataclass(frozen=True, slots=True)
class Visit:
    """A request by a person who has logged in."""

    session: Session
    person: Confirmer


@dataclass(frozen=True, slots=True)
class Site:
    """What all pages need."""

    services: Services
    seals: Seals
    provider: "Provider | None"
    operators: frozenset[str]
    templates: Environment = field(default_factory=open_templates)
    limit: LoginLimit = field(default_factory=LoginLimit)

    # ---- requests --------------------------------------------------------------------------------------------------

    def session(self, request: Request) -> Session | None:
        """Return the session of the request's cookie, also that of someone who has not logged in."""
        text = request.cookies.get(_cookie("session", request), "")
        return self.seals.open_session(text, self.services.now())

    def visit(self, request: Request) -> Visit | None:
        """Return the person's visit; ``None`` if nobody has logged in, or their right to has ended."""
        session = self.session(request)
        if session is None or not self._is_usual(session.login):
            return None
        with reading(self.services.engine) as connection:
            if has_ended(connection, session.id):
                return None
            person = read_person(connection, session.login, self.operators, self.services.now())
        return None if person is None else Visit(session, person)

    def _is_usual(self, login: KeyLogin | UserLogin | None) -> bool:
        """Return whether people log in this way; the settings may have changed since this person did."""
        if self.provider is None:
            return isinstance(login, KeyLogin)
        return isinstance(login, UserLogin) and login.issuer == self.provider.issuer

    def required_visit(self, request: Request, goto: str | None = None) -> Visit:
        """Return the person's visit.

        Args:
            goto: the page after the login; default: that of the request.

        Raises:
            LoginNeeded: nobody has logged in.
        """
        visit = self.visit(request)
        if visit is None:
            raise LoginNeeded(request.url.path if goto is None else goto)
        return visit

    def posted(self, request: Request, form_token: str, goto: str) -> Visit:
        """Return the visit of a person who has sent a form of ours.

        Args:
            goto: the page with the form, to show after a login if the session has ended meanwhile.

        Raises:
            LoginNeeded: nobody has logged in.
            PageError: the form was not sent by one of our pages.
        """
        self.check_origin(request)
        visit = self.required_visit(request, goto)
        self.check_form_token(visit.session, form_token)
        return visit

    def check_origin(self, request: Request) -> None:
        """Refuse a form that another site has sent.

        Raises:
            PageError: it is none of ours.
        """
        if not is_own_form(request.headers, self.origin(request)):
            self.services.metrics.refused("form")
            raise PageError(
                403,
                "This form was not sent from here",
                "Your browser says that another page has sent it. Nothing was changed.",
                f"Open {self.origin(request)}{HOME}, and try again there.",
            )

    def check_form_token(self, session: Session | None, form_token: str) -> None:
        """Refuse a form of another session.

        Raises:
            PageError: its token is missing or wrong.
        """
        if session is None or not self.seals.is_form_token(session, form_token):
            self.services.metrics.refused("form")
            raise PageError(
                403,
                "This form is no longer valid",
                "It belongs to a session that has ended, or your browser does not send cookies. Nothing was changed.",
                "Go back, reload the page, and try again.",
            )

    def origin(self, request: Request) -> str:
        """Return our origin as browsers name it, such as ``https://api.pool.example``."""
        url = self.services.settings.api_url or f"{request.url.scheme}://{request.url.netloc}"
        return url.rstrip("/").removesuffix(":443" if url.startswith("https:") else ":80")

    # ---- answers ---------------------------------------------------------------------------------------------------

    def page(
        self, request: Request, template: str, visit: Visit | None, *, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """Return a page. A notice of the session is shown once."""
        notice = visit.session.notice if visit is not None else ""
        token = self.seals.form_token(visit.session) if visit is not None else ""
        common = {"person": visit and visit.person, "notice": notice, "form_token": token}
        text = render(self.templates, self.services.env, template, **{**common, **values})
        answer = HTMLResponse(text, status_code=status)
        if visit is not None and notice:
            self.keep_session(answer, request, msgspec.structs.replace(visit.session, notice=""))
        return answer

    def page_of_visitor(self, request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page with a form for someone who has not logged in; their cookie is for the form only."""
        session = self.session(request)
        if session is None or session.login is not None:
            session = new_session(self.services.now())
        values = {"notice": session.notice, "form_token": self.seals.form_token(session), **values}
        answer = self.page(request, template, None, status=status, **values)
        self.keep_session(answer, request, msgspec.structs.replace(session, notice=""))
        return answer

    def go(self, request: Request, path: str, session: Session | None = None, *, notice: str = "") -> RedirectResponse:
        """Send the browser to another page of ours, where it says ``notice``."""
        answer = RedirectResponse(path, status_code=303)
        if session is not None:
            self.keep_session(answer, request, msgspec.structs.replace(session, notice=notice))
        return answer

    def keep_session(self, answer: Response, request: Request, session: Session) -> None:
        """Let the browser keep a session."""
        life = VISIT_LIFE if session.login is None else SESSION_LIFE
        age = self.services.now().timestamp() - session.begun
        seconds = max(0, int(life.total_seconds() - age))
        _set_cookie(answer, request, "session", self.seals.seal_session(session), seconds)

    def attempt(self, request: Request) -> Attempt | None:
        """Return the login at the provider that has begun in this browser."""
        return self.seals.open_attempt(request.cookies.get(_cookie("login", request), ""), self.services.now())

    def keep_attempt(self, answer: Response, request: Request, attempt: Attempt | None) -> None:
        """Let the browser keep a login at the provider, or forget it."""
        if attempt is None:
            _set_cookie(answer, request, "login", "", 0)
        else:
            seconds = int(ATTEMPT_LIFE.total_seconds())
            _set_cookie(answer, request, "login", self.seals.seal_attempt(attempt), seconds)

    def begin_login(self, request: Request) -> str:
        """Count a login of the request's network, and return the network.

        Raises:
            PageError: there were too many that failed.
        """
        network = network_of_peer(request.client.host if request.client else None)
        if not self.limit.begin(network):
            self.services.metrics.refused("too_many_logins")
            minutes = int(WITHIN_SECONDS // 60)
            raise PageError(
                429,
                "Too many failed logins",
                f"Several logins from your network have failed. Try again in {minutes} minutes.",
                retry_seconds=int(WITHIN_SECONDS),
            )
        return network

    def refuse(self, request: Request, error: Exception, route: str) -> Response:
        """Return the page for an error.

        Args:
            route: its path with the names of its parameters, since their values may be secrets.
        """
        if isinstance(error, LoginNeeded):
            return self.go(request, "/login?" + urlencode({"next": error.goto}))
        return error_page(self.templates, self.services.env, page_error(error, route))


def _provider(services: Services) -> "Provider | None":
    """Return the provider of the settings; ``None`` if there is none, whose libraries are then not loaded."""
    settings = services.settings
    if settings.oidc_issuer is None or settings.oidc_client_id is None:
        return None
    from api.pages.oidc import Provider

    return Provider(settings.oidc_issuer, settings.oidc_client_id, settings.oidc_secret_text(), services.now)


def open_site(services: Services) -> Site:
    """Return what all pages need.

    Raises:
        ConfigurationError: the login is not completely configured.
    """
    return Site(
        services,
        Seals(services.signing_key.derive_secret(PURPOSE)),
        _provider(services),
        frozenset(operator_entries(services.settings.api_operators)),
    )


def page_route(site: Site) -> type[APIRoute]:
    """Return the class of routes that answer every error with a page, and all with the security headers."""

    class PageRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    found = await handle(request)
                except Exception as error:
                    found = site.refuse(request, error, self.path)
                for name, value in HEADERS.items():
                    found.headers.setdefault(name, value)
                return found

            return answer

    return PageRoute


def _cookie(name: str, request: Request) -> str:
    """Return the name of a cookie. With TLS, its prefix keeps other hosts of the domain from setting it."""
    return f"__Host-ntppool-{name}" if request.url.scheme == "https" else f"ntppool-{name}"


def _set_cookie(answer: Response, request: Request, name: str, value: str, seconds: int) -> None:
    answer.set_cookie(
        _cookie(name, request),
        value,
        max_age=seconds,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
