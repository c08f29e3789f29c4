"""Read all monitors and their presence from the ledger, for the watch, the agents' configuration and the pairs."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.bulk import as_stored
from runtime.db.engine import to_db
from schema.limits import MONITOR_GONE
from schema.messages import LIVE, MonitorStatus
from schema.names import IP_VERSIONS, IpVersion
from schema.tables import accounts, monitor_presence, monitors
from selector.rows import AccountLimit, account_limit

PSEUDO: Final = "%.system"
"""Names of the pseudo-monitors that hold settings, as a pattern for SQL's LIKE."""


def is_gone(last_present: datetime | None, now: datetime) -> bool:
    """Return whether a monitor was last present at least ``MONITOR_GONE`` ago, or never (both times naive, UTC)."""
    return last_present is None or now - last_present >= MONITOR_GONE


def last_present() -> sa.ColumnElement[datetime | None]:
    """Return the column with the time at which a monitor's agent was last present; see :func:`with_presence`.

    That is the time of the last status while it is online, the time at which it went offline, or ``monitors.last_seen``
    if it has never published a status.
    """
    presence = monitor_presence.c
    return sa.case(
        (presence.online.is_(None), monitors.c.last_seen),
        (presence.online, presence.seen),
        else_=presence.since,
    ).label("last_present")


def is_real() -> sa.ColumnElement[bool]:
    """Return the condition that a row of ``monitors`` is a monitor, and neither a scorer nor a pseudo-monitor."""
    m = monitors.c
    return sa.and_(m.type == "monitor", sa.or_(m.tls_name.is_(None), m.tls_name.not_like(PSEUDO)))


def with_presence(source: sa.Join | sa.Table) -> sa.Join:
    """Join ``source``, which contains ``monitors``, with the presence of each monitor if there is one."""
    return source.outerjoin(monitor_presence, monitor_presence.c.tls_name == monitors.c.tls_name)


def name_of(tls_name: str | None, monitor_id: int) -> str:
    """Return the full name of a monitor, or a substitute if it has none."""
    return tls_name or f"monitor {monitor_id}"


@dataclass(frozen=True, slots=True)
class MonitorRow:
    """One protocol of a monitor. ``limit``: how many monitors its account may have at a server."""

    id: int
    name: str
    named: bool
    ipv: IpVersion
    status: str
    ip: str | None
    account_id: int | None
    limit: AccountLimit
    config: str
    gone: bool

    @property
    def live(self) -> bool:
        """Return whether the monitor probes."""
        return cast(MonitorStatus, self.status) in LIVE


@dataclass(frozen=True, slots=True)
class Monitors:
    """All monitors, and the config of the pseudo-monitors by their names."""

    monitors: tuple[MonitorRow, ...]
    defaults: dict[str, str]

    @property
    def names(self) -> set[str]:
        """Return the names of all monitors that have one."""
        return {row.name for row in self.monitors if row.named}


def read_monitors(connection: Connection, now: datetime) -> Monitors:
    """Read all monitors as of ``now`` (aware, UTC). A row without a protocol is omitted."""
    moment = to_db(now)
    found = [_row(row, moment) for row in connection.execute(_MONITORS) if row.ipv in IP_VERSIONS]
    pseudo = {row.tls_name: row.config for row in connection.execute(_DEFAULTS)}
    return Monitors(tuple(found), pseudo)


def _row(row: sa.Row[Any], now: datetime) -> MonitorRow:
    return MonitorRow(
        id=row.id,
        name=name_of(row.tls_name, row.id),
        named=row.tls_name is not None,
        ipv=row.ipv,
        status=row.status,
        ip=row.ip,
        account_id=row.account_id,
        limit=account_limit(row.flags),
        config=row.config or "",
        gone=is_gone(row.last_present, now),
    )


def _monitors() -> sa.Select[Any]:
    m = monitors.c
    return (
        sa.select(
            m.id,
            m.tls_name,
            as_stored(m.ip_version).label("ipv"),
            as_stored(m.status).label("status"),
            m.ip,
            m.account_id,
            as_stored(accounts.c.flags).label("flags"),
            m.config,
            last_present(),
        )
        .select_from(with_presence(monitors.outerjoin(accounts, accounts.c.id == m.account_id)))
        .where(is_real())
        .order_by(m.id)
    )


_MONITORS: Final = _monitors()
_DEFAULTS: Final = sa.select(monitors.c.tls_name, monitors.c.config).where(monitors.c.tls_name.like(PSEUDO))
