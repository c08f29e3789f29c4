"""Read what is public of monitors: never their addresses, or the names of their hosts, which lead to them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.monitor_health import HeldLabel, read_labels
from schema.names import short_name
from schema.tables import assignment_changes, monitor_hours, monitor_presence, monitors, server_scores
from web.model import SYSTEM_SUFFIX, Monitor
from web.parameters import WantedMonitor

_M, _P, _H, _PRESENCE = monitors.c, server_scores.c, monitor_hours.c, monitor_presence.c

MOST_MONITORS: Final = 2000
"""Monitors that are listed."""

MOST_CHANGES: Final = 50
"""Changes of a server's monitors that are listed."""

_NO_SYSTEM: Final = _M.tls_name.not_like(f"%{SYSTEM_SUFFIX}")

# ---- of one server -----------------------------------------------------------------------------------------------

_COLUMNS: Final = (
    *(_M.id, _M.tls_name, _M.type, _M.ip_version, _M.status.label("monitor_status")),
    *(_P.status.label("pair_status"), _P.score_raw, _P.score_ts),
)
OF_SERVER: Final = (
    sa.select(*_COLUMNS)
    .select_from(server_scores.join(monitors, _M.id == _P.monitor_id))
    .where(_P.server_id == sa.bindparam("server_id"), _NO_SYSTEM)
    .order_by(_M.id)
    .limit(MOST_MONITORS)
)
_WITH_PAIR: Final = sa.select(*_COLUMNS).select_from(
    monitors.outerjoin(server_scores, sa.and_(_P.monitor_id == _M.id, _P.server_id == sa.bindparam("server_id")))
)
BY_IDS: Final = _WITH_PAIR.where(_M.id.in_(sa.bindparam("ids", expanding=True)), _NO_SYSTEM).order_by(_M.id)
BY_NAME: Final = (
    _WITH_PAIR.where(_M.tls_name.like(sa.bindparam("prefix"), escape="|"), _NO_SYSTEM).order_by(_M.id).limit(20)
)


def monitors_of(connection: Connection, server_id: int) -> list[Monitor]:
    """Return the monitors and scorers of a server, by id."""
    return [_monitor(row) for row in connection.execute(OF_SERVER, {"server_id": server_id})]


def monitors_by_id(connection: Connection, server_id: int, ids: Collection[int]) -> list[Monitor]:
    """Return these monitors, also those that are no longer paired with the server, by id."""
    if not ids:
        return []
    return [_monitor(row) for row in connection.execute(BY_IDS, {"server_id": server_id, "ids": sorted(ids)})]


def find_monitor(connection: Connection, server_id: int, wanted: WantedMonitor, ip_version: str) -> Monitor | None:
    """Return the monitor with this id or short name: of several, a scorer, or the one of the server's protocol."""
    if wanted.id is not None:
        return next(iter(monitors_by_id(connection, server_id, {wanted.id})), None)
    if wanted.name is None:
        return None
    rows = connection.execute(BY_NAME, {"server_id": server_id, "prefix": _prefix(wanted.name)}).all()
    fitting = [
        row
        for row in rows
        if short_name(row.tls_name).lower() == wanted.name and (row.type == "score" or row.ip_version == ip_version)
    ]
    return _monitor(fitting[0]) if fitting else None


def _prefix(name: str) -> str:
    """Return the pattern of the full names that begin with a short name."""
    escaped = "".join(f"|{char}" if char in "|%_" else char for char in name)
    return f"{escaped}.%"


def _monitor(row: Any) -> Monitor:
    return Monitor(
        id=row.id,
        name=short_name(row.tls_name),
        type=row.type,
        status=row.pair_status or row.monitor_status,
        score=float(row.score_raw or 0.0),
        ts=row.score_ts,
    )


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a monitor's status at a server."""

    monitor: str
    before: str | None
    after: str
    reason: str
    changed_on: datetime


_C: Final = assignment_changes.c
CHANGES: Final = (
    sa.select(_C.monitor_id, _C.before_status, _C.after_status, _C.reason, _C.changed_on, _M.tls_name)
    .select_from(assignment_changes.join(monitors, _M.id == _C.monitor_id))
    .where(_C.server_id == sa.bindparam("server_id"))
    .order_by(_C.changed_on.desc())
    .limit(MOST_CHANGES)
)


