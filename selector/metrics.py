"""The selector's metrics: what it decided, what it found, how long it took, and what still waits."""

from collections.abc import Mapping

from opentelemetry.metrics import Counter, Meter

from selector.reviews import Reviewed


class SelectorMetrics:
    """Counters and gauges of one selector. Any thread may use them."""

    def __init__(self, meter: Meter) -> None:
        def counter(name: str, description: str) -> Counter:
            return meter.create_counter(f"ntppool.selector.{name}", description=description)

        self._reviews = counter("reviews", "servers reviewed, by outcome")
        self._changes = counter("status_changes", "moves of monitors, by from, to and rule")
        self._published = counter("published", "retained messages that the broker took")
        self._lost = counter("publish_lost", "retained messages that it did not take")
        self._repairs = counter("repairs", "messages repaired by reconciliation, by what was wrong")
        self._made_due = counter("made_due", "servers made due for review, by what happened")
        self._made = counter("pairs_made", "pairs made as candidates")
        self.bad_rows = counter("bad_rows", "rows that could not be used, each time, by kind")
        self._seconds = meter.create_histogram(
            "ntppool.selector.review", unit="s", description="time of a review with the database"
        )
        self._rules = meter.create_histogram(
            "ntppool.selector.rules", unit="s", description="time of a review's rules alone"
        )
        self._due = meter.create_gauge("ntppool.selector.due", description="servers that wait for review")
        self._pairs = meter.create_gauge("ntppool.selector.pairs", description="pairs, by status")
        self._violations = meter.create_gauge("ntppool.selector.violations", description="stored violations, by type")
        self._known: set[tuple[str, str]] = set()

    def reviewed(self, reviewed: Reviewed, seconds: float) -> None:
        """A server was reviewed, in so many seconds with its share of the transaction."""
        self._reviews.add(1, {"outcome": reviewed.outcome})
        self._seconds.record(seconds)
        self._rules.record(reviewed.seconds)
        for change in reviewed.changes:
            labels = {"from": change.from_status.value, "to": change.to_status.value, "rule": change.rule}
            self._changes.add(1, labels)

    def published(self, taken: int, lost: int) -> None:
        """So many retained messages were taken by the broker, and not taken."""
        self._published.add(taken)
        self._lost.add(lost)

    def repaired(self, what: str, count: int) -> None:
        """Reconciliation found so many messages that were ``missing``, ``different``, ``stale`` or ``config``."""
        if count:
            self._repairs.add(count, {"what": what})

    def made_due(self, why: str, count: int) -> None:
        """So many servers are due for review because of ``why``."""
        if count:
            self._made_due.add(count, {"why": why})

    def made_pairs(self, count: int) -> None:
        """So many pairs were made."""
        self._made.add(count)

    def backlog(self, due: int) -> None:
        """So many servers wait for review."""
        self._due.set(due)

    def pools(self, pairs: Mapping[str, int], violations: Mapping[str, int]) -> None:
        """How many pairs have each status, and how many violate each constraint. What is gone is 0, not as it was."""
        for name, gauge, label, found in (
            ("pairs", self._pairs, "status", pairs),
            ("violations", self._violations, "type", violations),
        ):
            self._known |= {(name, key) for key in found}
            for known, key in self._known:
                if known == name:
                    gauge.set(found.get(key, 0), {label: key})
