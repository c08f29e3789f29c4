"""What is old leaves the ledger, in steps so small that nobody waits for them, and never much at once.

How old a row is, its table tells as well as the clock: rows are as old as they are older than the newest one. A clock
that is ahead therefore removes nothing early, and after a time without results everything is still there. Rows that
others refer to stay. Several workers may do this at the same time: each step takes rows that no other one has taken.
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
from schema.limits import BATCH_MEMORY, REJECTED_MEMORY
from schema.tables import assignment_changes, ledger_origin, log_scores, rejected_messages, result_batches

log = logging.getLogger(__name__)

STEP: Final = 1_000
"""Rows of one transaction: some tens of milliseconds."""

CHANGES_MEMORY: Final = timedelta(days=90)
"""How long it can be told why a monitor was moved; and longer than a late result needs it."""

LOG_DAYS: Final = 15
"""Days for which log rows are kept in a ledger that we made."""

MOST_AT_ONCE: Final = timedelta(hours=2)
"""What one round removes at most, as the time that its rows span. Rounds are minutes apart, so it is enough to follow,
and to catch up in days with what is months old; and whoever has set something wrong has days to notice."""

MOST_REFUSED: Final = 1_000
"""Rows that a worker passes over because the database refuses to remove them, although nothing that it can see refers
to them."""

_COUNT: Final = 1_000_000
"""Rows that are counted at most."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """A table whose rows have an age."""

    table: sa.Table
    age: sa.Column[Any]
    """The column that tells it; it has an index."""
    kept: timedelta


@dataclass(frozen=True, slots=True)
class RetentionForecast:
    """What retention will do with a table, for those who are to know it in advance."""

    what: Expiring
    rows: int
    """That are too old, up to a million."""
    oldest: datetime | None
    kept_by: tuple[Referrer, ...]

    def __str__(self) -> str:
        name, days = self.what.table.name, self.what.kept / timedelta(days=1)
        if not self.rows:
            return f"{name}: rows are kept for {days:g} days; none is older"
        number = f"{_COUNT} or more" if self.rows >= _COUNT else f"{self.rows}"
        referring = f", unless {' or '.join(map(str, self.kept_by))} refers to them" if self.kept_by else ""
        return (
            f"{name}: rows are kept for {days:g} days; {number} are older, since {self.oldest:%Y-%m-%d %H:%M}, "
            f"and will be removed, at most {MOST_AT_ONCE / timedelta(hours=1):g} hours of them a round{referring}"
        )


def kept_log_scores(days: int | None, *, adopted: bool) -> timedelta | None:
    """How long log rows are kept: as the operator says, else 15 days, but those of others for ever (None)."""
    if days is None and adopted:
        return None
    return timedelta(days=LOG_DAYS if days is None else days)


def is_adopted(engine: Engine) -> bool:
    """Whether the ledger was the pool's before it was ours."""
    with reading(engine) as connection:
        return bool(connection.scalar(sa.select(ledger_origin.c.adopted)))


def expiring(kept_of_log_scores: timedelta | None) -> list[Expiring]:
    """All that is removed for its age; no log rows without a time for them."""
    ours = [
        Expiring(result_batches, result_batches.c.received_on, BATCH_MEMORY),
        Expiring(rejected_messages, rejected_messages.c.last_seen, REJECTED_MEMORY),
        Expiring(assignment_changes, assignment_changes.c.changed_on, CHANGES_MEMORY),
    ]
    return ours if kept_of_log_scores is None else [Expiring(log_scores, log_scores.c.ts, kept_of_log_scores), *ours]


class Retention:
    """The removing from one table, by one worker."""

    def __init__(self, engine: Engine, what: Expiring) -> None:
        self.what = what
        self._engine = engine
        self._delete = BulkDelete(what.table).execute
        self._refused: set[tuple[Any, ...]] = set()

    def forecast(self, now: datetime) -> RetentionForecast:
        """What is to be removed at ``now``. All times are UTC without a zone."""
        age, table = self.what.age, self.what.table
        with reading(self._engine) as connection:
            oldest, newest = connection.execute(sa.select(sa.func.min(age), sa.func.max(age))).one()
            if oldest is None:
                return RetentionForecast(self.what, 0, None, ())
            old = sa.select(sa.literal(1)).where(age < min(newest, now) - self.what.kept).limit(_COUNT).subquery()
            rows = connection.scalar(sa.select(sa.func.count()).select_from(old)) or 0
            return RetentionForecast(self.what, rows, oldest, referrers_of(connection, table))

    def round(self, now: datetime) -> "Round | None":
        """What is to be removed now; None when nothing is too old.

        Raises:
            DatabaseUnavailable: it may be called again.
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
        """Removes up to :data:`STEP` rows.

        Raises:
            DatabaseUnavailable: it may be called again.
        """
        try:
            return transaction(self._engine, partial(self._remove, found=found))
        except IntegrityError:
            return self._one_by_one(found)

    def _one_by_one(self, found: "Round") -> "Step":
        """Something refers to one of the rows that does not let us see it, or has just begun to."""
        keys = self._keys(found)
        removed, name = 0, self.what.table.name
        for key in keys:
            try:
                transaction(self._engine, partial(self._delete, keys=[key]))
                removed += 1
            except IntegrityError:
                if len(self._refused) >= MOST_REFUSED:
                    log.error("%s: too many rows are referred to by something; the rest stays, too", name)
                    return Step(removed, more=False)
                self._refused.add(key)
                log.warning("%s: the row with key %s stays, since something refers to it", name, key)
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
    """What is removed of a table in one go."""

    before: datetime
    referrers: tuple[Referrer, ...]


class Step(NamedTuple):
    """What became of up to :data:`STEP` rows."""

    removed: int
    more: bool
    """Whether there may be others."""


def cut(oldest: datetime, newest: datetime, kept: timedelta, now: datetime) -> datetime | None:
    """The time before which rows are removed in this round; None when none is too old.

    Args:
        oldest: of the rows that may be removed.
        newest: of all rows: those of a clock that is ahead are no older than the others make them.
    """
    before = min(newest, now) - kept
    return min(before, oldest + MOST_AT_ONCE) if oldest < before else None


def _one_of(keys: Sequence[sa.Column[Any]], rows: Sequence[Sequence[Any]]) -> sa.ColumnElement[bool]:
    if len(keys) == 1:
        return keys[0].in_([row[0] for row in rows])
    return sa.tuple_(*keys).in_([tuple(row) for row in rows])
