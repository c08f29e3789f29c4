"""Watch the ledger for changes of monitors, servers and settings, and pass them to the parts that handle them."""

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from runtime.db.engine import reading, to_db, transaction
from runtime.db.queue import REVIEWS
from runtime.db.system_settings import Intervals, Reviews
from runtime.worker import Worker
from schema.tables import monitors, server_scores
from selector.assignments import has_topics
from selector.config import monitor_configs
from selector.config_publisher import ConfigPublisher
from selector.metrics import SelectorMetrics
from selector.monitors import Monitors, is_real, read_monitors
from selector.pairs import PairLoop
from selector.reconcile import Reconciler
from selector.review_loop import ReviewLoop
from selector.row_warnings import RowWarnings
from selector.triggers import PRESENCE, record_monitor_changes

CHECK_EVERY: Final = 5.0
"""Seconds between two checks."""

FLAPPING_WITHIN: Final = 900.0
"""Seconds within which a change of a monitor's presence makes its servers due at most once (debounce), since its
messages may report both states arbitrarily often. Every review uses the current presence."""

COUNT_EVERY: Final = 60.0
"""Seconds between two counts of all pairs."""

HEAL_EVERY: Final = 60.0
"""Seconds between two checks for servers whose next review was scheduled with a wrong clock."""


