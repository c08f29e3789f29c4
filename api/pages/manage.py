"""Serve the pages on which people see, move and remove their monitors."""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response

from api.pages.errors import PageError, no_such_page
from api.pages.forms import AccountField, FormToken, account_of
from api.pages.request_checks import HOME
from api.pages.session import KeyLogin
from api.pages.site import Site, Visit
from api.pages.store import (
    MOST_FOUND,
    Host,
    account_names,
    accounts_of,
    host_named,
    hosts_of,
    search_hosts,
)
from api.pages.templates import STYLE, STYLE_PATH
from auth.deletion import delete_monitors
from auth.registration.model import Problem, Shown
from auth.registration.move import move_monitor
from runtime.db.engine import reading, transaction

_HOST = "/manage/monitors/{name}"


def add_manage_routes(router: APIRouter, site: Site) -> None:
    """Add the overview, and the routes for one host, whose address is the monitors' full name."""

    @router.get("/manage")
    def show_all(request: Request, q: Annotated[str | None, Query(max_length=100)] = None) -> Response:
        visit = site.required_visit(request)
        return _overview(site, request, visit, q)

    @router.get(_HOST)
    def show_host(request: Request, name: str) -> Response:
        visit = site.required_visit(request)
        return _host_page(site, request, visit, _found(site, visit, name))

    @router.post(_HOST + "/move")
    def move(
        request: Request,
        name: str,
        form_token: FormToken = "",
        account: AccountField = "",
    ) -> Response:
        visit = site.posted(request, form_token, f"/manage/monitors/{name}")
        host, account_id = _found(site, visit, name), account_of(account)
        if account_id is None:
            return _host_page(site, request, visit, host, error="Choose the account to move it to.", about="account")
        done = move_monitor(site.services.engine, host.name, account_id, visit.person)
        if isinstance(done, Problem):
            return _host_page(site, request, visit, host, error=done.sentence, about="account")
        return site.go(request, "/manage", visit.session, notice=f"{host.short} was moved.")

    @router.post(_HOST + "/remove")
    def remove(
        request: Request,
        name: str,
        form_token: FormToken = "",
        sure: Annotated[str, Form(max_length=10)] = "",
    ) -> Response:
        visit = site.posted(request, form_token, f"/manage/monitors/{name}")
        host = _found(site, visit, name)
        if sure != "yes":
            return _host_page(
                site, request, visit, host, error="Tick the box to remove it. Nothing was changed.", about="sure"
            )
        ids, now = [one.id for one in host.protocols], site.services.now()
        transaction(site.services.engine, lambda connection: delete_monitors(connection, ids, now))
        return site.go(request, "/manage", visit.session, notice=f"{host.short} was removed.")

    @router.get(STYLE_PATH)
    def style() -> Response:
        return Response(STYLE, media_type="text/css", headers={"Cache-Control": "public, max-age=31536000, immutable"})

    @router.get("/manage/{rest:path}")
    def nothing(request: Request, rest: str) -> Response:
        if not rest:
            return site.go(request, HOME)
        raise no_such_page()


def _found(site: Site, visit: Visit, name: str) -> Host:
    """Return a host of the person.

    Raises:
        PageError: there is none; the page is the same as for a host of others.
    """
    with reading(site.services.engine) as connection:
        host = host_named(connection, name, visit.person) if len(name) <= 255 else None
    if host is None:
        raise PageError(404, "There is no such monitor", "It was removed, or it belongs to an account of others.")
    return host


def _overview(site: Site, request: Request, visit: Visit, q: str | None) -> Response:
    person, text = visit.person, "".join(c for c in (q or "").strip() if c.isprintable())
    with reading(site.services.engine) as connection:
        mine = account_names(connection, person.account_ids)
        hosts = hosts_of(connection, person.account_ids)
        found = search_hosts(connection, text) if person.operator and q is not None else None
        owners = {one.account_id for one in found or () if one.account_id is not None}
        names = account_names(connection, owners)
    accounts = sorted(mine.values(), key=lambda one: (one.name.casefold(), one.id))
    return site.page(
        request,
        "manage.html",
        visit,
        groups=[(account, [one for one in hosts if one.account_id == account.id]) for account in accounts],
        waiting=_waiting(site, visit),
        by_key=isinstance(visit.session.login, KeyLogin),
        q=text,
        found=found,
        more=found is not None and sum(len(one.protocols) for one in found) >= MOST_FOUND,
        names=names,
    )


def _waiting(site: Site, visit: Visit) -> list[Shown]:
    """Return the registrations that the person may confirm; an operator, also those without an account."""
    listed, now = site.services.registrations.listed, site.services.now()
    if visit.person.operator:
        return listed(now, status="pending")
    return [
        one
        for account_id in sorted(visit.person.account_ids)
        for one in listed(now, status="pending", account_id=account_id)
    ]


def _host_page(site: Site, request: Request, visit: Visit, host: Host, *, error: str = "", about: str = "") -> Response:
    """Return the page of a host.

    Args:
        about: the field that the error is about.
    """
    with reading(site.services.engine) as connection:
        owner = account_names(connection, [] if host.account_id is None else [host.account_id])
        accounts = accounts_of(connection, visit.person)
    others = [one for one in accounts if one.id != host.account_id]
    return site.page(
        request,
        "monitor.html",
        visit,
        status=409 if error else 200,
        error=error,
        about="" if about == "account" and not others else about,
        host=host,
        account=next(iter(owner.values()), None),
        others=others,
        statuses={one.status for one in host.protocols},
    )
