"""Find and change servers in the ledger for operators. Each change runs in a transaction of its caller."""

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ops.accounts import find_account, flags_of
from ops.errors import OperatorError, UsageError
from ops.ids import parse_id
from ops.monitor_edits import family_of, public_address
from ops.monitors import account_name
from ops.output import changed
from runtime.db.queue import REVIEWS
from schema.names import Environment, IpVersion
from schema.tables import accounts, monitors, server_scores, servers, servers_monitor_review


@dataclass(frozen=True, slots=True, kw_only=True)
class NewServer:
    """The values that an operator gave for a new server. ``port`` is 123 when ``None``."""

    ip: str
    ipv: IpVersion
    hostname: str | None = None
    account: str | None = None
    port: int | None = None


def new_server(
    env: Environment, ip: str, *, hostname: str | None = None, account: str | None = None, port: int | None = None
) -> NewServer:
    """Validate the values of a new server, and bring its address into canonical form.

    Raises:
        UsageError: the address is invalid, or not public (allowed in ``devel``), or the port is not 123 (required
            outside ``devel``).
    """
    address = public_address(env, ip)
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"--port {port}: must be 1 to 65535")
    if port not in (None, 123) and env != "devel":
        raise UsageError(f"--port {port}: must be 123; others are allowed in the environment devel")
    _check_hostname(hostname)
    return NewServer(ip=address, ipv=family_of(address), hostname=hostname, account=account, port=port)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChange:
    """The values that an operator gave for an existing server."""

    hostname: str | None = None
    account: str | None = None
    cleared: frozenset[str] = frozenset()
    """Columns to clear."""

    @property
    def empty(self) -> bool:
        """Return whether nothing was given."""
        return self.hostname is None and self.account is None and not self.cleared


_CLEARABLE: Final = {"hostname": "hostname", "account": "account_id"}
"""Option names, and the columns that they clear."""


def server_change(
    *, hostname: str | None = None, account: str | None = None, unset: Sequence[str] | None = None
) -> ServerChange:
    """Validate the given values, as far as this is possible without the ledger.

    Raises:
        UsageError: the hostname is invalid, or a value is both set and unset.
    """
    _check_hostname(hostname)
    given = {"hostname": hostname, "account": account}
    for option in unset or ():
        if option not in _CLEARABLE:
            raise UsageError(f"--unset {option!r}: must be one of {', '.join(_CLEARABLE)}")
        if given[option] is not None:
            raise UsageError(f"--unset {option}: conflicts with --{option}; give only one of them")
    return ServerChange(
        hostname=hostname, account=account, cleared=frozenset(_CLEARABLE[option] for option in unset or ())
    )


def _check_hostname(hostname: str | None) -> None:
    if hostname is not None and not (1 <= len(hostname) <= 255 and hostname.isprintable()):
        raise UsageError(f"--hostname {hostname[:255]!r}: must be 1 to 255 characters on one line")


def add_server(connection: Connection, server: NewServer, now: datetime) -> str:
    """Add a server, or revert the deletion of an existing one, and return a line that describes the change.

    Raises:
        OperatorError: it exists already, or there is no such account.
    """
    known = connection.execute(sa.select(servers).where(servers.c.ip == server.ip).with_for_update()).first()
    if known is not None and known.deletion_on is None:
        raise OperatorError(f"server {server.ip}: already exists (id {known.id})")
    values = _values(connection, server, "{}" if known is None else known.flags)
    if known is None:
        result = connection.execute(
            sa.insert(servers).values(ip=server.ip, ip_version=server.ipv, in_pool=1, created_on=now, **values)
        )
        assert result.inserted_primary_key is not None
        server_id = int(result.inserted_primary_key[0])
        done = "added"
    else:
        server_id = known.id
        connection.execute(sa.update(servers).where(servers.c.id == server_id).values(deletion_on=None, **values))
        done = f"deletion on {known.deletion_on} reverted"
    REVIEWS.add(connection, [server_id], now)
    REVIEWS.make_due(connection, [server_id], now)
    return f"{server.ip} (id {server_id}): {done}"


def _values(connection: Connection, server: NewServer, flags: str) -> dict[str, Any]:
    """Return the values of the columns that the operator named; the others stay unchanged."""
    values: dict[str, Any] = {}
    if server.hostname is not None:
        values["hostname"] = server.hostname
    if server.account is not None:
        values["account_id"] = find_account(connection, server.account)
    if server.port is not None:
        values["flags"] = json.dumps(flags_of(flags) | {"port": server.port})
    return values


def find_server(connection: Connection, text: str, *, lock: bool = False) -> sa.Row[Any]:
    """Return the row of the server that ``text`` identifies: an id or an address.

    Raises:
        OperatorError: there is no such server.
    """
    try:
        wanted = servers.c.ip == str(ipaddress.ip_address(text))
    except ValueError:
        number = parse_id(text)
        if number is None:
            raise OperatorError(f"server {text!r}: must be an id or an address") from None
        wanted = servers.c.id == number
    query = sa.select(servers).where(wanted)
    found = connection.execute(query.with_for_update() if lock else query).first()
    if found is None:
        raise OperatorError(f"server {text!r}: not found (see 'ntppool-monitor servers list')")
    return found


