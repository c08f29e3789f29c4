"""Define the metrics of ingest, and totals since the start for the answer to the command ``status``."""

import collections
from typing import Final

from opentelemetry.metrics import CallbackOptions, Counter, Meter, Observation

from ingest.plan import Plan
from ingest.queue import SubmissionQueue

IGNORED: Final = "unknown topic"
QUEUE_FULL: Final = "queue is full"
RATE_LIMITED: Final = "rate limit exceeded"
CLOCK_IS_DOUBTED: Final = "clock is not trusted"
WAITED_TOO_LONG: Final = "waited too long"
UNREADABLE_FULL: Final = "too many unreadable messages"
ACKS_FULL: Final = "too many acks"
ACK_FAILED: Final = "ack was not delivered"


class IngestMetrics:
    """Counters of one worker; called once per transaction or dropped message, never per result."""

    def __init__(self, meter: Meter, queue: SubmissionQueue) -> None:
        self.totals = collections.Counter[str]()

        def counter(name: str, description: str) -> Counter:
            return meter.create_counter(f"ntppool.ingest.{name}", description=description)

        self._batches = counter("batches", "batches committed")
        self._duplicates = counter("duplicates", "batches that had been committed before")
        self._stored = counter("stored", "results committed and scored")
        self._rejected = counter("rejected", "results not stored, by reason")
        self._unreadable = counter("unreadable", "undecodable messages")
        self._dropped = counter("dropped", "dropped messages, by reason; senders retry important ones")
        self._expired = counter("expired", "expired rows removed, by table")
        self._seconds = meter.create_histogram(
            "ntppool.ingest.transaction", unit="s", description="duration of a transaction"
        )

        def depth(options: CallbackOptions) -> list[Observation]:
            return [Observation(queue.results)]

        meter.create_observable_gauge("ntppool.ingest.waiting", [depth], description="results in the queue")

    def committed(self, plan: Plan, seconds: float) -> None:
        """Count a committed transaction, which took ``seconds``."""
        new, stored = len(plan.acks) - plan.duplicates, len(plan.log_rows)
        self._batches.add(new)
        self._stored.add(stored)
        self._duplicates.add(plan.duplicates)
        self._seconds.record(seconds)
        for reason, count in plan.rejected.items():
            self._rejected.add(count, {"reason": reason})
        self.totals.update(batches=new, stored=stored, duplicates=plan.duplicates, rejected=plan.rejected.total())

    def unreadable(self) -> None:
        """Count an undecodable message."""
        self._unreadable.add(1)
        self.totals["unreadable"] += 1

    def dropped(self, reason: str) -> None:
        """Count a dropped message; the sender retries important ones."""
        self._dropped.add(1, {"reason": reason})
        self.totals[reason] += 1

    def expired(self, table: str, rows: int) -> None:
        """Count expired rows that were removed from ``table``."""
        self._expired.add(rows, {"table": table})
