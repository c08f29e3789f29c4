"""Whether a monitor is gone: what its agent last said, and for how long it has said nothing."""

from datetime import datetime
from typing import Final

import sqlalchemy as sa

from schema.limits import MONITOR_GONE
from schema.tables import monitor_presence, monitors

PSEUDO: Final = "%.system"
"""Names of the pseudo-monitors that hold settings, for SQL's LIKE."""


def is_gone(last_present: datetime | None, now: datetime) -> bool:
    """Whether a monitor was last present ``MONITOR_GONE`` ago or never (both in UTC without a zone)."""
    return last_present is None or now - last_present >= MONITOR_GONE


def last_present() -> sa.ColumnElement[datetime | None]:
    """When the agent of a monitor was last known to be there; see :func:`with_presence`.

    While it is online: its last status. Offline: since when. Without any status, as of an agent that never sent one:
    ``monitors.last_seen``.
    """
    presence = monitor_presence.c
    return sa.case(
        (presence.online.is_(None), monitors.c.last_seen),
        (presence.online, presence.seen),
        else_=presence.since,
    ).label("last_present")


def is_real() -> sa.ColumnElement[bool]:
    """Of a row of ``monitors``: it is one, and neither a scorer nor a pseudo-monitor."""
    m = monitors.c
    return sa.and_(m.type == "monitor", sa.or_(m.tls_name.is_(None), m.tls_name.not_like(PSEUDO)))


def with_presence(source: sa.Join | sa.Table) -> sa.Join:
    """``source``, which has ``monitors`` in it, with the presence of each monitor where there is one."""
    return source.outerjoin(monitor_presence, monitor_presence.c.tls_name == monitors.c.tls_name)


def name_of(tls_name: str | None, monitor_id: int) -> str:
    """The full name of a monitor, or what to call one that has none."""
    return tls_name or f"monitor {monitor_id}"
