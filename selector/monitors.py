"""All monitors as the ledger has them now: what changes of them is news for servers, agents and pairs."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.engine import to_db
from schema.messages import LIVE, MonitorStatus
from schema.names import IP_VERSIONS, IpVersion
from schema.tables import accounts, monitors
from selector.presence import PSEUDO, is_gone, is_real, last_present, name_of, with_presence
from selector.rows import AccountLimit, account_limit
from selector.store import text


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
        """Whether it probes."""
        return cast(MonitorStatus, self.status) in LIVE


@dataclass(frozen=True, slots=True)
class Registry:
    """All monitors, and the config of the pseudo-monitors by their names."""

    monitors: tuple[MonitorRow, ...]
    defaults: dict[str, str]

    @property
    def names(self) -> set[str]:
        """Of all monitors that have one."""
        return {row.name for row in self.monitors if row.named}


def read_registry(connection: Connection, now: datetime) -> Registry:
    """Everything about the monitors as of ``now`` (aware, UTC). A row without a protocol is left out."""
    moment = to_db(now)
    found = [_row(row, moment) for row in connection.execute(_MONITORS) if row.ipv in IP_VERSIONS]
    pseudo = {row.tls_name: row.config for row in connection.execute(_DEFAULTS)}
    return Registry(tuple(found), pseudo)


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
            text(m.ip_version).label("ipv"),
            text(m.status).label("status"),
            m.ip,
            m.account_id,
            text(accounts.c.flags).label("flags"),
            m.config,
            last_present(),
        )
        .select_from(with_presence(monitors.outerjoin(accounts, accounts.c.id == m.account_id)))
        .where(is_real())
        .order_by(m.id)
    )


_MONITORS: Final = _monitors()
_DEFAULTS: Final = sa.select(monitors.c.tls_name, monitors.c.config).where(monitors.c.tls_name.like(PSEUDO))
