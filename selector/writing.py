"""What a review changes in the ledger: the pairs that moved, why they moved, and when the server is looked at again.

Locks are taken in one order, so that nobody waits in a circle: the servers' rows of ``servers_monitor_review``, then
their pairs in the order of server and monitor, then (as a foreign key) ``servers``. Ingest and scorer hold
``scoring_queue`` first, which is never asked for here, and ingest takes pairs in the same order. Of ``server_scores``
only the selector's own columns are written: score and time belong to ingest.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from runtime.database import to_db, to_db_seconds
from schema.tables import assignment_changes, server_scores, servers_monitor_review
from selector.model import PairRecord, Review

_REASON_LENGTH: Final = 255
_ALMOST_A_SECOND: Final = timedelta(microseconds=999_999)


def write_pairs(connection: Connection, reviews: Sequence[tuple[int, Review]]) -> None:
    """Writes the records of these servers' reviews; pairs without one stay as they are."""
    rows = [_pair_row(server_id, record) for server_id, review in reviews for record in review.records]
    if rows:
        rows.sort(key=lambda row: (row["pair_server"], row["pair_monitor"]))
        connection.execute(_UPDATE_PAIR, rows)


def write_changes(connection: Connection, reviews: Sequence[tuple[int, Review]], now: datetime) -> None:
    """Adds every move and its reason to ``assignment_changes``."""
    rows = [
        {
            "server_id": server_id,
            "monitor_id": change.monitor_id,
            "before_status": change.from_status.value,
            "after_status": change.to_status.value,
            "reason": f"{change.rule}: {change.reason}"[:_REASON_LENGTH],
            "changed_on": to_db(now),
        }
        for server_id, review in reviews
        for change in review.changes
    ]
    if rows:
        connection.execute(sa.insert(assignment_changes), rows)


def write_times(
    connection: Connection, server_ids: Sequence[int], now: datetime, after: timedelta | None, *, changed: bool
) -> None:
    """These servers were reviewed ``now``, and are due again ``after`` that (None: not until something asks for it)."""
    if not server_ids:
        return
    values: dict[str, Any] = {
        "last_review": to_db_seconds(now),
        # Rounded up: a server is not due again in the moment of its review.
        "next_review": None if after is None else to_db_seconds(now + after + _ALMOST_A_SECOND),
    }
    if changed:
        values["last_change"] = to_db_seconds(now)
    table = servers_monitor_review
    connection.execute(sa.update(table).where(table.c.server_id.in_(sorted(server_ids))).values(values))


def _pair_row(server_id: int, record: PairRecord) -> dict[str, Any]:
    return {
        "pair_server": server_id,
        "pair_monitor": record.monitor_id,
        "status": record.status.value,
        "constraint_violation_type": record.violation_type,
        "constraint_violation_since": _seconds(record.violation_since),
        "last_constraint_check": _seconds(record.last_constraint_check),
        "pause_reason": record.pause_reason,
    }


def _seconds(moment: datetime | None) -> datetime | None:
    return None if moment is None else to_db_seconds(moment)


def _update_pair() -> sa.Update:
    columns = (
        "status",
        "constraint_violation_type",
        "constraint_violation_since",
        "last_constraint_check",
        "pause_reason",
    )
    return (
        sa.update(server_scores)
        .where(
            server_scores.c.server_id == sa.bindparam("pair_server"),
            server_scores.c.monitor_id == sa.bindparam("pair_monitor"),
        )
        .values({column: sa.bindparam(column) for column in columns})
    )


_UPDATE_PAIR: Final = _update_pair()
