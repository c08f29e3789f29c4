"""Serve the pages on which people log in and out."""

import logging
import re
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from api.pages.errors import PageError
from api.pages.forms import FormToken
from api.pages.login_limit import WITHIN_SECONDS
from api.pages.oidc import LoginRefused, Provider, ProviderError
from api.pages.request_checks import network_of_peer, path_after_login
from api.pages.session import Attempt, KeyLogin, UserLogin, end_of, new_attempt, new_session, same_text
from api.pages.site import Site
from auth.api_key_store import authenticate
from auth.api_keys import Audience
from auth.ended_sessions import end_session
from auth.users import Identity, Stranger, user_at_login
from runtime.db.engine import transaction
from runtime.log import OngoingWarning

log = logging.getLogger(__name__)
_unavailable: Final = OngoingWarning(log)

CALLBACK: Final = "/login/callback"
_START: Final = "/login/start"

Goto = Annotated[str, Query(alias="next", max_length=2_000)]

_CODE: Final = re.compile(r"[!-~]+")


def add_login_routes(router: APIRouter, site: Site) -> None:
    """Add the routes for logging in, in the way that is configured, and out."""

    @router.get("/login")
    def show_login(request: Request, goto: Goto = "") -> Response:
        visit, goto = site.visit(request), path_after_login(goto)
        if visit is not None:
            return site.go(request, goto)
        if site.provider is None:
            return site.page_of_visitor(request, "login.html", goto=goto, error="")
        start = f"{_START}?" + urlencode({"next": goto})
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
        _add_provider_login(router, site, site.provider)


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
        network = begin_login(site, request)
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


def begin_login(site: Site, request: Request) -> str:
    """Count a login of the request's network, and return the network.

    Raises:
        PageError: there were too many that failed.
    """
    network = network_of_peer(request.client.host if request.client else None)
    if not site.limit.begin(network):
        site.services.metrics.refused("too_many_logins")
        minutes = int(WITHIN_SECONDS // 60)
        raise PageError(
            429,
            "Too many failed logins",
            f"Several logins from your network have failed. Try again in {minutes} minutes.",
            retry_seconds=int(WITHIN_SECONDS),
        )
    return network


def _why_refused(text: str) -> str:
    """Return the sentence about a key that is not accepted; it quotes nothing of it."""
    if text.startswith("ntpm_"):
        return "This is the key of a host, which only its agent uses. Log in with the key of your account."
    return (
        "This key is not valid. Check that you have copied all of it. If you have, it was revoked: ask an operator of "
        "the pool for a new one."
    )


def _add_provider_login(router: APIRouter, site: Site, provider: Provider) -> None:
    @router.get(_START)
    def start(request: Request, goto: Goto = "") -> Response:
        attempt = new_attempt(site.services.now(), path_after_login(goto))
        try:
            url = provider.authorization_url(
                site.origin(request) + CALLBACK,
                state=attempt.state,
                nonce=site.seals.nonce(attempt),
                verifier=site.seals.verifier(attempt),
            )
        except ProviderError as error:
            raise _away(provider, error, attempt) from None
        answer = RedirectResponse(url, status_code=303)
        site.keep_attempt(answer, request, attempt)
        return answer

    @router.get(CALLBACK)
    def come_back(
        request: Request,
        code: Annotated[str, Query(max_length=4_000)] = "",
        state: Annotated[str, Query(max_length=400)] = "",
        iss: Annotated[str | None, Query(max_length=400)] = None,
        error: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        attempt = site.attempt(request)
        if attempt is None or not same_text(attempt.state, state):
            raise PageError(
                400, "This login has ended", "It took too long, or was begun in another window.", again="/login"
            )
        if iss is not None and iss != provider.issuer:
            raise _not_logged_in(attempt, "The answer came from another provider.", status=400)
        if error or not _CODE.fullmatch(code):
            raise _not_logged_in(attempt, f"{provider.host} did not log you in.")
        network = begin_login(site, request)
        identity = _identify(site, request, provider, attempt, code)
        user = user_at_login(site.services.engine, identity, site.services.now())
        if isinstance(user, Stranger):
            site.services.metrics.refused("login")
            raise _stranger(user, identity, provider, attempt)
        site.limit.succeeded(network)
        login = UserLogin(user.id, identity.issuer, identity.subject, identity.email or "")
        answer = site.go(request, attempt.goto, new_session(site.services.now(), login))
        site.keep_attempt(answer, request, None)
        return answer


def _identify(site: Site, request: Request, provider: Provider, attempt: Attempt, code: str) -> Identity:
    try:
        return provider.identify(
            code,
            site.origin(request) + CALLBACK,
            nonce=site.seals.nonce(attempt),
            verifier=site.seals.verifier(attempt),
        )
    except LoginRefused as refused:
        site.services.metrics.refused("login")
        log.info("login at %s refused: %s", provider.host, refused)
        raise _not_logged_in(attempt, f"The answer of {provider.host} is not valid.") from None
    except ProviderError as error:
        raise _away(provider, error, attempt) from None


def _again(attempt: Attempt) -> str:
    """Return the address of the login page for another try."""
    return "/login?" + urlencode({"next": attempt.goto})


def _not_logged_in(attempt: Attempt, why: str, *, status: int = 403) -> PageError:
    return PageError(status, "You are not logged in", why, again=_again(attempt))


def _away(provider: Provider, error: ProviderError, attempt: Attempt) -> PageError:
    _unavailable.warning("provider of OpenID Connect %s: %s", provider.issuer, error)
    said = f"{provider.host} does not answer. Try again in a minute."
    return PageError(503, "You cannot log in right now", said, again=_again(attempt))


def _stranger(reason: Stranger, identity: Identity, provider: Provider, attempt: Attempt) -> PageError:
    """Return the page for a person who is no user here, which says what to do."""
    host, title = provider.host, "You are not known here"
    match reason:
        case Stranger.NO_EMAIL:
            said = f"You are logged in at {host}, but it has not verified your e-mail address."
            advice = f"Verify your address at {host}, and log in again."
            return PageError(403, title, said, advice, again=_again(attempt))
        case Stranger.UNKNOWN:
            said = f"You are logged in at {host} as {identity.email}, but no user of the pool has this address."
        case Stranger.OTHER_LOGIN:
            said = f"You are logged in at {host} as {identity.email}, but the user with this address has another login."
        case Stranger.DELETED:
            said = f"You are logged in at {host}, but your user was deleted here."
    advice = "Ask an operator of the pool to add you to an account, and tell them this address."
    return PageError(403, title, said, advice, again=_again(attempt))
