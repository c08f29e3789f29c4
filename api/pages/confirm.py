"""Serve the pages on which a person confirms or rejects a registration, and sees what has become of it."""

import re
from typing import Annotated, Final

from fastapi import APIRouter, Form, Request, Response

from api.pages.errors import PageError
from api.pages.forms import AccountField, FormToken, account_of, outcome_of
from api.pages.site import Site, Visit
from api.pages.store import accounts_of
from auth.registration.model import CONFIRM_PATH, Confirmer, Outcome, Problem, Shown
from runtime.db.engine import reading
from schema.names import short_name

_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_PATH: Final = CONFIRM_PATH + "{token}"
_APPROVAL: Final = (
    "A new monitor starts to measure when the pool's operators have approved it; for some accounts, at once."
)
_RENEWED: Final = "The monitor goes on as before. Its former key ends ten minutes after the new one was handed out."


def add_confirm_routes(router: APIRouter, site: Site) -> None:
    """Add the routes for one registration, whose address is its verification token."""

    @router.get(_PATH)
    def show(request: Request, token: str) -> Response:
        path = path_of(token)
        visit = site.required_visit(request, path)
        shown = found(site, token, visit.person)
        if shown.status != "pending":
            return site.go(request, f"{path}/status")
        return _form(site, request, visit, shown)

    @router.get(_PATH + "/status")
    def show_status(request: Request, token: str) -> Response:
        visit = site.required_visit(request, f"{path_of(token)}/status")
        shown = found(site, token, visit.person)
        title, sentences, again = words_of(shown)
        return site.page(
            request,
            "status.html",
            visit,
            title=title,
            sentences=sentences,
            again=again,
            shown=shown,
            path=path_of(token),
        )

    @router.post(_PATH)
    def confirm(
        request: Request,
        token: str,
        form_token: FormToken = "",
        account: AccountField = "",
        location: Annotated[str, Form(max_length=100)] = "",
        outcome: Annotated[str, Form(max_length=20)] = "",
    ) -> Response:
        path = path_of(token)
        visit = site.posted(request, form_token, path)
        shown = found(site, token, visit.person)
        account_id, choice = account_of(account), outcome_of(outcome)
        done: object = Problem("Choose the account that the monitor belongs to.", about="account")
        if account_id is not None:
            done = site.services.registrations.confirm(
                shown.verification_token,
                account_id=account_id,
                location=location,
                choice=choice,
                by=visit.person,
                now=site.services.now(),
            )
        if not isinstance(done, Problem):
            return site.go(request, f"{path}/status")
        shown = found(site, token, visit.person)
        if shown.status != "pending":  # confirmed or rejected by someone else at this moment
            return site.go(request, f"{path}/status")
        return _form(site, request, visit, shown, problem=done, account_id=account_id, location=location, choice=choice)

    @router.post(_PATH + "/reject")
    def reject(
        request: Request,
        token: str,
        form_token: FormToken = "",
        reason: Annotated[str, Form(max_length=2_000)] = "",
    ) -> Response:
        path = path_of(token)
        visit = site.posted(request, form_token, path)
        shown = found(site, token, visit.person)
        now = site.services.now()
        site.services.registrations.reject(shown.verification_token, by=visit.person, reason=reason, now=now)
        # Of two people, the first one decides; the page says what has become of it.
        return site.go(request, f"{path}/status")


def path_of(token: str) -> str:
    """Return the path of a registration's page.

    Raises:
        PageError: the token cannot be one of ours.
    """
    # Whoever types it may use capitals.
    if not _TOKEN.fullmatch(token.lower()):
        raise _unknown()
    return CONFIRM_PATH + token.lower()


def found(site: Site, token: str, person: Confirmer) -> Shown:
    """Return the registration, if the person may see it.

    Raises:
        PageError: there is none, or it belongs to an account of others.
    """
    shown = site.services.registrations.show(token.lower(), person, site.services.now())
    if shown is None:
        raise _unknown()
    if shown.account_id is not None and not person.may_act_for(shown.account_id):
        raise PageError(
            403,
            "This host is for another account",
            "It asks to become a monitor of an account to which you do not belong.",
            "If it is your host, run 'ntppool-agent setup' on it again, with -a and the token of your account.",
        )
    return shown


def _unknown() -> PageError:
    return PageError(
        404,
        "There is no such registration",
        "Its address is wrong, or too old: it is valid for 24 hours.",
        "Run 'ntppool-agent setup' on the host again, and open the address that it shows.",
    )


def _form(
    site: Site,
    request: Request,
    visit: Visit,
    shown: Shown,
    *,
    problem: Problem | None = None,
    account_id: int | None = None,
    location: str = "",
    choice: Outcome | None = None,
) -> Response:
    with reading(site.services.engine) as connection:
        accounts = accounts_of(connection, visit.person, also=shown.account_id)
    if shown.renews and not visit.person.operator:
        accounts = [one for one in accounts if one.id == shown.account_id]
    if account_id is None:
        account_id = accounts[0].id if len(accounts) == 1 else shown.account_id
    blocked = any(one.name is None for one in shown.warnings)
    return site.page(
        request,
        "confirm.html",
        visit,
        status=200 if problem is None else 409,
        error="" if problem is None else problem.sentence,
        about="" if problem is None or blocked or not accounts else problem.about,
        blocked=blocked,
        shown=shown,
        path=path_of(shown.verification_token),
        accounts=accounts,
        account_id=account_id if account_id in {one.id for one in accounts} else None,
        location=location,
        # What is possible depends on the account, which may not have been chosen before.
        choose=shown.choose if problem is None else problem.choose or shown.choose,
        outcome=choice,
        approval=_APPROVAL,
    )


def words_of(shown: Shown) -> tuple[str, list[str], bool]:
    """Return title and sentences about what has become of a registration, and whether to look again soon."""
    again = "To register the host anew, run 'ntppool-agent setup' on it again."
    name, then = short_name(shown.name), _RENEWED if shown.renews else _APPROVAL
    match shown.status:
        case "pending":
            return "Not confirmed yet", ["Open its page to confirm or reject it."], True
        case "accepted" if shown.handed_on is None:
            waits = "The host gets its key as soon as it asks, which it does every few seconds while setup runs there."
            return f"{name} is confirmed", [waits, "You may close this page.", then], True
        case "accepted" | "completed":
            return f"{name} is registered", ["The host has its key.", then], False
        case "rejected":
            reason = [f"Reason: {shown.reason}."] if shown.reason else []
            return "This registration was rejected", [*reason, "The host is told so, and gets no key.", again], False
    return (
        "This registration has ended",
        ["It was not finished within 24 hours, or a newer one of its host has replaced it.", again],
        False,
    )
