"""Keep the routes to servers in the ledger, and read them: for operators, and for those whose server gets no answers.

A route begins in the network of the monitor's host: show other people only those of its addresses that are public.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from api.ops.check import Finding, Plan
from schema.messages import Trace
from schema.tables import monitors, server_traceroutes

MOST_PER_DAY: Final = 100
"""Maximum routes to one server that are kept of any 24 hours: the latest."""

_DAY: Final = timedelta(days=1)
_traces_in = msgspec.json.Decoder(list[Trace])


@dataclass(frozen=True, slots=True)
class KeptRoute:
    """A route that was traced. Times are naive UTC."""

    monitor: str
    ip: str
    traced_on: datetime
    answered: bool
    """Whether the server answered an NTP request at that time."""
    traces: Sequence[Trace]


def keep_route(connection: Connection, plan: Plan, finding: Finding, now: datetime) -> bool:
    """Store a route to a server of the pool, in place of the oldest one if there are too many of a day.

    Args:
        now: naive UTC.

    Returns:
        Whether it was stored: not if the address is no server, or its monitor is gone.
    """
    if plan.server_id is None or finding.result is None or not finding.traces:
        return False
    m, target = monitors.c, plan.wanted.target
    monitor_id = connection.scalar(sa.select(m.id).where(m.tls_name == finding.monitor, m.ip_version == target.ipv))
    if monitor_id is None:
        return False
    _make_room(connection, plan.server_id, now)
    row = {
        "server_id": plan.server_id,
        "monitor_id": monitor_id,
        "ip": target.ip,
        "traced_on": now,
        "answered": not finding.result.no_response,
        "traces": msgspec.json.encode(finding.traces).decode(),
    }
    connection.execute(sa.insert(server_traceroutes).values(row))
    return True


def _make_room(connection: Connection, server_id: int, now: datetime) -> None:
    t = server_traceroutes.c
    of_today = sa.select(t.id).where(t.server_id == server_id, t.traced_on > now - _DAY)
    known = connection.scalars(of_today.order_by(t.traced_on.desc(), t.id.desc())).all()
    if surplus := known[MOST_PER_DAY - 1 :]:
        connection.execute(sa.delete(server_traceroutes).where(t.id.in_(surplus)))


def read_routes(connection: Connection, server_id: int, most: int, since: datetime | None = None) -> list[KeptRoute]:
    """Return the latest routes to a server, newest first; rows that cannot be read are left out.

    Args:
        since: naive UTC; ``None`` for all.
    """
    t = server_traceroutes.c
    query = (
        sa.select(monitors.c.tls_name, t.ip, t.traced_on, t.answered, t.traces)
        .select_from(server_traceroutes.join(monitors, monitors.c.id == t.monitor_id))
        .where(t.server_id == server_id)
        .order_by(t.traced_on.desc(), t.id.desc())
        .limit(most)
    )
    if since is not None:
        query = query.where(t.traced_on >= since)
    found = []
    for row in connection.execute(query):
        traces = _traces(row.traces)
        if traces is not None:
            found.append(KeptRoute(row.tls_name or "", row.ip, row.traced_on, bool(row.answered), traces))
    return found


def _traces(text: str) -> list[Trace] | None:
    try:
        return _traces_in.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
