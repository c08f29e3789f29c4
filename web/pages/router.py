"""Answer people: the search, the page of a server, monitors, how scores come about, and the state of the pool."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.engine import Connection

from runtime.db.system_settings import PoolSettingsReader
from runtime.http.answers import Declined
from scorer.policy import HANDED_OUT_ABOVE
from web.addresses import Asked, parse_server
from web.answers import HTML, answer, moved
from web.caching import FOREVER
from web.model import Server
from web.pages.server import read_server
from web.routes.parts import server_named
from web.scoring import FACTS, Computed, compute, rules, tier_words
from web.services import Services
from web.store.monitors import Hour, all_hosts, find_host, hours_of, servers_by_status
from web.store.pool import MINUTES
from web.store.servers import find_server, servers_called
from web.templates import STYLE, STYLE_PATH, render

DAYS: Final = 7
"""Days of a monitor's health that are shown."""

Text = Annotated[str | None, Query(max_length=300)]


def pages_router(services: Services) -> APIRouter:
    """Return the routes of the pages."""
    router = APIRouter(include_in_schema=False)
    settings = PoolSettingsReader(services.engine)

    def page(request: Request, name: str, **values: Any) -> Response:
        return answer(request, render(services.env, name, **values), HTML)

    @router.get(STYLE_PATH)
    def style(request: Request) -> Response:
        return answer(request, STYLE, "text/css; charset=utf-8", FOREVER)

    @router.get("/")
    def home(request: Request, q: Text = None) -> Response:
        now = services.now()
        asked = (q or "").strip()
        found = services.read(lambda c: search(c, asked, now)) if asked else []
        if len(found) == 1:
            return moved(f"/scores/{found[0].ip}", 302)
        pool = services.read(lambda c: services.pool.get(c, now))
        return page(request, "home.html", q=asked, found=found, pool=pool, limit=HANDED_OUT_ABOVE)

    @router.get("/scores/{server}")
    def scores(request: Request, server: str) -> Response:
        now = services.now()
        asked = parse_server(server)
        if asked.hostname is not None:
            return by_name(services, asked.hostname, now)
        shown = services.read(lambda c: read_server(c, server_named(c, server, now), now))
        if server != shown.server.ip:
            return moved(f"/scores/{shown.server.ip}")
        return page(request, "server.html", it=shown, now=now, limit=HANDED_OUT_ABOVE)

    @router.get("/s/{server}")
    def short(server: str) -> Response:
        now = services.now()
        asked = parse_server(server)
        if asked.hostname is not None:
            return by_name(services, asked.hostname, now)
        return moved(f"/scores/{services.read(lambda c: server_named(c, server, now)).ip}")

    @router.get("/monitors")
    def monitors(request: Request) -> Response:
        return page(request, "monitors.html", hosts=services.read(all_hosts))

    @router.get("/monitors/{name}")
    def monitor(request: Request, name: str) -> Response:
        return page(request, "monitor.html", days=DAYS, **services.read(lambda c: _monitor(c, name, services.now())))

    @router.get("/about/scoring")
    def scoring(
        request: Request,
        offset: Annotated[float | None, Query(ge=-1e9, le=1e9, allow_inf_nan=False)] = None,
        stratum: Annotated[int, Query(ge=0, le=255)] = 2,
        leap: Annotated[int, Query(ge=0, le=3)] = 0,
    ) -> Response:
        computed = None if offset is None else compute(offset / 1000, stratum, leap)
        tiers = tier_words(settings.get().monitors)
        given = {"offset": offset, "stratum": stratum, "leap": leap}
        return page(
            request, "scoring.html", rules=rules(), tiers=tiers, limit=HANDED_OUT_ABOVE, **_about(given, computed)
        )

    @router.get("/status")
    def status(request: Request) -> Response:
        now = services.now()
        pool = services.read(lambda c: services.pool.get(c, now))
        return page(request, "status.html", pool=pool, minutes=MINUTES)

    return router


def search(connection: Connection, text: str, now: datetime) -> list[Server]:
    """Return the servers with this address, id or name."""
    asked = parse_server(text)
    if asked.hostname is not None:
        return servers_called(connection, asked.hostname, now.date())
    found = find_server(connection, Asked(asked.id, asked.ip), now.date())
    return [] if found is None else [found]


def by_name(services: Services, hostname: str, now: datetime) -> Response:
    """Lead to the server of a name; to the search if there are several.

    Raises:
        Declined: there is none.
    """
    found = services.read(lambda c: servers_called(c, hostname, now.date()))
    if not found:
        raise Declined(404, "server", "server not found")
    if len(found) == 1:
        return moved(f"/scores/{found[0].ip}")
    return moved(f"/?{urlencode({'q': hostname}, quote_via=quote)}", 302)


def _monitor(connection: Connection, name: str, now: datetime) -> dict[str, Any]:
    host = find_host(connection, name)
    if host is None:
        raise Declined(404, "monitor", "monitor not found")
    after = now.replace(minute=0, second=0, microsecond=0) - timedelta(days=DAYS)
    protocols = [
        (one, servers_by_status(connection, one.id), by_day(hours_of(connection, one.id, after)))
        for one in host.protocols
    ]
    return {"host": host, "protocols": protocols}


def by_day(hours: list[Hour]) -> list[dict[str, Any]]:
    """Return what a monitor measured on each day, the newest first."""
    days: dict[str, list[Hour]] = {}
    for hour in hours:
        days.setdefault(hour.hour.date().isoformat(), []).append(hour)
    return [_day(day, days[day]) for day in sorted(days, reverse=True)]


def _day(day: str, hours: list[Hour]) -> dict[str, Any]:
    judged, offsets = sum(hour.judged for hour in hours), [h.clock_offset for h in hours if h.clock_offset is not None]
    return {
        "day": day,
        "probes": sum(hour.probes for hour in hours),
        "lost": sum(hour.lost for hour in hours) / judged if judged else None,
        "lowest": min(offsets, default=None),
        "highest": max(offsets, default=None),
    }


def _about(given: dict[str, Any], computed: Computed | None) -> dict[str, Any]:
    return {"facts": FACTS, "given": given, "computed": computed}
