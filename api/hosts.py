"""Read the monitor of a host: its name, and both of its protocols."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from schema.messages import MonitorStatus
from schema.names import IpVersion
from schema.tables import monitors

CONNECTS: Final[frozenset[MonitorStatus]] = frozenset({"testing", "active", "paused"})
"""Statuses in which a monitor may log in to the broker; a paused one, so that it learns when it is live again."""


class MonitorRow(NamedTuple):
    """One protocol of a monitor, as the ledger has it."""

    id: int
    name: str
    ipv: IpVersion
    ip: str | None
    status: MonitorStatus


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol of a host; the address is empty if a deleted one has lost it."""

    ip: str
    status: MonitorStatus


@dataclass(frozen=True, slots=True)
class Host:
    """The monitor of a host."""

    name: str
    protocols: Mapping[IpVersion, Protocol]

    @property
    def may_connect(self) -> bool:
        """Return whether it may log in to the broker, by any of its protocols."""
        return any(protocol.status in CONNECTS for protocol in self.protocols.values())

    @property
    def is_deleted(self) -> bool:
        """Return whether all of its protocols are deleted."""
        return all(protocol.status == "deleted" for protocol in self.protocols.values())


def host_of(connection: Connection, monitor_ids: Collection[int]) -> Host | None:
    """Return the host with these monitors; ``None`` if there is none of them."""
    m = monitors.c
    query = (
        sa.select(m.id, m.tls_name, m.ip_version, m.ip, m.status)
        .where(m.id.in_(sorted(monitor_ids)), m.type == "monitor")
        .where(m.tls_name.is_not(None), m.ip_version.is_not(None))
        .order_by(m.id)
    )
    return choose_host([MonitorRow._make(row) for row in connection.execute(query)])


def choose_host(rows: Sequence[MonitorRow]) -> Host | None:
    """Return the host that a key is for; ``None`` without rows.

    A key covers the monitors of one name. Should it cover several, the first that is not deleted counts.
    """
    if not rows:
        return None
    name = next((row.name for row in rows if row.status != "deleted"), rows[0].name)
    return Host(name, {row.ipv: Protocol(row.ip or "", row.status) for row in rows if row.name == name})
