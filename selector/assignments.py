"""Derive the assignments of the agents from the ledger; only this module defines which pair is an assignment.

An assignment exists while its monitor is globally live, its pair is candidate, testing or active, and its server is
not deleted. Reviews, new pairs and reconciliation all publish assignments that are read here, never their own
decisions, so that the last published message always agrees with the ledger.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.bulk import JsonText, as_stored, in_this_order, json_rows, rows_table
from runtime.db.system_settings import Intervals
from schema.addresses import why_not_public
from schema.messages import LIVE, Assignment
from schema.names import IP_VERSIONS, Environment, InvalidName, IpVersion, check_monitor_name
from schema.tables import monitors, server_scores, servers
from schema.topics import Topics
from selector.monitors import is_real
from selector.row_warnings import RowWarnings
from selector.store import Pair

NTP_PORT: Final = 123
_ASSIGNED: Final = ("candidate", "testing", "active")


@dataclass(frozen=True, slots=True)
class PairRow:
    """A pair with the fields of its monitor and server that determine its assignment."""

    monitor: str
    ipv: IpVersion
    monitor_status: str
    server_id: int
    ip: str
    deletion_on: date | None
    flags: str
    status: str


@dataclass(frozen=True, slots=True)
class Terms:
    """The other inputs of an assignment: topics with the environment, intervals, and the day."""

    topics: Topics
    intervals: Intervals
    today: date


def read_pairs_of_monitor(connection: Connection, name: str) -> list[PairRow]:
    """Return all pairs of the monitor called ``name``, of both protocols."""
    return _rows(connection, _PAIRS.where(monitors.c.tls_name == name))


def read_pairs(connection: Connection, pairs: Collection[Pair]) -> list[PairRow]:
    """Return those of these pairs that exist."""
    return _rows(connection, _WANTED, wanted=json_rows(sorted(set(pairs))))


def assignment(row: PairRow, terms: Terms, row_warnings: RowWarnings) -> Assignment | None:
    """Return the pair's assignment, or None if it has none."""
    if row.monitor_status not in LIVE or row.status not in _ASSIGNED:
        return None
    if row.deletion_on is not None and row.deletion_on <= terms.today:
        return None
    version = _version(row.ip)
    if version != row.ipv:
        its_monitor = f"its monitor {row.monitor} is {row.ipv}"
        wrong = "is not an IP address" if version is None else f"is IP{version}, but {its_monitor}"
        row_warnings.warn("server", row.server_id, f"address {row.ip!r}: {wrong}, so it is not assigned")
        return None
    if terms.topics.env != "devel" and (kind := _why_not_public(row.ip)):
        row_warnings.warn("server", row.server_id, f"address {row.ip!r}: is {kind}, so it is not assigned")
        return None
    status = cast(Any, row.status)
    return Assignment(
        server_id=row.server_id,
        ip=row.ip,
        port=_port(row, row_warnings) if terms.topics.env == "devel" else NTP_PORT,
        status=status,
        interval=terms.intervals.of(status),
    )


def assignments_by_topic(
    rows: Iterable[PairRow], terms: Terms, row_warnings: RowWarnings
) -> Mapping[str, Assignment | None]:
    """Return for every row the topic of its assignment, and the assignment or None.

    A monitor with an invalid name, or the name of another environment, has no topics; its rows are omitted.
    """
    return {
        terms.topics.assignment(row.monitor, row.ipv, row.server_id): assignment(row, terms, row_warnings)
        for row in rows
        if has_topics(row.monitor, terms.topics, row_warnings)
    }


def has_topics(name: str, topics: Topics, row_warnings: RowWarnings) -> bool:
    """Return whether messages can be published for the monitor called ``name`` in this environment."""
    wrong = _wrong_name(name, topics.env)
    if wrong is not None:
        row_warnings.warn("monitor", name, f"{wrong}; nothing is published for it")
    return wrong is None


def _port(row: PairRow, row_warnings: RowWarnings) -> int:
    """Return the UDP port of the server's flags, or the NTP port."""
    if row.flags in ("", "{}"):
        return NTP_PORT
    try:
        flags = json.loads(row.flags)
        port = flags.get("port", NTP_PORT) if isinstance(flags, dict) else None
    except (ValueError, RecursionError):
        port = None
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        row_warnings.warn("server", row.server_id, f"flags {row.flags[:80]!r}: must be JSON with a port of 1 to 65535")
        return NTP_PORT
    return port


@lru_cache(maxsize=4_096)
def _wrong_name(name: str, env: Environment) -> str | None:
    try:
        check_monitor_name(name, env)
    except InvalidName as wrong:
        return str(wrong)
    return None


@lru_cache(maxsize=16_384)
def _version(ip: str) -> IpVersion | None:
    try:
        return "v4" if ip_address(ip).version == 4 else "v6"
    except ValueError:
        return None


@lru_cache(maxsize=16_384)
def _why_not_public(ip: str) -> str | None:
    return why_not_public(ip_address(ip))


def _pairs(pairs: sa.FromClause = server_scores) -> sa.Select[Any]:
    m, s, ss = monitors.c, servers.c, server_scores.c
    return (
        sa.select(
            m.tls_name,
            as_stored(m.ip_version).label("ipv"),
            as_stored(m.status).label("monitor_status"),
            s.id.label("server_id"),
            s.ip,
            s.deletion_on,
            s.flags,
            as_stored(ss.status).label("status"),
        )
        .select_from(pairs.join(monitors, m.id == ss.monitor_id).join(servers, s.id == ss.server_id))
        .where(is_real(), m.tls_name.is_not(None))
    )


def _wanted_pairs() -> sa.Select[Any]:
    """Build the query for given pairs (server, monitor). It uses no IN list, since MariaDB would scan the table."""
    ss = server_scores.c
    wanted = rows_table("wanted", ss.server_id, ss.monitor_id)
    same = sa.and_(ss.server_id == wanted.c.server_id, ss.monitor_id == wanted.c.monitor_id)
    return in_this_order(_pairs(wanted.join(server_scores, same)))


def _rows(connection: Connection, query: sa.Select[Any], **bound: JsonText) -> list[PairRow]:
    return [_row(row) for row in connection.execute(query, bound) if row.ipv in IP_VERSIONS]


def _row(row: sa.Row[Any]) -> PairRow:
    return PairRow(
        row.tls_name, row.ipv, row.monitor_status, row.server_id, row.ip, row.deletion_on, row.flags, row.status
    )


_PAIRS: Final = _pairs()
_WANTED: Final = _wanted_pairs()
