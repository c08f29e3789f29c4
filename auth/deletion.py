"""Delete monitors, and end what their hosts could use: API keys and certificates, in the caller's transaction.

Results and names of deleted monitors stay. The selector detects a deletion in the ledger by itself, and moves the
pairs.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from auth.api_key_store import keys_of_monitors, revoke_key
from auth.certificates import revoke_monitor
from runtime.db.engine import to_db_seconds
from runtime.db.locks import lock_monitors
from schema.tables import api_keys_monitors, monitors

REMOVED: Final = "its monitor was deleted"
SET_ASIDE: Final = "its monitor was set aside"


@dataclass(frozen=True, slots=True)
class Ended:
    """What ended with the deleted monitors."""

    keys: tuple[int, ...] = ()
    """Ids of the API keys that were revoked."""
    certificates: tuple[str, ...] = ()
    """Serials of the certificates that were revoked."""


def delete_monitors(
    connection: Connection, monitor_ids: Collection[int], now: datetime, reason: str = REMOVED
) -> Ended:
    """Mark monitors as deleted, and return what that ended.

    A key is revoked with the last of its monitors, and certificates with the last protocol of their name: until then,
    the other protocol uses them. Repeating this changes nothing.

    Args:
        now: aware.
        reason: recorded with the keys.
    """
    if not monitor_ids:
        return Ended()
    m = monitors.c
    names = _lock(connection, monitor_ids)
    # NULL takes a row out of the unique key (ip, is_current), so the address may be registered again.
    gone = {"status": "deleted", "deleted_on": to_db_seconds(now), "is_current": None}
    which = sa.and_(m.id.in_(sorted(monitor_ids)), m.status != "deleted")
    connection.execute(sa.update(monitors).where(which).values(gone))
    keys = [key for key in _without_monitors(connection, monitor_ids) if revoke_key(connection, key, now, reason)]
    serials: list[str] = []
    for name in sorted(names - _used(connection, names)):
        serials += revoke_monitor(connection, name, now)
    return Ended(tuple(keys), tuple(serials))


def _lock(connection: Connection, monitor_ids: Collection[int]) -> set[str]:
    """Lock the rows of all protocols of the monitors, since others may delete them at this moment; return the names."""
    m = monitors.c
    found = connection.scalars(sa.select(m.tls_name).where(m.id.in_(sorted(monitor_ids))).distinct())
    names = {name for name in found if name}
    # In the order of auth.certificates, which locks the same rows.
    lock = sa.select(m.id).where(m.tls_name.in_(sorted(names))).order_by(m.tls_name, m.ip_version)
    connection.execute(lock.with_for_update()).all()
    lock_monitors(connection, names)
    return names


def _used(connection: Connection, names: Collection[str]) -> set[str]:
    """Return the names that have a protocol that is not deleted."""
    m = monitors.c
    return set(connection.scalars(sa.select(m.tls_name).where(m.tls_name.in_(sorted(names)), m.status != "deleted")))


def _without_monitors(connection: Connection, monitor_ids: Collection[int]) -> list[int]:
    """Return the keys of the monitors all of whose monitors are deleted."""
    link, m = api_keys_monitors.c, monitors.c
    keys = keys_of_monitors(connection, monitor_ids)
    covers = sa.select(link.api_key_id).join(monitors, m.id == link.monitor_id)
    used = set(connection.scalars(covers.where(link.api_key_id.in_(keys), m.status != "deleted")))
    return [key for key in keys if key not in used]
