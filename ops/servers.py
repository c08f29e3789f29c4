"""Servers in the ledger, as operators find and change them. Each change is one transaction of its caller."""

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
    """What an operator says of a server. ``port`` is 123 when None."""

    ip: str
    ipv: IpVersion
    hostname: str | None = None
    account: str | None = None
    port: int | None = None


def new_server(
    env: Environment, ip: str, *, hostname: str | None = None, account: str | None = None, port: int | None = None
) -> NewServer:
    """The server, with its address in canonical form.

    Raises:
        UsageError: it is no address, or one that is not on the internet (allowed in ``devel``), or the port is
            another than 123 outside ``devel``.
    """
    address = public_address(env, ip)
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"--port {port}: must be 1 to 65535")
    if port not in (None, 123) and env != "devel":
        raise UsageError(f"--port {port}: must be 123; another is for the environment devel")
    _check_hostname(hostname)
    return NewServer(ip=address, ipv=family_of(address), hostname=hostname, account=account, port=port)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChange:
    """What an operator says of a server that is there."""

    hostname: str | None = None
    account: str | None = None
    cleared: frozenset[str] = frozenset()
    """Columns to empty."""

    @property
    def empty(self) -> bool:
        """Whether nothing was given."""
        return self.hostname is None and self.account is None and not self.cleared


_CLEARABLE: Final = {"hostname": "hostname", "account": "account_id"}
"""What operators call them, and their columns."""


def server_change(
    *, hostname: str | None = None, account: str | None = None, unset: Sequence[str] | None = None
) -> ServerChange:
    """What was given, checked as far as the ledger is not needed for it.

    Raises:
        UsageError: a hostname that is none, or a value both set and unset.
    """
    _check_hostname(hostname)
    given = {"hostname": hostname, "account": account}
    for option in unset or ():
        if option not in _CLEARABLE:
            raise UsageError(f"--unset {option!r}: must be one of {', '.join(_CLEARABLE)}")
        if given[option] is not None:
            raise UsageError(f"--unset {option}: and --{option} beside it; give one of them")
    return ServerChange(
        hostname=hostname, account=account, cleared=frozenset(_CLEARABLE[option] for option in unset or ())
    )


def _check_hostname(hostname: str | None) -> None:
    if hostname is not None and not (1 <= len(hostname) <= 255 and hostname.isprintable()):
        raise UsageError(f"--hostname {hostname[:255]!r}: must be 1 to 255 characters on one line")


def add_server(connection: Connection, server: NewServer, now: datetime) -> str:
    """Adds it, or takes back the deletion of one that is there; says what was done.

    Raises:
        OperatorError: it is there already, or there is no such account.
    """
    known = connection.execute(sa.select(servers).where(servers.c.ip == server.ip).with_for_update()).first()
    if known is not None and known.deletion_on is None:
        raise OperatorError(f"server {server.ip}: is there already, with id {known.id}")
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
        done = f"was to be deleted on {known.deletion_on}, stays now"
    REVIEWS.add(connection, [server_id], now)
    REVIEWS.make_due(connection, [server_id], now)
    return f"{server.ip} (id {server_id}): {done}"


def _values(connection: Connection, server: NewServer, flags: str) -> dict[str, Any]:
    """Of the columns that the operator named; the others stay as they are."""
    values: dict[str, Any] = {}
    if server.hostname is not None:
        values["hostname"] = server.hostname
    if server.account is not None:
        values["account_id"] = find_account(connection, server.account)
    if server.port is not None:
        values["flags"] = json.dumps(flags_of(flags) | {"port": server.port})
    return values


def find_server(connection: Connection, text: str, *, lock: bool = False) -> sa.Row[Any]:
    """The row of the server that ``text`` means: an id or an address.

    Raises:
        OperatorError: there is none.
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
        raise OperatorError(f"server {text!r}: there is none ('ntppool-monitor servers list' shows them)")
    return found


def set_server(connection: Connection, text: str, change: ServerChange, now: datetime) -> list[str]:
    """Changes a server, and says of each value what it was and is.

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
        # Monitors of its own account may not measure it.
        REVIEWS.add(connection, [found.id], now)
        REVIEWS.make_due(connection, [found.id], now)
    who = f"{found.ip} (id {found.id})"
    return [changed(who, key, getattr(found, key), value) for key, value in sorted(values.items())]


def delete_server(connection: Connection, text: str, on: date) -> str:
    """Sets the day from which the server is no longer measured; says what was done.

    Raises:
        OperatorError: there is no such server.
    """
    found = find_server(connection, text, lock=True)
    if found.deletion_on is not None and found.deletion_on <= on:
        return f"{found.ip} (id {found.id}): is to be deleted on {found.deletion_on} already"
    connection.execute(sa.update(servers).where(servers.c.id == found.id).values(deletion_on=on))
    return f"{found.ip} (id {found.id}): is to be deleted on {on}"


def list_servers(connection: Connection, *, deleted: bool) -> list[tuple[Any, ...]]:
    """All servers with score and numbers of monitors, by id; those to be deleted only when asked for."""
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
    """How many monitors the server has of each status; scorers have pairs too, but are none."""

    def count(status: str) -> sa.Label[int]:
        is_one = sa.and_(monitors.c.type == "monitor", server_scores.c.status == status)
        return sa.func.count(sa.case((is_one, 1))).label(status)

    return [count(status) for status in ("active", "testing", "candidate")]


def show_server(connection: Connection, text: str) -> list[tuple[str, Any]]:
    """All that the ledger knows of one server, field by field.

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
    """Of the server; where the row has none yet, of its newest pair that has one."""
    if server.stratum is not None:
        return int(server.stratum)
    p = server_scores.c
    known = sa.select(p.stratum).where(p.server_id == server.id, p.stratum.is_not(None))
    stratum: int | None = connection.scalar(known.order_by(p.score_ts.desc()).limit(1))
    return stratum


def monitors_of(connection: Connection, server_id: int) -> list[tuple[Any, ...]]:
    """The server's monitors: active ones first, then by score."""
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
