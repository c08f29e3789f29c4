"""Define the SQL of monitors' health: read an hour of the log, store what each monitor measured, read and write labels.

The log is read some servers at a time, only from the index ``log_scores_review`` by server and time, so that each
statement reads a bounded number of rows, whatever the log's age. All other queries read ranges of the primary key of
``monitor_hours``, which has a row per monitor and hour.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.bulk import BulkDelete, BulkSelect, by_index, insert_or_ignore, upsert
from schema.messages import LIVE, Undecodable, decode_status
from schema.names import IpVersion
from schema.tables import (
    health_progress,
    log_scores,
    monitor_health,
    monitor_hours,
    monitor_presence,
    monitors,
    servers,
)
from scorer.formula import NO_RESPONSE
from selector.health.facts import HOUR
from selector.health.hours import MonitorHour, PairHour
from selector.monitors import is_real, with_presence

_TOGETHER: Final = 500
"""Servers per statement: an answer of a megabyte at 60 monitors. MariaDB turns lists of a thousand into a join."""


# ---- the progress ----------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    id: int
    counted_until: datetime | None


_PROGRESS: Final = sa.select(health_progress.c.counted_until).where(health_progress.c.id == 1)
_BEGIN: Final = insert_or_ignore(health_progress, _Row)


class Progress(NamedTuple):
    """The end of the last counted hour; None before the first one."""

    counted_until: datetime | None


def read_progress(connection: Connection) -> Progress | None:
    """Read the progress; None if it has no row yet."""
    row = connection.execute(_PROGRESS).first()
    return None if row is None else Progress(row.counted_until)


def begin_progress(connection: Connection) -> None:
    """Add the row of the progress, unless another selector has done so."""
    _BEGIN.execute(connection, [_Row(1, None)])


def claim(connection: Connection) -> Progress | None:
    """Claim the count until the end of the transaction; return None if another selector has it."""
    row = connection.execute(_PROGRESS.with_for_update(skip_locked=True)).first()
    return None if row is None else Progress(row.counted_until)


def write_progress(connection: Connection, counted_until: datetime) -> None:
    """Store the end of the last counted hour."""
    connection.execute(sa.update(health_progress).where(health_progress.c.id == 1).values(counted_until=counted_until))


# ---- an hour of the log ----------------------------------------------------------------------------------------------


def first_result(connection: Connection, since: datetime) -> datetime | None:
    """Return the time of the first result from ``since`` on, from the index of the log by time."""
    ts = log_scores.c.ts
    query = by_index(sa.select(ts).where(ts >= since).order_by(ts).limit(1), log_scores, "log_scores_ts")
    found: datetime | None = connection.scalar(query)
    return found


def read_pairs(connection: Connection, hour: datetime) -> Iterator[list[PairHour]]:
    """Yield the results of all pairs in an hour, some servers at a time."""
    ids = connection.scalars(sa.select(servers.c.id).order_by(servers.c.id)).all()
    for first in range(0, len(ids), _TOGETHER):
        yield _PAIRS.rows(connection, {"server_ids": ids[first : first + _TOGETHER], "begin": hour, "end": hour + HOUR})


def _pairs() -> sa.Select[Any]:
    log = log_scores.c
    query = (
        sa.select(
            log.server_id,
            log.monitor_id,
            sa.func.count().label("probes"),
            sa.func.count(sa.case((log.step == NO_RESPONSE.step, 1))).label("lost"),
            sa.func.avg(log.offset).label("offset"),
            # The rtt of a timeout is 0 in the pool's rows, and NULL in some older ones.
            sa.func.avg(sa.func.nullif(log.rtt, 0) * sa.literal_column("1e0", sa.Double)).label("rtt_us"),
        )
        .where(
            log.server_id.in_(sa.bindparam("server_ids", expanding=True)),
            log.ts >= sa.bindparam("begin"),
            log.ts < sa.bindparam("end"),
            log.monitor_id.is_not(None),
        )
        .group_by(log.server_id, log.monitor_id)
    )
    found = by_index(query, log_scores, "log_scores_review").subquery("found")
    return sa.select(*(found.c[name] for name in PairHour._fields))


_PAIRS: Final = BulkSelect(_pairs(), PairHour)


_WRITE_HOURS: Final = upsert(
    monitor_hours, MonitorHour, common=["hour"], key=["hour", "monitor_id"], update=MonitorHour._fields[1:]
)


def write_hours(connection: Connection, hour: datetime, rows: Iterable[MonitorHour]) -> None:
    """Store an hour, in place of an earlier count of it."""
    _WRITE_HOURS.execute(connection, rows, hour=hour)


# ---- facts -----------------------------------------------------------------------------------------------------------


class JudgedMonitor(NamedTuple):
    """A monitor that probes. ``not_probing``: why its agent says that it does not, if it is online."""

    id: int
    name: str | None
    ipv: IpVersion
    not_probing: str | None


def read_all_ids(connection: Connection) -> set[int]:
    """Return the ids of all monitors, whatever their status is."""
    return set(connection.scalars(sa.select(monitors.c.id).where(is_real())))


def read_judged(connection: Connection) -> list[JudgedMonitor]:
    """Read the monitors that probe, by id."""
    m, presence = monitors.c, monitor_presence.c
    query = (
        sa.select(m.id, m.tls_name, m.ip_version, presence.online, presence.status)
        .select_from(with_presence(monitors))
        .where(is_real(), m.status.in_(sorted(LIVE)), m.ip_version.is_not(None))
        .order_by(m.id)
    )
    return [
        JudgedMonitor(
            row.id, row.tls_name, row.ip_version, _not_probing(row.status, row.ip_version) if row.online else None
        )
        for row in connection.execute(query)
    ]


def _not_probing(status: str, ipv: IpVersion) -> str | None:
    """Return the reason in an agent's status why it does not probe this protocol."""
    try:
        state = decode_status(status.encode()).protocols.get(ipv)
    except Undecodable:
        return None
    return None if state is None or state.probing else state.why_not or "no reason given"


