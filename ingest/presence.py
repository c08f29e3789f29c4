"""Decide whether an agent is online, and store its last status for the selector and the operators.

An agent is offline when it says so, or when the broker publishes its last will. If it stays offline, or silent,
:func:`selector.monitors.is_gone` counts its monitors as gone, and :mod:`notifier.monitors` tells people.

Status messages are retained, and every ingest worker subscribes to all of them (a shared subscription would not receive
retained messages), so that a worker learns at its start what was published while none was running. Several workers, a
broker that returns with an old state, and duplicates must all lead to the same row; :func:`merge` ensures this.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from ingest.last_seen import Seen
from ingest.messages import Presence
from runtime.db.engine import to_db, transaction, utc_now
from schema.limits import CLOCK_AHEAD
from schema.messages import encode
from schema.tables import monitor_presence, monitors

MOST_NAMES: Final = 20_000
"""Maximum agents with a queued status. The broker lets only registered monitors publish."""


@dataclass(frozen=True, slots=True)
class Present:
    """A row of ``monitor_presence``; times are naive UTC."""

    name: str
    online: bool
    since: datetime
    seen: datetime
    status: str


def merge(row: Present | None, presence: Presence) -> Present | None:
    """Return the row after ``presence``, or None if it changes nothing.

    A retained message is as old as its own time. A last will has no time: if the row has the monitor online, it counts
    from now on.
    """
    arrived = to_db(presence.arrived)
    text = encode(presence.status).decode()
    # A text with a time in it identifies the message, which another worker may have written already.
    if row is not None and (arrived < row.seen or (row.status == text and presence.status.ts is not None)):
        return None
    seen = arrived
    if presence.retained:
        if presence.status.ts is not None:
            seen = min(arrived, to_db(presence.status.ts))
        if row is not None and (seen <= row.seen or not (row.online or presence.status.online)):
            return None
    same = row is not None and row.online == presence.status.online
    since = row.since if row is not None and same else seen
    return Present(presence.name, presence.status.online, since, seen, text)


def plausible(row: Present, now: datetime) -> Present:
    """Return the row; if a clock that was ahead has written a future time, return a copy that any status replaces."""
    if row.seen <= now + CLOCK_AHEAD:
        return row
    return replace(row, seen=_LONG_AGO, since=min(row.since, now), status="")


_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)


class PresenceQueue:
    """Queue of the latest status of each agent.

    The host's clock may be set while a status is queued, so the time in the queue is measured by the monotonic clock.
    """

    def __init__(self, on_presence: Callable[[Presence], None] = lambda presence: None) -> None:
        self._waiting: dict[str, tuple[Presence, float]] = {}
        """By agent: its status, and the monotonic time of its arrival."""
        self._on_presence = on_presence

    def add(self, presence: Presence) -> None:
        """Enqueue ``presence`` in place of an older one of its agent."""
        self._on_presence(presence)
        if presence.name in self._waiting or len(self._waiting) < MOST_NAMES:
            self._waiting[presence.name] = presence, time.monotonic()

    def pop_all(self, now: datetime) -> list[Presence]:
        """Remove and return all statuses, with times of arrival relative to ``now``."""
        waiting, self._waiting = self._waiting, {}
        moment = time.monotonic()
        return [
            replace(presence, arrived=now - timedelta(seconds=moment - since)) for presence, since in waiting.values()
        ]


def write_presence(engine: Engine, presences: Sequence[Presence]) -> list[Seen]:
    """Write changed presence; return the last_seen updates that result.

    Raises:
        DatabaseUnavailable: the call may be retried.
    """
    return transaction(engine, partial(_write, presences=presences), retry_on=(IntegrityError,))


def _write(connection: Connection, presences: Sequence[Presence]) -> list[Seen]:
    ids = _monitor_ids(connection, {p.name for p in presences})
    known = {p.name: p for p in presences if p.name in ids}
    rows = _rows(connection, sorted(known))
    last_seen: list[Seen] = []
    for name, presence in sorted(known.items()):
        after = merge(rows.get(name), presence)
        if after is None:
            continue
        _save(connection, after, new=name not in rows)
        # A last will does not mean that the monitor was seen.
        if presence.status.ts is not None:
            last_seen += (Seen(i, after.seen, version=presence.status.version) for i in ids[name])
    return last_seen


def _monitor_ids(connection: Connection, names: Iterable[str]) -> dict[str, list[int]]:
    m = monitors.c
    query = sa.select(m.id, m.tls_name).where(m.tls_name.in_(sorted(names)), m.type == "monitor")
    ids: dict[str, list[int]] = {}
    for row in connection.execute(query):
        ids.setdefault(row.tls_name, []).append(row.id)
    return ids


def _rows(connection: Connection, names: Sequence[str]) -> dict[str, Present]:
    p = monitor_presence.c
    query = sa.select(p.tls_name, p.online, p.since, p.seen, p.status).where(p.tls_name.in_(names))
    rows = connection.execute(query.order_by(p.tls_name).with_for_update())
    now = utc_now()
    found = (Present(r.tls_name, bool(r.online), r.since, r.seen, r.status) for r in rows)
    return {row.name: plausible(row, now) for row in found}


def _save(connection: Connection, present: Present, *, new: bool) -> None:
    values: dict[str, Any] = {
        "online": present.online,
        "since": present.since,
        "seen": present.seen,
        "status": present.status,
    }
    if new:
        connection.execute(sa.insert(monitor_presence).values(tls_name=present.name, **values))
    else:
        p = monitor_presence.c
        connection.execute(sa.update(monitor_presence).where(p.tls_name == present.name).values(values))