class Watch:
    """Periodic comparison of the ledger with its last state."""

    def __init__(
        self,
        worker: Worker,
        review_loop: ReviewLoop,
        pair_loop: PairLoop,
        reconciler: Reconciler,
        configs: ConfigPublisher,
        row_warnings: RowWarnings,
        metrics: SelectorMetrics,
    ) -> None:
        self._worker = worker
        self._review_loop = review_loop
        self._pair_loop = pair_loop
        self._reconciler = reconciler
        self._configs = configs
        self._row_warnings = row_warnings
        self._metrics = metrics
        self._monitors = Monitors((), {})
        self._intervals: Intervals | None = None
        self._connections = 0
        self._doubts = 0
        self._moved: dict[int, float] = {}
        """Time at which a change of a monitor's presence last made its servers due."""

    def is_known(self, name: str) -> bool:
        """Return whether the ledger has a monitor of this name."""
        return name in self._monitors.names

    async def load(self) -> None:
        """Read the monitors for :meth:`is_known`, before the first status message is handled."""
        self._monitors = await self._worker.in_database(self._read)

    def add_jobs(self) -> None:
        """Add the periodic jobs that check and count."""
        add, undisturbed = self._worker.jobs.add, self._worker.undisturbed
        # All other parts receive the monitors and configs from the watch, so the worker cannot continue without it.
        add("watch", CHECK_EVERY, self.check, at_once=True, when=self._worker.clock.agreed, vital=True)
        add("pair counts", COUNT_EVERY, self.count_pairs, at_once=True, when=undisturbed)
        add("healing", HEAL_EVERY, self.heal, at_once=True, when=undisturbed)

    async def check(self) -> None:
        """Check once, and pass on all changes."""
        known_monitors = await self._worker.in_database(self._read)
        before, self._monitors = self._monitors, known_monitors
        self._warn_of_account_flags()
        self._check_agents(before)
        await self._check_settings()
        await self._check_monitors()
        self._pair_loop.set_monitors(known_monitors.monitors)
        await self._count_backlog()  # now, to include the changes just found

    def _read(self) -> Monitors:
        with reading(self._worker.engine) as connection:
            found = read_monitors(connection, datetime.now(UTC))
        topics = self._worker.topics
        addressable = (row for row in found.monitors if row.named and has_topics(row.name, topics, self._row_warnings))
        return Monitors(tuple(addressable), found.defaults)

    def _warn_of_account_flags(self) -> None:
        """Warn about invalid account flags, which the reviews silently replace with the default."""
        odd = {row.account_id: row.limit.odd for row in self._monitors.monitors if row.limit.odd}
        for account_id, what in odd.items():
            self._row_warnings.warn("account", account_id or 0, what)

    def _check_agents(self, before: Monitors) -> None:
        """Pass the monitors to the reconciler, and mark those that began or ceased to probe."""
        self._reconciler.set_monitors(self._monitors.names)
        for name in _probing(before) ^ _probing(self._monitors):
            self._reconciler.mark(name[0])
        connections, doubts = self._worker.broker.connections, self._worker.doubts.count
        if doubts != self._doubts:
            # The outcome of a commit was unknown, so reviews may have been committed without being published.
            self._mark_all()
        if connections != self._connections and connections > 1:
            # A broker that was unavailable may have lost acknowledged messages.
            self._configs.invalidate()
            self._mark_all()
        self._connections, self._doubts = connections, doubts

    async def _check_settings(self) -> None:
        pool = await self._worker.in_database(self._worker.pool.get)
        if self._intervals is not None and pool.monitors != self._intervals:
            self._mark_all()
        self._intervals = pool.monitors
        rows, defaults = self._monitors.monitors, self._monitors.defaults
        self._configs.set_wanted(monitor_configs(rows, defaults, pool.monitors.samples, self._row_warnings.warn))

    async def _check_monitors(self) -> None:
        rows, now = self._monitors.monitors, time.monotonic()
        self._moved = {monitor: at for monitor, at in self._moved.items() if now - at < FLAPPING_WITHIN}
        note = partial(record_monitor_changes, self._worker.engine, rows, datetime.now(UTC), frozenset(self._moved))
        news = await self._worker.in_database(note)
        for one in news:
            self._metrics.made_due(one.what[0], one.servers)
            if not PRESENCE.isdisjoint(one.what):
                self._moved[one.monitor_id] = now
        if news:
            self._review_loop.wake()

    async def _count_backlog(self) -> None:
        """Count the servers that are due for review, for the metrics and the answer to ``status``."""
        due = await self._worker.in_database(self._backlog)
        self._metrics.backlog(due)
        review_loop, status = self._review_loop, self._worker.status
        status |= {"due": due, "reviewed": review_loop.reviewed, "reconciling": self._reconciler.waiting}

    async def count_pairs(self) -> None:
        """Count all pairs, for the metrics."""
        self._metrics.pools(*await self._worker.in_database(self._pools))

    async def heal(self) -> None:
        """Make servers due whose next review was scheduled with a wrong clock."""
        engine = self._worker.engine
        reviews = (await self._worker.in_database(self._worker.pool.get)).selector
        if await self._worker.in_database(partial(heal_reviews, engine, reviews, to_db(datetime.now(UTC)))):
            self._review_loop.wake()

    def _backlog(self) -> int:
        with reading(self._worker.engine) as connection:
            return REVIEWS.backlog(connection, to_db(datetime.now(UTC))).due

    def _pools(self) -> tuple[dict[str, int], dict[str, int]]:
        pairs, violation = server_scores.c, server_scores.c.constraint_violation_type
        of_monitors = pairs.monitor_id.in_(sa.select(monitors.c.id).where(is_real()))
        statuses = sa.select(pairs.status, sa.func.count()).where(of_monitors).group_by(pairs.status)
        violations = sa.select(violation, sa.func.count()).where(violation.is_not(None)).group_by(violation)
        with reading(self._worker.engine) as connection:
            by_status = {str(status): count for status, count in connection.execute(statuses)}
            return by_status, {str(kind): count for kind, count in connection.execute(violations)}

    def _mark_all(self) -> None:
        for name in self._monitors.names:
            self._reconciler.mark(name)


def heal_reviews(engine: Engine, reviews: Reviews, now: datetime) -> int:
    """Make servers due whose next review is later than any review schedules it, since a clock was ahead."""
    longest = timedelta(seconds=max(reviews.review_changed, reviews.review_unchanged) + 60)
    return transaction(engine, lambda connection: REVIEWS.heal(connection, now, now + longest))


def _probing(known_monitors: Monitors) -> set[tuple[str, str]]:
    return {(row.name, row.ipv) for row in known_monitors.monitors if row.live}
