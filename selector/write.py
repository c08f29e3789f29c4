"""Write a review to the ledger: the changed pairs, the reasons, and the time of the next review.

Row locks are acquired in a fixed order to avoid deadlocks: the servers' rows of ``servers_monitor_review``, then their
pairs in the order of server and monitor, then (as a foreign key) ``servers``. Ingest and scorer first lock
``scoring_queue``, which is never locked here, and ingest locks pairs in the same order. Only the selector's own columns
of ``server_scores`` are written; score and time belong to ingest.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.db.bulk import BulkInsert, BulkUpdate
from runtime.db.engine import to_db, to_db_seconds
from schema.tables import assignment_changes, server_scores, servers_monitor_review
from selector.rules.model import Change, PairRecord
from selector.rules.world import Review

_REASON_LENGTH: Final = 255
_ALMOST_A_SECOND: Final = timedelta(microseconds=999_999)


def write_pairs(connection: Connection, reviews: Sequence[tuple[int, Review]]) -> None:
    """Write the records of these servers' reviews; pairs without a record are unchanged."""
    rows = sorted(_pair_row(server_id, record) for server_id, review in reviews for record in review.records)
    _UPDATE_PAIRS.execute(connection, rows)


def write_changes(connection: Connection, reviews: Sequence[tuple[int, Review]], now: datetime) -> None:
    """Add every change and its reason to ``assignment_changes``."""
    rows = [_change_row(server_id, change) for server_id, review in reviews for change in review.changes]
    _ADD_CHANGES.execute(connection, rows, changed_on=to_db(now))


def write_times(
    connection: Connection, server_ids: Sequence[int], now: datetime, after: timedelta | None, *, changed: bool
) -> None:
    """Record that these servers were reviewed ``now``, and are due again ``after`` that (None: only on a trigger)."""
    if not server_ids:
        return
    times = {
        "reviewed": to_db_seconds(now),
        # Rounded up, so that a server is not due again at the moment of its review.
        "due": None if after is None else to_db_seconds(now + after + _ALMOST_A_SECOND),
    }
    connection.execute(_CHANGED if changed else _UNCHANGED, {"servers": sorted(server_ids), **times})


class _PairRow(NamedTuple):
    server_id: int
    monitor_id: int
    status: str
    constraint_violation_type: str | None
    constraint_violation_since: datetime | None
    last_constraint_check: datetime | None
    pause_reason: str | None


def _pair_row(server_id: int, record: PairRecord) -> _PairRow:
    return _PairRow(
        server_id,
        record.monitor_id,
        record.status.value,
        record.violation_type,
        _seconds(record.violation_since),
        _seconds(record.last_constraint_check),
        record.pause_reason,
    )


class _ChangeRow(NamedTuple):
    server_id: int
    monitor_id: int
    before_status: str
    after_status: str
    reason: str


def _change_row(server_id: int, change: Change) -> _ChangeRow:
    return _ChangeRow(
        server_id,
        change.monitor_id,
        change.from_status.value,
        change.to_status.value,
        f"{change.rule}: {change.reason}"[:_REASON_LENGTH],
    )


def _seconds(moment: datetime | None) -> datetime | None:
    return None if moment is None else to_db_seconds(moment)


_queue: Final = servers_monitor_review.c
_UNCHANGED: Final = (
    sa.update(servers_monitor_review)
    .where(_queue.server_id.in_(sa.bindparam("servers", expanding=True)))
    .values({_queue.last_review: sa.bindparam("reviewed"), _queue.next_review: sa.bindparam("due")})
)
_CHANGED: Final = _UNCHANGED.values({_queue.last_change: sa.bindparam("reviewed")})

_UPDATE_PAIRS: Final = BulkUpdate(server_scores, _PairRow, key=["server_id", "monitor_id"])
_ADD_CHANGES: Final = BulkInsert(assignment_changes, _ChangeRow, common=["changed_on"])
