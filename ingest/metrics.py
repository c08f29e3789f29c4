"""What ingest counts: as metrics, and as totals since its start for the answer to the command ``status``."""

import collections
from typing import Final

from opentelemetry.metrics import CallbackOptions, Counter, Meter, Observation

from ingest.plan import Plan
from ingest.queue import SubmissionQueue

IGNORED: Final = "no topic of ours"
INTAKE_FULL: Final = "queue is full"
THROTTLED: Final = "monitor is throttled"
CLOCK_IS_DOUBTED: Final = "our clock is doubted"
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
        self._unreadable = counter("unreadable", "messages that were not what their topic promises")
        self._dropped = counter("dropped", "messages left aside, by reason; what matters is sent again")
        self._expired = counter("expired", "rows removed for their age, by table")
        self._seconds = meter.create_histogram(
            "ntppool.ingest.transaction", unit="s", description="time of one transaction"
        )

        def depth(options: CallbackOptions) -> list[Observation]:
            return [Observation(queue.results)]

        meter.create_observable_gauge("ntppool.ingest.waiting", [depth], description="results that wait")

    def committed(self, plan: Plan, seconds: float) -> None:
        """A transaction was committed, within ``seconds``."""
        new, stored = len(plan.acks) - plan.duplicates, len(plan.log_rows)
        self._batches.add(new)
        self._stored.add(stored)
        self._duplicates.add(plan.duplicates)
        self._seconds.record(seconds)
        for reason, count in plan.rejected.items():
            self._rejected.add(count, {"reason": reason})
        self.totals.update(batches=new, stored=stored, duplicates=plan.duplicates, rejected=plan.rejected.total())

    def unreadable(self) -> None:
        """A message was not what its topic promises."""
        self._unreadable.add(1)
        self.totals["unreadable"] += 1

    def dropped(self, reason: str) -> None:
        """A message was left aside; if it matters, its sender sends it again."""
        self._dropped.add(1, {"reason": reason})
        self.totals[reason] += 1

    def expired(self, table: str, rows: int) -> None:
        """Rows of ``table`` were removed because of their age."""
        self._expired.add(rows, {"table": table})
