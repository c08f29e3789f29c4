"""Read from the ledger which monitors have lost their keys or certificates, or were deleted.

All times are naive UTC, as in the ledger.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from auth.api_keys import Audience
from schema.tables import api_key_ends, api_keys, api_keys_monitors, certificates, monitors

_REPLACED: Final = "replaced"
"""Reason of the end of a key that another one has replaced. Its tokens stay valid: the host is the same."""

_OURS: Final = "hs256:"
"""Beginning of the hashes of keys that give tokens; another program's keys give none."""


@dataclass(frozen=True, slots=True)
class KeyLife:
    """The life of an API key; ``created_on`` has whole seconds, truncated."""

    created_on: datetime
    ends_on: datetime | None
    revoked: bool
    """It ended, or will, by a revocation."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """What the ledger says of monitors, by their names."""

    keys: Mapping[str, Sequence[KeyLife]]
    """All keys of each monitor of which one was revoked."""
    deleted: Mapping[str, datetime]
    """Monitors that were deleted with all their protocols, and when the last one was."""
    certificates: Mapping[str, datetime]
    """Monitors with a certificate that was revoked before its end, and when the last one was."""


def read_revoked(connection: Connection, since: datetime) -> Revoked:
    """Return the monitors of which something was revoked after ``since``."""
    return Revoked(
        _keys(connection, since),
        dict(connection.execute(_deleted(since)).all()),
        dict(connection.execute(_certificates(since)).all()),
    )


def _keys(connection: Connection, since: datetime) -> dict[str, list[KeyLife]]:
    k, e, m, link = api_keys.c, api_key_ends.c, monitors.c, api_keys_monitors.c
    of_key = api_keys_monitors.join(monitors, m.id == link.monitor_id)
    revoked = (
        sa.select(m.tls_name)
        .select_from(of_key.join(api_key_ends, e.api_key_id == link.api_key_id))
        .where(_is_monitor(), e.ends_on > since, e.reason != _REPLACED)
    )
    query = (
        sa.select(m.tls_name, k.id, k.created_on, e.ends_on, e.reason)
        .distinct()
        .select_from(
            of_key.join(api_keys, k.id == link.api_key_id).outerjoin(api_key_ends, e.api_key_id == link.api_key_id)
        )
        .where(m.tls_name.in_(revoked), k.audience == Audience.MONITOR.value, k.token_hashed.startswith(_OURS))
    )
    found: dict[str, list[KeyLife]] = {}
    for row in connection.execute(query):
        revoked_key = row.ends_on is not None and row.reason != _REPLACED
        found.setdefault(row.tls_name, []).append(KeyLife(row.created_on, row.ends_on, revoked_key))
    return found


def _deleted(since: datetime) -> sa.Select[str, datetime]:
    m, other = monitors.c, monitors.alias("other").c
    remains = sa.select(other.id).where(other.tls_name == m.tls_name, other.status != "deleted").exists()
    return (
        sa.select(m.tls_name, sa.func.max(m.deleted_on))
        .where(_is_monitor(), m.status == "deleted", m.deleted_on > since, ~remains)
        .group_by(m.tls_name)
    )


def _certificates(since: datetime) -> sa.Select[str, datetime]:
    c = certificates.c
    return (
        sa.select(c.name, sa.func.max(c.revoked_on))
        # The index is that of not_after.
        .where(c.kind == "monitor", c.not_after > since, c.revoked_on > since)
        .group_by(c.name)
    )


def _is_monitor() -> sa.ColumnElement[bool]:
    return sa.and_(monitors.c.type == "monitor", monitors.c.tls_name.is_not(None))
