"""Define the notifier's metrics: changes of alerts, messages, and what waits."""

from collections.abc import Iterable, Mapping

from opentelemetry.metrics import Meter

from notifier.model import Change
from notifier.rules import KINDS


class NotifierMetrics:
    """Counters and gauges of one notifier."""

    def __init__(self, meter: Meter) -> None:
        self._changes = meter.create_counter("ntppool.notifier.changes", description="alerts raised and cleared")
        self._messages = meter.create_counter("ntppool.notifier.messages", description="attempts to send a message")
        self._raised = meter.create_gauge("ntppool.notifier.raised", description="alerts that are raised")
        self._waiting = meter.create_gauge("ntppool.notifier.waiting", description="changes that no message has yet")
        self._oldest = meter.create_gauge(
            "ntppool.notifier.oldest", unit="s", description="age of the oldest message that is not delivered"
        )
        self._failing = meter.create_gauge("ntppool.notifier.failing", description="channels that take no messages")

    def changed(self, changes: Iterable[Change]) -> None:
        """Count changes."""
        for change in changes:
            self._changes.add(1, {"kind": change.key.kind, "to": "raised" if change.raised else "cleared"})

    def sent(self, sent: bool) -> None:
        """Count an attempt."""
        self._messages.add(1, {"outcome": "sent" if sent else "failed"})

    def raised(self, counts: Mapping[str, int]) -> None:
        """Set the number of raised alerts of each kind in ``counts``; of others, 0 if they are in the ledger."""
        for kind in KINDS:
            self._raised.set(counts.get(kind, 0), {"kind": kind})

    def waiting(self, changes: int, oldest_seconds: float, failing: int) -> None:
        """Set what waits."""
        self._waiting.set(changes)
        self._oldest.set(oldest_seconds)
        self._failing.set(failing)
