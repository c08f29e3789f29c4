"""Who is there: the last status of every agent, for the selector and the operators to read.

Status messages are retained, and every ingest worker subscribes to all of them (a shared subscription would not be
given the retained ones): so what was said while no worker ran is learned at the next start. Several workers, a broker
that comes back with an old state, and repetitions must all lead to the same row; :func:`merge` sees to it.
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

from ingest.decode import Presence
from ingest.sightings import Sighting
from runtime.database import to_db, transaction, utc_now
from schema.limits import CLOCK_AHEAD
from schema.messages import encode
from schema.tables import monitor_presence, monitors

MOST_NAMES: Final = 20_000
"""Agents whose status may wait to be written. The broker lets only registered monitors publish."""


@dataclass(frozen=True, slots=True)
class Present:
    """A row of ``monitor_presence``; times are UTC without a zone."""

    name: str
    online: bool
    since: datetime
    seen: datetime
    status: str


def merge(row: Present | None, presence: Presence) -> Present | None:
    """The row after ``presence``, or None when it is no news.

    A message that the broker had kept is as old as it says. The last will does not say: when we believed the monitor
    to be online it is news, from now on.
    """
    arrived = to_db(presence.arrived)
    text = encode(presence.status).decode()
    # With its time in it, the same text is the same message, such as another worker has written already.
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


def believed(row: Present, now: datetime) -> Present:
    """The row, unless its time is one of the future: then a clock that was ahead has written it, and all is news."""
    if row.seen <= now + CLOCK_AHEAD:
        return row
    return replace(row, seen=_LONG_AGO, since=min(row.since, now), status="")


_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)


class PresenceBook:
    """The newest status of each agent that is still to be written.

    Our clock may be set while one waits. So what counts is how long it has waited, by the monotonic clock.
    """

    def __init__(self, hear: Callable[[Presence], None] = lambda presence: None) -> None:
        self._waiting: dict[str, tuple[Presence, float]] = {}
        """By agent: its status, and the monotonic time of its arrival."""
        self._hear = hear

    def note(self, presence: Presence) -> None:
        """``presence`` replaces what its agent said before."""
        self._hear(presence)
        if presence.name in self._waiting or len(self._waiting) < MOST_NAMES:
            self._waiting[presence.name] = presence, time.monotonic()

    def take(self, now: datetime) -> list[Presence]:
        """All that wait; they wait no longer. Each has arrived as long before ``now`` as it has waited."""
        waiting, self._waiting = self._waiting, {}
        moment = time.monotonic()
        return [
            replace(presence, arrived=now - timedelta(seconds=moment - since)) for presence, since in waiting.values()
        ]


def write_presence(engine: Engine, presences: Sequence[Presence]) -> list[Sighting]:
    """Writes what is news; returns which monitors were thereby seen, and when.

    Raises:
        DatabaseUnavailable: it may be called again.
    """
    return transaction(engine, partial(_write, presences=presences), retry_on=(IntegrityError,))


def _write(connection: Connection, presences: Sequence[Presence]) -> list[Sighting]:
    ids = _monitor_ids(connection, {p.name for p in presences})
    known = {p.name: p for p in presences if p.name in ids}
    rows = _rows(connection, sorted(known))
    sightings: list[Sighting] = []
    for name, presence in sorted(known.items()):
        after = merge(rows.get(name), presence)
        if after is None:
            continue
        _save(connection, after, new=name not in rows)
        # A last will says that the monitor was not seen.
        if presence.status.ts is not None:
            sightings += (Sighting(i, after.seen, version=presence.status.version) for i in ids[name])
    return sightings


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
    return {row.name: believed(row, now) for row in found}


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
