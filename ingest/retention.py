"""Remove expired rows from the ledger, in steps small enough not to delay other transactions, and a few per round.

The age of a row is relative to the newest row of its table as well as to the clock. So a clock that is ahead removes
nothing early, and a period without results removes nothing. Referenced rows stay. Several workers may run retention at
the same time, since each step skips locked rows.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from ingest.referrers import Referrer, referrers_of
from runtime.db.bulk import BulkDelete
from runtime.db.engine import reading, transaction
from runtime.durations import duration_text
from schema.limits import BATCH_MEMORY, HEALTH_MEMORY, REJECTED_MEMORY
from schema.tables import (
    assignment_changes,
    certificates,
    ledger_origin,
    log_scores,
    monitor_hours,
    rejected_messages,
    result_batches,
    score_traces,
    server_traceroutes,
)

log = logging.getLogger(__name__)

STEP: Final = 1_000
"""Rows per transaction, which takes some tens of milliseconds."""

CHANGES_MEMORY: Final = timedelta(days=90)
"""Retention of the reasons of changes; longer than late results need them."""

CERTIFICATES_MEMORY: Final = timedelta(days=90)
"""Retention of certificates that have ended, for operators who ask who had one."""

ROUTES_MEMORY: Final = timedelta(days=15)
"""Retention of routes to servers, as long as that of the results that they explain."""

TRACES_MEMORY: Final = timedelta(hours=1)
"""Retention of traces that no scorer has continued, since none of them exports traces."""

LOG_DAYS: Final = 15
"""Default retention of log rows in days, in a ledger that this project created."""

MOST_AT_ONCE: Final = timedelta(hours=2)
"""Maximum time span of the rows that one round removes. Rounds are minutes apart, so this keeps up, and catches up with
months of rows in days; and an operator has days to notice a wrong setting."""

MOST_REFUSED: Final = 1_000
"""Maximum rows that a worker skips because the database refuses to remove them although no visible foreign key refers
to them."""

_COUNT: Final = 1_000_000
"""Maximum rows that are counted."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """A table whose rows expire."""

    table: sa.Table
    age: sa.Column[Any]
    """Column with the time that determines the age; it has an index."""
    kept: timedelta


def _words(period: timedelta) -> str:
    """Return the period in days, or in Go's form if it is shorter than one."""
    days = period / timedelta(days=1)
    return f"{days:g} days" if days >= 1 else duration_text(period.total_seconds())


@dataclass(frozen=True, slots=True)
class RetentionForecast:
    """Forecast of the rows that retention will remove from a table, for the log."""

    what: Expiring
    rows: int
    """Number of expired rows, up to a million."""
    oldest: datetime | None
    kept_by: tuple[Referrer, ...]

    def __str__(self) -> str:
        name, kept = self.what.table.name, _words(self.what.kept)
        if not self.rows:
            return f"{name}: rows are kept for {kept}; none is older"
        number = f"{_COUNT} or more" if self.rows >= _COUNT else f"{self.rows}"
        referring = f", unless {' or '.join(map(str, self.kept_by))} refers to them" if self.kept_by else ""
        return (
            f"{name}: rows are kept for {kept}; {number} are older, since {self.oldest:%Y-%m-%d %H:%M}, "
            f"and will be removed, at most {MOST_AT_ONCE / timedelta(hours=1):g} hours of them per round{referring}"
        )


def kept_log_scores(days: int | None, *, adopted: bool) -> timedelta | None:
    """Return the retention of log rows: the operator's setting, else 15 days, or None (no limit) if adopted."""
    if days is None and adopted:
        return None
    return timedelta(days=LOG_DAYS if days is None else days)


def is_adopted(engine: Engine) -> bool:
    """Return whether the ledger existed in the pool before this project used it."""
    with reading(engine) as connection:
        return bool(connection.scalar(sa.select(ledger_origin.c.adopted)))


def expiring(kept_of_log_scores: timedelta | None) -> list[Expiring]:
    """Return all tables with retention; without ``log_scores`` if there is no limit for it."""
    ours = [
        Expiring(result_batches, result_batches.c.received_on, BATCH_MEMORY),
        Expiring(rejected_messages, rejected_messages.c.last_seen, REJECTED_MEMORY),
        Expiring(assignment_changes, assignment_changes.c.changed_on, CHANGES_MEMORY),
        Expiring(certificates, certificates.c.not_after, CERTIFICATES_MEMORY),
        Expiring(monitor_hours, monitor_hours.c.hour, HEALTH_MEMORY),
        Expiring(server_traceroutes, server_traceroutes.c.traced_on, ROUTES_MEMORY),
        Expiring(score_traces, score_traces.c.stored_on, TRACES_MEMORY),
    ]
    return ours if kept_of_log_scores is None else [Expiring(log_scores, log_scores.c.ts, kept_of_log_scores), *ours]


