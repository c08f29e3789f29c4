"""Serve the login at a provider of OpenID Connect. Imported only where one is configured: its libraries load slowly."""

import logging
import re
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from api.pages.errors import PageError
from api.pages.forms import Goto
from api.pages.oidc import LoginRefused, Provider, ProviderError
from api.pages.request_checks import LOGIN_START, path_after_login
from api.pages.session import Attempt, UserLogin, new_attempt, new_session, same_text
from api.pages.site import Site
from auth.users import Identity, Stranger, user_at_login
from runtime.log import OngoingWarning

log = logging.getLogger(__name__)
_unavailable: Final = OngoingWarning(log)

CALLBACK: Final = "/login/callback"

_CODE: Final = re.compile(r"[!-~]+")


def add_provider_login(router: APIRouter, site: Site, provider: Provider) -> None:
    """Add the routes that lead to the provider and back."""

    @router.get(LOGIN_START)
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
        network = site.begin_login(request)
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
