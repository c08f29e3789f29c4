"""Trigger reviews of a monitor's servers when the monitor has changed.

The table ``selector_seen`` stores the last seen state of every monitor, so that exactly one selector detects a change,
even one that happened while no selector was running. The servers become due in the transaction that records the change.
(The scorer makes a server due in its own transaction when the score falls.)
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from runtime.db.bulk import insert_or_ignore
from runtime.db.engine import reading, to_db_seconds, transaction
from runtime.db.queue import REVIEWS
from schema.tables import selector_seen, server_scores, servers, servers_monitor_review
from selector.monitors import MonitorRow

PRESENCE: Final = frozenset({"gone", "back"})
"""The changes that a monitor's own messages cause."""

_PLACED: Final = ("active", "testing")
_ALL: Final = ("active", "testing", "candidate", "paused")
_CHUNK: Final = 500
"""Servers that a control command makes due per transaction."""

_OVERTAKEN: Final = (IntegrityError,)
"""Errors after which the transaction is retried: a server was removed between read and write."""


@dataclass(frozen=True, slots=True)
class SeenState:
    """The monitor fields whose change triggers a review of its servers."""

    status: str
    ip: str | None
    account_id: int | None
    limit: str
    gone: bool


@dataclass(frozen=True, slots=True)
class MonitorChange:
    """A change of a monitor: the names of the changes, and the number of servers that became due."""

    monitor_id: int
    what: tuple[str, ...]
    servers: int


def seen_state(row: MonitorRow) -> SeenState:
    """Return the fields of this monitor whose change triggers reviews."""
    return SeenState(row.status, row.ip, row.account_id, str(row.limit.value), row.gone)


def what_changed(before: SeenState, after: SeenState) -> tuple[str, ...]:
    """Return which of ``status``, ``address``, ``account``, ``limit``, ``gone`` and ``back`` happened."""
    changed = []
    if before.status != after.status:
        changed.append("status")
    if before.ip != after.ip:
        changed.append("address")
    if before.account_id != after.account_id:
        changed.append("account")
    if before.limit != after.limit:
        changed.append("limit")
    if before.gone != after.gone:
        changed.append("gone" if after.gone else "back")
    return tuple(changed)


def record_monitor_changes(
    engine: Engine, rows: Iterable[MonitorRow], now: datetime, flapping: Collection[int] = ()
) -> list[MonitorChange]:
    """Compare the monitors with their last seen state, and make the servers of changed ones due.

    A new monitor is only recorded, since it has no servers yet. Changes of presence of the monitors in ``flapping`` are
    deferred (debounce).
    """
    with reading(engine) as connection:
        known = {row.monitor_id: _seen(row) for row in connection.execute(sa.select(selector_seen))}
    rows = list(rows)
    new = [row for row in rows if row.id not in known]
    if new:
        transaction(engine, partial(_record_new, rows=new))
    found = []
    for row in rows:
        changed = what_changed(known[row.id], seen_state(row)) if row.id in known else ()
        if changed and not (row.id in flapping and set(changed) <= PRESENCE):
            news = transaction(engine, partial(_record_change, row=row, now=now), retry_on=_OVERTAKEN)
            if news is not None:
                found.append(news)
    return found


def make_due(engine: Engine, server_id: int | None, now: datetime) -> int:
    """Make one server due for review, or all of them; return their number."""
    with reading(engine) as connection:
        query = sa.select(servers.c.id).order_by(servers.c.id)
        ids = list(connection.scalars(query if server_id is None else query.where(servers.c.id == server_id)))
    for first in range(0, len(ids), _CHUNK):
        some = ids[first : first + _CHUNK]
        transaction(engine, partial(_make_due, server_ids=some, now=now), retry_on=_OVERTAKEN)
    return len(ids)


def _record_change(connection: Connection, row: MonitorRow, now: datetime) -> MonitorChange | None:
    """Record the change and make servers due; return None if another selector has done so already."""
    before = connection.execute(
        sa.select(selector_seen).where(selector_seen.c.monitor_id == row.id).with_for_update()
    ).one()
    changed = what_changed(_seen(before), seen_state(row))
    if not changed:
        return None
    seen = sa.update(selector_seen).where(selector_seen.c.monitor_id == row.id)
    connection.execute(seen.values(_seen_row(row)._asdict()))
    moved = "address" in changed or "account" in changed
    # Address and account also determine violations of candidates and paused pairs, and a monitor that becomes globally
    # active or testing may be promoted wherever it is a candidate.
    everywhere = moved or ("status" in changed and row.live)
    ids = _servers_of(connection, row.id, _ALL if everywhere else _PLACED)
    _make_due(connection, ids, now)
    if moved:
        _check_paused_again(connection, row.id)
    return MonitorChange(row.id, changed, len(ids))


def _check_paused_again(connection: Connection, monitor_id: int) -> None:
    """Make the checks of the monitor's paused pairs due, since the stored violations refer to its old data."""
    pairs = server_scores.c
    connection.execute(
        sa.update(server_scores)
        .where(
            pairs.monitor_id == monitor_id,
            pairs.status == "paused",
            pairs.last_constraint_check.is_not(None),
        )
        .values(last_constraint_check=None)
    )


def _make_due(connection: Connection, server_ids: Sequence[int], now: datetime) -> None:
    at = to_db_seconds(now)
    queue = servers_monitor_review
    for first in range(0, len(server_ids), _CHUNK):
        some = server_ids[first : first + _CHUNK]
        missing = connection.scalars(
            sa.select(servers.c.id)
            .select_from(servers.outerjoin(queue, queue.c.server_id == servers.c.id))
            .where(servers.c.id.in_(some), queue.c.server_id.is_(None))
        ).all()
        REVIEWS.add(connection, missing, at)
        REVIEWS.make_due(connection, some, at)


def _servers_of(connection: Connection, monitor_id: int, statuses: Sequence[str]) -> list[int]:
    pairs = server_scores.c
    query = sa.select(pairs.server_id).where(pairs.monitor_id == monitor_id, pairs.status.in_(statuses))
    return list(connection.scalars(query.order_by(pairs.server_id)))


class _SeenRow(NamedTuple):
    """A row of ``selector_seen``."""

    monitor_id: int
    status: str
    ip: str | None
    account_id: int | None
    per_server_limit: str
    gone: bool


# Another selector may insert them meanwhile.
_RECORD_NEW: Final = insert_or_ignore(selector_seen, _SeenRow)


def _record_new(connection: Connection, rows: Sequence[MonitorRow]) -> None:
    _RECORD_NEW.execute(connection, map(_seen_row, rows))


def _seen_row(row: MonitorRow) -> _SeenRow:
    return _SeenRow(row.id, row.status, row.ip, row.account_id, str(row.limit.value), row.gone)


def _seen(row: sa.Row[Any]) -> SeenState:
    return SeenState(row.status, row.ip, row.account_id, row.per_server_limit, bool(row.gone))
