"""Read what the pages show: accounts, and monitors by host."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from auth.registration.model import Confirmer
from runtime.db.engine import from_db
from runtime.db.monitor_health import HeldLabel, read_labels
from schema.messages import MonitorStatus
from schema.names import IpVersion, short_name
from schema.tables import accounts, monitor_presence, monitors

MOST_ACCOUNTS: Final = 1_000
"""Maximum number of accounts to choose from; the command line knows all."""

MOST_FOUND: Final = 300
"""Maximum number of rows that an operator's search shows."""


@dataclass(frozen=True, slots=True)
class AccountName:
    """An account, as people know it."""

    id: int
    name: str
    token: str


@dataclass(frozen=True, slots=True)
class Protocol:
    """A monitor: one protocol of a host."""

    id: int
    ipv: IpVersion
    ip: str
    status: MonitorStatus
    version: str
    last_seen: datetime | None
    labels: tuple[HeldLabel, ...] = ()
    """The labels of its health."""

    @property
    def troubles(self) -> tuple[str, ...]:
        """The labels that describe a fault."""
        return tuple(one.label.value for one in self.labels if one.label.is_trouble)


@dataclass(frozen=True, slots=True)
class Host:
    """A host, with its monitors that are not deleted."""

    name: str
    """The full name, which its monitors share."""
    account_id: int | None
    hostname: str
    location: str
    online: bool | None
    """``None`` if its agent has never connected."""
    protocols: tuple[Protocol, ...]

    @property
    def short(self) -> str:
        """The public part of the name."""
        return short_name(self.name)


def accounts_of(connection: Connection, by: Confirmer, *, also: int | None = None) -> list[AccountName]:
    """Return the accounts that a person may choose from, by name; of an operator, all.

    Args:
        also: an account that an operator's choice includes even if there are too many.
    """
    a = accounts.c
    mine = a.id.in_(sorted(by.account_ids | ({also} if also is not None and by.operator else set())))
    query = sa.select(a.id, a.name, a.id_token).order_by(a.name, a.id)
    found = {row.id: row for row in connection.execute(query.where(mine))}
    if by.operator:
        found |= {row.id: row for row in connection.execute(query.limit(MOST_ACCOUNTS))}
    return sorted(map(_account_name, found.values()), key=lambda one: (one.name.casefold(), one.id))


def account_names(connection: Connection, account_ids: Iterable[int]) -> dict[int, AccountName]:
    """Return accounts by id."""
    a = accounts.c
    rows = connection.execute(sa.select(a.id, a.name, a.id_token).where(a.id.in_(sorted(account_ids))))
    return {row.id: _account_name(row) for row in rows}


def _account_name(row: Any) -> AccountName:
    return AccountName(row.id, row.name or f"account {row.id}", row.id_token or "")


def hosts_of(connection: Connection, account_ids: Collection[int]) -> list[Host]:
    """Return the hosts of accounts, by name."""
    return _hosts(connection, monitors.c.account_id.in_(sorted(account_ids)))


def host_named(connection: Connection, name: str, by: Confirmer) -> Host | None:
    """Return the host of this full name; ``None`` unless the person may act for all of its monitors."""
    m = monitors.c
    rows = [row for row in connection.execute(_query(m.tls_name == name)) if row.tls_name == name]
    if not rows or not all(by.may_act_for(row.account_id) for row in rows):
        return None
    return _host(name, rows, read_labels(connection, [row.id for row in rows]))


def search_hosts(connection: Connection, text: str) -> list[Host]:
    """Return the hosts that an operator searches, by part of a name, an address, or an account's name or token."""
    m, a = monitors.c, accounts.c
    if not text:
        return _hosts(connection, sa.true(), limit=MOST_FOUND)
    part = {"autoescape": True}
    of_account = sa.select(a.id).where(sa.or_(a.name.contains(text, **part), a.id_token == text))
    which = sa.or_(
        m.tls_name.contains(text, **part),
        m.hostname.contains(text, **part),
        m.ip == text,
        m.account_id.in_(of_account),
    )
    return _hosts(connection, which, limit=MOST_FOUND)


def _query(which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    m, p = monitors.c, monitor_presence.c
    columns = (m.id, m.tls_name, m.ip_version, m.ip, m.status, m.account_id, m.hostname, m.location)
    return (
        sa.select(*columns, m.client_version, m.last_seen, p.online)
        .select_from(monitors.outerjoin(monitor_presence, p.tls_name == m.tls_name))
        # Without the pseudo-monitors that hold settings.
        .where(m.type == "monitor", m.status != "deleted", m.tls_name.not_like("%.system"), which)
        .order_by(m.tls_name, m.ip_version)
    )


def _hosts(connection: Connection, which: sa.ColumnElement[bool], limit: int | None = None) -> list[Host]:
    rows = connection.execute(_query(which).limit(limit)).all()
    labels = read_labels(connection, [row.id for row in rows])
    return [_host(name, list(of_host), labels) for name, of_host in groupby(rows, key=lambda row: str(row.tls_name))]


def _host(name: str, rows: list[sa.Row[Any]], labels: Mapping[int, tuple[HeldLabel, ...]]) -> Host:
    protocols = tuple(
        Protocol(
            *(row.id, row.ip_version, row.ip or "", row.status, row.client_version),
            None if row.last_seen is None else from_db(row.last_seen),
            labels.get(row.id, ()),
        )
        for row in rows
    )
    first = rows[0]
    online = None if first.online is None else bool(first.online)
    return Host(name, first.account_id, first.hostname, first.location, online, protocols)