def changes_of(connection: Connection, server_id: int) -> list[Change]:
    """Return the newest changes of a server's monitors, the newest first."""
    return [
        Change(short_name(row.tls_name), row.before_status, row.after_status, row.reason, row.changed_on)
        for row in connection.execute(CHANGES, {"server_id": server_id})
    ]


# ---- of all servers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol of a host that measures: a row of ``monitors``, and its health."""

    id: int
    ip_version: str
    status: str
    version: str
    labels: tuple[HeldLabel, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """A host that measures, by one or both protocols."""

    name: str
    location: str
    online: bool | None
    """None: it has never connected."""
    since: datetime | None
    """Since when it is online, or is not."""
    protocols: tuple[Protocol, ...]


_HOSTS: Final = (
    sa.select(_M.id, _M.tls_name, _M.ip_version, _M.status, _M.client_version, _M.location)
    .add_columns(_PRESENCE.online, _PRESENCE.since)
    .select_from(monitors.outerjoin(monitor_presence, _PRESENCE.tls_name == _M.tls_name))
    .where(_M.type == "monitor", _M.status != "deleted", _M.tls_name.is_not(None), _NO_SYSTEM)
)
ALL_HOSTS: Final = _HOSTS.order_by(_M.tls_name, _M.ip_version).limit(MOST_MONITORS)
HOST_BY_NAME: Final = (
    _HOSTS.where(_M.tls_name.like(sa.bindparam("prefix"), escape="|")).order_by(_M.tls_name, _M.ip_version).limit(20)
)


def all_hosts(connection: Connection) -> list[Host]:
    """Return all hosts that measure, by name."""
    return _grouped(connection.execute(ALL_HOSTS).all(), read_labels(connection))


def find_host(connection: Connection, name: str) -> Host | None:
    """Return the host with this short name."""
    rows = [
        row for row in connection.execute(HOST_BY_NAME, {"prefix": _prefix(name)}) if short_name(row.tls_name) == name
    ]
    labels = read_labels(connection, [row.id for row in rows]) if rows else {}
    return next(iter(_grouped(rows, labels)), None)


def _grouped(rows: Iterable[Any], labels: dict[int, tuple[HeldLabel, ...]]) -> list[Host]:
    by_name: dict[str, list[Any]] = {}
    for row in rows:
        by_name.setdefault(row.tls_name, []).append(row)
    return [
        Host(
            name=short_name(name),
            location=found[0].location,
            online=None if found[0].online is None else bool(found[0].online),
            since=found[0].since,
            protocols=tuple(
                Protocol(row.id, row.ip_version or "", row.status, row.client_version, labels.get(row.id, ()))
                for row in found
            ),
        )
        for name, found in by_name.items()
    ]


SERVERS_BY_STATUS: Final = (
    sa.select(_P.status, sa.func.count().label("servers"))
    .where(_P.monitor_id == sa.bindparam("monitor_id"))
    .group_by(_P.status)
)


def servers_by_status(connection: Connection, monitor_id: int) -> dict[str, int]:
    """Return the number of servers that a monitor measures in each status."""
    rows = connection.execute(SERVERS_BY_STATUS, {"monitor_id": monitor_id})
    return {row.status: row.servers for row in rows}


@dataclass(frozen=True, slots=True)
class Hour:
    """What a monitor measured in one hour; see ``monitor_hours``."""

    hour: datetime
    probes: int
    judged: int
    lost: int
    clock_offset: float | None


HOURS: Final = sa.select(_H.hour, _H.probes, _H.judged, _H.lost, _H.clock_offset).where(
    _H.hour >= sa.bindparam("since", type_=sa.DateTime), _H.monitor_id == sa.bindparam("monitor_id")
)


def hours_of(connection: Connection, monitor_id: int, after: datetime) -> list[Hour]:
    """Return the hours of a monitor since a time, the oldest first."""
    rows = connection.execute(HOURS, {"monitor_id": monitor_id, "since": after})
    return sorted((Hour(*row) for row in rows), key=lambda hour: hour.hour)