def read_monitors_per_hour(connection: Connection, begin: datetime, end: datetime) -> dict[datetime, int]:
    """Return how many monitors delivered results in each hour that has any."""
    hours = monitor_hours.c
    query = sa.select(hours.hour, sa.func.count()).where(hours.hour >= begin, hours.hour < end).group_by(hours.hour)
    return {row[0]: row[1] for row in connection.execute(query)}


def read_delivered(
    connection: Connection, begin: datetime, end: datetime, without: Collection[datetime]
) -> dict[int, int]:
    """Return for each monitor in how many hours it delivered results, apart from those ``without``."""
    hours = monitor_hours.c
    query = (
        sa.select(hours.monitor_id, sa.func.count())
        .where(hours.hour >= begin, hours.hour < end, hours.hour.not_in(sorted(without)))
        .group_by(hours.monitor_id)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def read_first_hours(connection: Connection, before: datetime) -> dict[int, datetime]:
    """Return the first known hour of each monitor."""
    hours = monitor_hours.c
    query = sa.select(hours.monitor_id, sa.func.min(hours.hour)).where(hours.hour < before).group_by(hours.monitor_id)
    return {row[0]: row[1] for row in connection.execute(query)}


def read_hours(connection: Connection, begin: datetime, end: datetime) -> dict[int, dict[datetime, MonitorHour]]:
    """Return the hours of each monitor."""
    hours = monitor_hours.c
    query = sa.select(hours.hour, *(hours[name] for name in MonitorHour._fields))
    found: dict[int, dict[datetime, MonitorHour]] = {}
    for hour, *values in connection.execute(query.where(hours.hour >= begin, hours.hour < end)):
        row = MonitorHour._make(values)
        found.setdefault(row.monitor_id, {})[hour] = row
    return found


# ---- labels ----------------------------------------------------------------------------------------------------------


class LabelRow(NamedTuple):
    """A row of ``monitor_health``."""

    monitor_id: int
    label: str
    since: datetime
    reason: str
    figures: str
    """JSON."""


def read_held(connection: Connection) -> dict[tuple[int, str], datetime]:
    """Return since when each monitor has each of its labels."""
    health = monitor_health.c
    rows = connection.execute(sa.select(health.monitor_id, health.label, health.since))
    return {(row.monitor_id, row.label): row.since for row in rows}


def write_labels(connection: Connection, rows: Sequence[LabelRow], cleared: Collection[tuple[int, str]]) -> None:
    """Store the labels that hold, with their reasons, and remove those that are cleared."""
    _WRITE_LABELS.execute(connection, rows)
    _REMOVE_LABELS.execute(connection, sorted(cleared))


_WRITE_LABELS: Final = upsert(
    monitor_health, LabelRow, key=["monitor_id", "label"], update=["since", "reason", "figures"]
)
_REMOVE_LABELS: Final = BulkDelete(monitor_health)
