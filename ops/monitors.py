"""Find and change monitors in the ledger for operators.

Each change runs in a transaction of its caller. The selector detects a change of status in the ledger by itself, and
moves the monitor's pairs.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ops.errors import OperatorError
from ops.ids import parse_id
from ops.output import Layout
from runtime.db.monitor_health import HeldLabel, read_labels
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
"""The statuses in which an action is allowed."""


@dataclass(frozen=True, slots=True)
class FoundMonitor:
    """A row of ``monitors``: one monitor over one protocol."""

    id: int
    name: str
    ipv: IpVersion
    status: MonitorStatus

    def __str__(self) -> str:
        return f"{short_name(self.name)}/{self.ipv} (id {self.id})"


def find_monitor(connection: Connection, text: str, *, lock: bool = False) -> FoundMonitor:
    """Return the monitor that ``text`` identifies: an id, or a full or short name, optionally with ``/v4`` or ``/v6``.

    Args:
        lock: hold its row until the transaction ends.

    Raises:
        OperatorError: no monitor matches, or more than one.
    """
    match = _NAME_AND_PROTOCOL.fullmatch(text)
    if match is None:
        raise OperatorError(f"monitor {text!r}: must be an id or a name; a name may end in /v4 or /v6")
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
        raise OperatorError(f"monitor {text!r}: not found (see 'ntppool-monitor monitors list')")
    choices = ", ".join(f"{one.name}/{one.ipv} (id {one.id}, {one.status})" for one in found)
    raise OperatorError(f"monitor {text!r}: is ambiguous: {choices}; give one of these")


def monitor_name(connection: Connection, text: str) -> str | None:
    """Return the full name that ``text`` identifies, which both protocols of a monitor share; None if there is none.

    Raises:
        OperatorError: it is the short name of several monitors.
    """
    query = sa.select(monitors.c.tls_name).where(_is_monitor(), _is_called(text)).distinct()
    names = sorted(name for name in connection.scalars(query) if name)
    if len(names) > 1:
        raise OperatorError(f"monitor {text!r}: is ambiguous: {', '.join(names)}; give one of these")
    return names[0] if names else None


def _is_monitor() -> sa.ColumnElement[bool]:
    """Exclude scorers and the pseudo-monitors that hold settings."""
    name = sa.func.coalesce(monitors.c.tls_name, "")
    return sa.and_(monitors.c.type == "monitor", name.not_like("%.system"))


def _is_called(name: str) -> sa.ColumnElement[bool]:
    if (number := parse_id(name)) is not None:
        return monitors.c.id == number
    if "." in name:
        return monitors.c.tls_name == name
    return sa.or_(monitors.c.tls_name == name, monitors.c.tls_name.startswith(f"{name}.", autoescape=True))


def change_monitor(connection: Connection, text: str, action: Action, now: datetime, *, active: bool = False) -> str:
    """Change the status of a monitor and return a line that describes the change.

    Args:
        active: ``approve`` and ``resume`` lead to active instead of testing.

    Raises:
        OperatorError: there is no such monitor, or its status does not allow the action.
    """
    found = find_monitor(connection, text, lock=True)
    wanted: MonitorStatus = _target(action, active)
    if found.status == wanted:
        return f"{found}: is already {wanted}"
    if found.status not in _FROM[action]:
        allowed = " or ".join(sorted(_FROM[action]))
        raise OperatorError(f"monitor {found}: is {found.status}; it can only be {_PAST[action]} when it is {allowed}")
    if wanted == "deleted":
        return f"{found}: was {found.status}, is deleted" + _delete(connection, found.id, now)
    connection.execute(sa.update(monitors).where(monitors.c.id == found.id).values(status=wanted))
    return f"{found}: was {found.status}, is {wanted}"


def _delete(connection: Connection, monitor_id: int, now: datetime) -> str:
    """Delete a monitor, and describe what ended with it."""
    # Imported here, since it loads cryptography, which no other command for monitors needs.
    from auth.deletion import delete_monitors
    from runtime.db.engine import from_db

    ended = delete_monitors(connection, [monitor_id], from_db(now))
    counts = (("certificates", len(ended.certificates)), ("API keys", len(ended.keys)))
    return "".join(f"; {what} revoked: {count}" for what, count in counts if count)


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
    *("id", "name", "protocol", "address", "status", "account", "version", "online", "last seen", "labels"),
)
MONITOR_LAYOUT: Final = Layout(lesser=("account", "version", "last seen"), names=("name",), folded=("labels",))


def list_monitors(
    connection: Connection, *, status: MonitorStatus | None, deleted: bool, account_id: int | None = None
) -> list[tuple[Any, ...]]:
    """Return all monitors (or those of an account) with presence and labels, by name; deleted ones only on request."""
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
    labels = read_labels(connection)
    return [
        tuple({**row, "online": _known(row["online"]), "labels": _names(labels.get(row["id"]))}.values())
        for row in rows
    ]


def _known(online: Any) -> bool | None:
    """Return a boolean of the ledger, which MySQL returns as a number."""
    return None if online is None else bool(online)


def _names(held: Sequence[HeldLabel] | None) -> tuple[str, ...]:
    return tuple(one.label.value for one in held or ())


def show_monitor(connection: Connection, text: str) -> tuple[list[tuple[str, Any]], tuple[HeldLabel, ...]]:
    """Return all fields of one monitor in the ledger, and the labels of its health.

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
    labels = read_labels(connection, [row.id]).get(row.id, ())
    fields: list[tuple[str, Any]] = [
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
    return fields, labels


def account_name(account_id: int | None) -> sa.Select[Any]:
    """Select id and name of an account, but not its flags, which may be invalid."""
    return sa.select(accounts.c.id, accounts.c.name).where(accounts.c.id == account_id)


def _pairs(connection: Connection, monitor_id: int) -> list[tuple[str, int]]:
    s = server_scores.c
    query = sa.select(s.status, sa.func.count()).where(s.monitor_id == monitor_id).group_by(s.status)
    counts = {row[0]: row[1] for row in connection.execute(query)}
    return [(status, counts.get(status, 0)) for status in ("active", "testing", "candidate", "paused")]