class Retention:
    """Retention of one table, in one worker."""

    def __init__(self, engine: Engine, what: Expiring) -> None:
        self.what = what
        self._engine = engine
        self._delete = BulkDelete(what.table).execute
        self._refused: set[tuple[Any, ...]] = set()

    def forecast(self, now: datetime) -> RetentionForecast:
        """Return the forecast at ``now``. All times are naive UTC."""
        age, table = self.what.age, self.what.table
        with reading(self._engine) as connection:
            oldest, newest = connection.execute(sa.select(sa.func.min(age), sa.func.max(age))).one()
            if oldest is None:
                return RetentionForecast(self.what, 0, None, ())
            old = sa.select(sa.literal(1)).where(age < min(newest, now) - self.what.kept).limit(_COUNT).subquery()
            rows = connection.scalar(sa.select(sa.func.count()).select_from(old)) or 0
            return RetentionForecast(self.what, rows, oldest, referrers_of(connection, table))

    def round(self, now: datetime) -> "Round | None":
        """Return the next round, or None if no row has expired.

        Raises:
            DatabaseUnavailable: the call may be retried.
        """
        age = self.what.age
        with reading(self._engine) as connection:
            referrers = referrers_of(connection, self.what.table)
            newest = connection.scalar(sa.select(sa.func.max(age)))
            removable = sa.select(age).where(*self._free(referrers)).order_by(age).limit(1)
            oldest = None if newest is None else connection.scalar(removable)
        if newest is None or oldest is None:
            return None
        before = cut(oldest, newest, self.what.kept, now)
        return None if before is None else Round(before, referrers)

    def step(self, found: "Round") -> "Step":
        """Remove up to :data:`STEP` rows.

        Raises:
            DatabaseUnavailable: the call may be retried.
        """
        try:
            return transaction(self._engine, partial(self._remove, found=found))
        except IntegrityError:
            return self._one_by_one(found)

    def _one_by_one(self, found: "Round") -> "Step":
        """Remove rows one by one, since an invisible or new foreign key refers to at least one of them."""
        keys = self._keys(found)
        removed, name = 0, self.what.table.name
        for key in keys:
            try:
                transaction(self._engine, partial(self._delete, keys=[key]))
                removed += 1
            except IntegrityError:
                if len(self._refused) >= MOST_REFUSED:
                    log.error("%s: too many rows are referenced; the others stay, too", name)
                    return Step(removed, more=False)
                self._refused.add(key)
                log.warning("%s: the row with key %s stays, since it is referenced", name, key)
        return Step(removed, more=len(keys) == STEP)

    def _keys(self, found: "Round") -> list[tuple[Any, ...]]:
        with reading(self._engine) as connection:
            return [tuple(row) for row in connection.execute(self._old(found))]

    def _remove(self, connection: Connection, found: "Round") -> "Step":
        rows = connection.execute(self._old(found).with_for_update(skip_locked=True)).all()
        if rows:
            self._delete(connection, rows)
        return Step(len(rows), more=len(rows) == STEP)

    def _old(self, found: "Round") -> sa.Select[Any]:
        keys, age = list(self.what.table.primary_key.columns), self.what.age
        old = sa.select(*keys).where(age < found.before, *self._free(found.referrers))
        return old.order_by(age).limit(STEP)

    def _free(self, referrers: Sequence[Referrer]) -> list[sa.ColumnElement[bool]]:
        conditions = [~referrer.refers() for referrer in referrers]
        if self._refused:
            conditions.append(~_one_of(list(self.what.table.primary_key.columns), sorted(self._refused)))
        return conditions


@dataclass(frozen=True, slots=True)
class Round:
    """Limits of one round of retention."""

    before: datetime
    referrers: tuple[Referrer, ...]


class Step(NamedTuple):
    """Outcome of one step."""

    removed: int
    more: bool
    """True if more rows may remain."""


def cut(oldest: datetime, newest: datetime, kept: timedelta, now: datetime) -> datetime | None:
    """Return the time before which this round removes rows; None if no row has expired.

    Args:
        oldest: time of the oldest row that may be removed.
        newest: time of the newest row, to which the age is relative if the clock is ahead.
    """
    before = min(newest, now) - kept
    return min(before, oldest + MOST_AT_ONCE) if oldest < before else None


def _one_of(keys: Sequence[sa.Column[Any]], rows: Sequence[Sequence[Any]]) -> sa.ColumnElement[bool]:
    if len(keys) == 1:
        return keys[0].in_([row[0] for row in rows])
    return sa.tuple_(*keys).in_([tuple(row) for row in rows])
