"""Monitors in the ledger, as operators find and change them. Each change is one transaction of its caller.

The selector sees a change of status in the ledger by itself, and moves the monitor's pairs.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ops.errors import OperatorError
from ops.ids import parse_id
from ops.output import Layout
from schema.messages import MonitorStatus
from schema.names import IP_VERSIONS, IpVersion, short_name
from schema.tables import accounts, monitor_presence, monitors, server_scores

Action = Literal["approve", "pause", "resume", "delete"]

_NAME_AND_PROTOCOL: Final = re.compile(rf"(?P<name>[^/]+)(?:/(?P<ipv>{'|'.join(IP_VERSIONS)}))?")

_FROM: Final[dict[Action, frozenset[MonitorStatus]]] = {
    "approve": frozenset({"pending", "testing"}),
    "pause": frozenset({"pending", "testing", "active"}),
    "resume": frozenset({"paused"}),
    "delete": frozenset({"pending", "testing", "active", "paused"}),
}
"""The statuses in which an action makes sense."""


@dataclass(frozen=True, slots=True)
class FoundMonitor:
    """A row of ``monitors``: one monitor on one protocol."""

    id: int
    name: str
    ipv: IpVersion
    status: MonitorStatus

    def __str__(self) -> str:
        return f"{short_name(self.name)}/{self.ipv} (id {self.id})"


def find_monitor(connection: Connection, text: str, *, lock: bool = False) -> FoundMonitor:
    """The one monitor that ``text`` means: an id, or a full or short name, with ``/v4`` or ``/v6`` where it has both.

    Args:
        lock: hold its row until the transaction ends.

    Raises:
        OperatorError: none, or more than one.
    """
    match = _NAME_AND_PROTOCOL.fullmatch(text)
    if match is None:
        raise OperatorError(f"monitor {text!r}: must be an id or a name, a name may end in /v4 or /v6")
    m = monitors.c
    query = sa.select(m.id, m.tls_name, m.ip_version, m.status).where(_is_monitor(), _is_called(match["name"]))
    if match["ipv"]:
        query = query.where(m.ip_version == match["ipv"])
    query = query.order_by(m.tls_name, m.ip_version)
    rows = connection.execute(query.with_for_update() if lock else query).all()
    found = [FoundMonitor(row.id, row.tls_name or "", row.ip_version, row.status) for row in rows]
    if len(found) == 1:
        return found[0]
    if not found:
        raise OperatorError(f"monitor {text!r}: there is none ('ntppool-monitor monitors list' shows them)")
    choices = ", ".join(f"{one.name}/{one.ipv} (id {one.id}, {one.status})" for one in found)
    raise OperatorError(f"monitor {text!r}: may be any of {choices}; name one of them")


def _is_monitor() -> sa.ColumnElement[bool]:
    """Neither a scorer nor one of the pseudo-monitors that hold settings."""
    name = sa.func.coalesce(monitors.c.tls_name, "")
    return sa.and_(monitors.c.type == "monitor", name.not_like("%.system"))


def _is_called(name: str) -> sa.ColumnElement[bool]:
    if (number := parse_id(name)) is not None:
        return monitors.c.id == number
    if "." in name:
        return monitors.c.tls_name == name
    return sa.or_(monitors.c.tls_name == name, monitors.c.tls_name.startswith(f"{name}.", autoescape=True))


def change_monitor(connection: Connection, text: str, action: Action, now: datetime, *, active: bool = False) -> str:
    """Changes the status of a monitor, and says what was done.

    Args:
        active: ``approve`` and ``resume`` lead to active instead of testing.

    Raises:
        OperatorError: there is no such monitor, or its status does not allow the action.
    """
    found = find_monitor(connection, text, lock=True)
    wanted: MonitorStatus = _target(action, active)
    if found.status == wanted:
        return f"{found}: is {wanted} already"
    if found.status not in _FROM[action]:
        allowed = ", ".join(sorted(_FROM[action]))
        raise OperatorError(f"monitor {found}: is {found.status}; only what is {allowed} can be {_PAST[action]}")
    values: dict[str, object] = {"status": wanted}
    if wanted == "deleted":
        # Null sets the row aside in the unique key (ip, is_current), so the address may be registered again.
        values |= {"deleted_on": now, "is_current": None}
    connection.execute(sa.update(monitors).where(monitors.c.id == found.id).values(values))
    return f"{found}: was {found.status}, is {wanted}"


_PAST: Final[dict[Action, str]] = {
    "approve": "approved",
    "pause": "paused",
    "resume": "resumed",
    "delete": "deleted",
}


def _target(action: Action, active: bool) -> MonitorStatus:
    match action:
        case "pause":
            return "paused"
        case "delete":
            return "deleted"
    return "active" if active else "testing"


MONITOR_COLUMNS: Final = (
    *("id", "name", "protocol", "address", "status", "account", "version", "online", "last seen"),
)
MONITOR_LAYOUT: Final = Layout(lesser=("account", "version", "last seen"), names=("name",))


def list_monitors(
    connection: Connection, *, status: MonitorStatus | None, deleted: bool, account_id: int | None = None
) -> list[tuple[Any, ...]]:
    """All monitors (or those of an account) with their presence, by name; deleted ones only when asked for."""
    m, p = monitors.c, monitor_presence.c
    query = (
        sa.select(
            m.id, m.tls_name, m.ip_version, m.ip, m.status, accounts.c.name, m.client_version, p.online, m.last_seen
        )
        .select_from(
            monitors.outerjoin(accounts, accounts.c.id == m.account_id).outerjoin(
                monitor_presence, p.tls_name == m.tls_name
            )
        )
        .where(_is_monitor())
        .order_by(m.tls_name, m.ip_version, m.id)
    )
    if account_id is not None:
        query = query.where(m.account_id == account_id)
    if status is not None:
        query = query.where(m.status == status)
    elif not deleted:
        query = query.where(m.status != "deleted")
    rows = [row._mapping for row in connection.execute(query)]
    # MySQL has numbers for yes and no.
    return [tuple({**row, "online": None if row["online"] is None else bool(row["online"])}.values()) for row in rows]


def show_monitor(connection: Connection, text: str) -> list[tuple[str, str | int | datetime | bool | None]]:
    """All that the ledger knows of one monitor, field by field.

    Raises:
        OperatorError: there is no such monitor.
    """
    found = find_monitor(connection, text)
    m = monitors.c
    row = connection.execute(sa.select(monitors).where(m.id == found.id)).one()
    account = connection.execute(account_name(row.account_id)).first()
    presence = connection.execute(
        sa.select(monitor_presence).where(monitor_presence.c.tls_name == row.tls_name)
    ).first()
    return [
        ("id", row.id),
        ("name", row.tls_name),
        ("protocol", row.ip_version),
        ("address", row.ip),
        ("status", row.status),
        ("account", None if account is None else f"{account.name} (id {account.id})"),
        ("hostname", row.hostname),
        ("location", row.location),
        ("config", row.config),
        ("version", row.client_version),
        ("created", row.created_on),
        ("deleted", row.deleted_on),
        ("last seen", row.last_seen),
        ("last results", row.last_submit),
        ("online", None if presence is None else bool(presence.online)),
        ("online since" if presence is not None and presence.online else "offline since", presence and presence.since),
        *((f"servers as {status}", count) for status, count in _pairs(connection, row.id)),
    ]


def account_name(account_id: int | None) -> sa.Select[Any]:
    """Id and name of an account, and not its flags, which may be broken."""
    return sa.select(accounts.c.id, accounts.c.name).where(accounts.c.id == account_id)


def _pairs(connection: Connection, monitor_id: int) -> list[tuple[str, int]]:
    s = server_scores.c
    query = sa.select(s.status, sa.func.count()).where(s.monitor_id == monitor_id).group_by(s.status)
    counts = {row[0]: row[1] for row in connection.execute(query)}
    return [(status, counts.get(status, 0)) for status in ("active", "testing", "candidate", "paused")]
