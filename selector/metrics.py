"""Define the selector's metrics: decisions, invalid rows, durations and backlog."""

from collections.abc import Mapping

from opentelemetry.metrics import Counter, Meter

from selector.reviews import Reviewed


class SelectorMetrics:
    """Counters and gauges of one selector. Thread-safe."""

    def __init__(self, meter: Meter) -> None:
        def counter(name: str, description: str) -> Counter:
            return meter.create_counter(f"ntppool.selector.{name}", description=description)

        self._reviews = counter("reviews", "servers reviewed, by outcome")
        self._changes = counter("status_changes", "changes of monitors' statuses, by from, to and rule")
        self._published = counter("published", "retained messages that the broker acknowledged")
        self._lost = counter("publish_lost", "retained messages that the broker did not acknowledge")
        self._repairs = counter("repairs", "messages repaired by reconciliation, by difference")
        self._made_due = counter("made_due", "servers made due for review, by event")
        self._made = counter("pairs_made", "pairs created as candidates")
        self.bad_rows = counter("bad_rows", "uses of invalid rows, by kind")
        self._seconds = meter.create_histogram(
            "ntppool.selector.review", unit="s", description="duration of a review including the database"
        )
        self._rules = meter.create_histogram(
            "ntppool.selector.rules", unit="s", description="duration of a review's rules"
        )
        self._due = meter.create_gauge("ntppool.selector.due", description="servers that are due for review")
        self._pairs = meter.create_gauge("ntppool.selector.pairs", description="pairs, by status")
        self._violations = meter.create_gauge("ntppool.selector.violations", description="stored violations, by type")
        self._labels = meter.create_gauge(
            "ntppool.selector.monitor_labels", description="monitors that have a health label, by label"
        )
        self._known: set[tuple[str, str]] = set()

    def reviewed(self, reviewed: Reviewed, seconds: float) -> None:
        """Count a review and its changes; ``seconds`` includes its share of the transaction."""
        self._reviews.add(1, {"outcome": reviewed.outcome})
        self._seconds.record(seconds)
        self._rules.record(reviewed.seconds)
        for change in reviewed.changes:
            labels = {"from": change.from_status.value, "to": change.to_status.value, "rule": change.rule}
            self._changes.add(1, labels)

    def published(self, acknowledged: int, lost: int) -> None:
        """Count retained messages that the broker acknowledged, and those that it did not."""
        self._published.add(acknowledged)
        self._lost.add(lost)

    def repaired(self, what: str, count: int) -> None:
        """Count messages that reconciliation repaired: ``missing``, ``different``, ``stale`` or ``config``."""
        if count:
            self._repairs.add(count, {"what": what})

    def made_due(self, why: str, count: int) -> None:
        """Count servers that became due for review because of ``why``."""
        if count:
            self._made_due.add(count, {"why": why})

    def made_pairs(self, count: int) -> None:
        """Count created pairs."""
        self._made.add(count)

    def backlog(self, due: int) -> None:
        """Set the number of servers that are due for review."""
        self._due.set(due)

    def health(self, monitors: Mapping[str, int]) -> None:
        """Set the number of monitors that have each health label."""
        for label, count in monitors.items():
            self._labels.set(count, {"label": label})

    def pools(self, pairs: Mapping[str, int], violations: Mapping[str, int]) -> None:
        """Set the numbers of pairs by status, and of violations by type; a label that has disappeared is set to 0."""
        for name, gauge, label, found in (
            ("pairs", self._pairs, "status", pairs),
            ("violations", self._violations, "type", violations),
        ):
            self._known |= {(name, key) for key in found}
            for known, key in self._known:
                if known == name:
                    gauge.set(found.get(key, 0), {label: key})