def set_server(connection: Connection, text: str, change: ServerChange, now: datetime) -> list[str]:
    """Change a server and return a line with the old and the new value for each change.

    Raises:
        OperatorError: there is no such server or account.
    """
    found = find_server(connection, text, lock=True)
    values: dict[str, Any] = dict.fromkeys(change.cleared)
    if change.hostname is not None:
        values["hostname"] = change.hostname
    if change.account is not None:
        values["account_id"] = find_account(connection, change.account)
    connection.execute(sa.update(servers).where(servers.c.id == found.id).values(values))
    if "account_id" in values:
        # Monitors of the server's own account must not measure it.
        REVIEWS.add(connection, [found.id], now)
        REVIEWS.make_due(connection, [found.id], now)
    who = f"{found.ip} (id {found.id})"
    return [changed(who, key, getattr(found, key), value) for key, value in sorted(values.items())]


def delete_server(connection: Connection, text: str, on: date) -> str:
    """Set the day from which the server is no longer measured, and return a line that describes the change.

    Raises:
        OperatorError: there is no such server.
    """
    found = find_server(connection, text, lock=True)
    if found.deletion_on is not None and found.deletion_on <= on:
        return f"{found.ip} (id {found.id}): is already scheduled for deletion on {found.deletion_on}"
    connection.execute(sa.update(servers).where(servers.c.id == found.id).values(deletion_on=on))
    return f"{found.ip} (id {found.id}): is scheduled for deletion on {on}"


def list_servers(connection: Connection, *, deleted: bool) -> list[tuple[Any, ...]]:
    """Return all servers by id, with scores and numbers of monitors; servers to be deleted only on request."""
    s, p = servers.c, server_scores.c
    query = (
        sa.select(s.id, s.ip, s.hostname, accounts.c.name, s.score_raw, s.score_ts, *_counts(), s.deletion_on)
        .select_from(
            servers.outerjoin(accounts, accounts.c.id == s.account_id)
            .outerjoin(server_scores, p.server_id == s.id)
            .outerjoin(monitors, monitors.c.id == p.monitor_id)
        )
        .group_by(s.id, s.ip, s.hostname, accounts.c.name, s.score_raw, s.score_ts, s.deletion_on)
        .order_by(s.id)
    )
    if not deleted:
        query = query.where(s.deletion_on.is_(None))
    return [tuple(row) for row in connection.execute(query)]


def _counts() -> list[sa.Label[int]]:
    """Count the server's monitors by status, without scorers, which also have pairs."""

    def count(status: str) -> sa.Label[int]:
        is_one = sa.and_(monitors.c.type == "monitor", server_scores.c.status == status)
        return sa.func.count(sa.case((is_one, 1))).label(status)

    return [count(status) for status in ("active", "testing", "candidate")]


def show_server(connection: Connection, text: str) -> list[tuple[str, Any]]:
    """Return all fields of one server in the ledger.

    Raises:
        OperatorError: there is no such server.
    """
    row = find_server(connection, text)
    account = connection.execute(account_name(row.account_id)).first()
    review = connection.execute(
        sa.select(servers_monitor_review).where(servers_monitor_review.c.server_id == row.id)
    ).first()
    return [
        ("id", row.id),
        ("address", row.ip),
        ("hostname", row.hostname),
        ("account", None if account is None else f"{account.name} (id {account.id})"),
        ("score", row.score_raw),
        ("scored", row.score_ts),
        ("stratum", _stratum(connection, row)),
        ("flags", row.flags),
        ("created", row.created_on),
        ("deleted from", row.deletion_on),
        ("last review", review and review.last_review),
        ("next review", review and review.next_review),
        ("last change", review and review.last_change),
    ]


def _stratum(connection: Connection, server: sa.Row[Any]) -> int | None:
    """Return the server's stratum; if its row has none yet, that of its newest pair with one."""
    if server.stratum is not None:
        return int(server.stratum)
    p = server_scores.c
    known = sa.select(p.stratum).where(p.server_id == server.id, p.stratum.is_not(None))
    stratum: int | None = connection.scalar(known.order_by(p.score_ts.desc()).limit(1))
    return stratum


def monitors_of(connection: Connection, server_id: int) -> list[tuple[Any, ...]]:
    """Return the server's monitors: active ones first, then by score."""
    p, m = server_scores.c, monitors.c
    order = sa.case({"active": 0, "testing": 1, "candidate": 2}, value=p.status, else_=3)
    query = (
        sa.select(
            m.id, m.tls_name, p.status, p.score_raw, p.score_ts, p.stratum, p.constraint_violation_type, p.pause_reason
        )
        .select_from(server_scores.join(monitors, m.id == p.monitor_id))
        .where(p.server_id == server_id, m.type == "monitor")
        .order_by(order, p.score_raw.desc(), m.id)
    )
    return [tuple(row) for row in connection.execute(query)]
