"""Whether a monitor is gone: what its agent last said, and for how long it has said nothing."""

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from schema.limits import MONITOR_GONE
from schema.tables import monitor_presence, monitors

PSEUDO: Final = "%.system"
"""Names of the pseudo-monitors that hold settings, for SQL's LIKE."""


def is_gone(
    online: bool | None, since: datetime | None, seen: datetime | None, last_seen: datetime | None, now: datetime
) -> bool:
    """Whether a monitor has been offline, or without a status, for ``MONITOR_GONE`` (times in UTC without a zone).

    Without a status of its agent (``online`` None) it is judged by ``monitors.last_seen``; never seen at all is gone.
    """
    last = last_seen
    if online is not None:
        last = seen if online else since
    return last is None or now - last >= MONITOR_GONE


def presence_columns() -> list[sa.ColumnElement[Any]]:
    """What :func:`is_gone` looks at; see :func:`with_presence`."""
    presence = monitor_presence.c
    return [presence.online, presence.since, presence.seen, monitors.c.last_seen]


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
