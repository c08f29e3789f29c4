"""Commit the queued batches to the ledger, one transaction after the other, and acknowledge them only after the commit.

Each transaction includes all queued batches, so that a single batch is committed immediately, and many share the cost
of a commit. Concurrent transactions would not help: two full ones always have servers in common and wait for row locks.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from ingest.acks import Acks
from ingest.last_seen import LastSeen, Seen
from ingest.messages import Submission, UndecodableMessage
from ingest.metrics import WAITED_TOO_LONG, IngestMetrics
from ingest.persist import ContentRefused, persist
from ingest.plan import Plan
from ingest.queue import SubmissionQueue
from ingest.rate_limit import Sender
from ingest.tracing import record_arrivals, traced_commit
from ingest.transaction import commit
from ingest.undecodable import UndecodableMessages
from runtime.clock import ClockDoubted
from runtime.db.engine import utc_now
from runtime.log import RateLimitedLog
from runtime.worker import Worker
from schema.messages import encode

log = logging.getLogger(__name__)

MOST_RESULTS: Final = 1_000
"""Maximum results per transaction; it holds its row locks for about a tenth of a second."""

_ENOUGH: Final = MOST_RESULTS // 2
"""Number of queued results from which transactions follow each other without a pause."""

_REST: Final = 0.02
"""Seconds between two transactions while few results are queued. A transaction costs about as much as forty results, so
at a low rate it pays to collect a few batches."""

_STALE: Final = timedelta(hours=1)
"""Maximum time in the queue after which a batch is still committed; batches wait while ingest is paused or the database
is unavailable. The monitor has sent an older batch again long before, perhaps to another worker, and the ledger keeps
batch ids only for a limited time."""

_CALM: Final = MOST_RESULTS
"""Maximum queued results with which events are still published to the live stream; with more, storing has priority."""


class Committer:
    """Consumer of the queue that commits submissions to the ledger."""

    def __init__(
        self,
        worker: Worker,
        queue: SubmissionQueue,
        acks: Acks,
        undecodable: UndecodableMessages,
        last_seen: LastSeen,
        metrics: IngestMetrics,
    ) -> None:
        self._worker = worker
        self._queue = queue
        self._acks = acks
        self._undecodable = undecodable
        self._last_seen = last_seen
        self._metrics = metrics
        self._warning = RateLimitedLog(log)
        self._resumed = asyncio.Event()
        self._resumed.set()

    @property
    def paused(self) -> bool:
        """Return whether an operator has paused it."""
        return not self._resumed.is_set()

    def pause(self) -> None:
        """Pause after the current transaction."""
        self._resumed.clear()

    def resume(self) -> None:
        """Resume."""
        self._resumed.set()

    async def run(self) -> None:
        """Commit submissions until cancelled; a running transaction is completed."""
        while True:
            submissions = await self._queue.pop(MOST_RESULTS)
            await self._resumed.wait()
            await self._commit(record_arrivals(self._worker.telemetry.tracer, submissions))
            if self._queue.results < _ENOUGH:
                await asyncio.sleep(_REST)

    async def _commit(self, submissions: Sequence[Submission]) -> None:
        try:
            plan = await self._persist(submissions)
        except ContentRefused as error:
            await self._isolate(submissions, str(error))
        else:
            self._answer(plan)

    async def _isolate(self, submissions: Sequence[Submission], reason: str) -> None:
        """Commit each submission in its own transaction, so that the invalid one does not affect the others."""
        if len(submissions) == 1:
            self._refuse(submissions[0], reason)
            return
        for submission in submissions:
            await self._commit([submission])

    async def _persist(self, submissions: Sequence[Submission]) -> Plan:
        with traced_commit(self._worker.telemetry.tracer, submissions) as traced:
            began = time.monotonic()
            plan = await self._when_trusted(partial(self._write, traced))
            self._metrics.committed(plan, time.monotonic() - began)
        for _ in range(len(submissions) - len(plan.acks)):
            self._metrics.dropped(WAITED_TOO_LONG)
        return plan

    async def _when_trusted(self, write: Callable[[datetime], Plan]) -> Plan:
        """Run ``write`` when the clock is trusted, since it writes times."""
        clock = self._worker.clock
        while True:
            await clock.agreed()
            try:
                with self._worker.rounds.one("results"):
                    return await persist(self._worker, lambda: write(clock.now()))
            except ClockDoubted:
                log.debug("the clock was set during a transaction")

    def _write(self, submissions: Sequence[Submission], now: datetime) -> Plan:
        intervals = self._worker.pool.get().monitors
        return commit(self._worker.engine, still_fresh(submissions), now, intervals)

    def _answer(self, plan: Plan) -> None:
        for submission, ack in plan.acks:
            self._acks.offer(submission.name, submission.ipv, ack, submission.trace_parent)
        now = utc_now()
        versions: dict[Sender, str] = {(s.name, s.ipv): s.batch.version for s, _ in plan.acks}
        self._last_seen.add(
            Seen(monitor_id, now, submitted=now, version=versions[sender])
            for sender, monitor_id in plan.monitor_ids.items()
        )
        if self._queue.results <= _CALM:
            for event in plan.events():
                trace = plan.newest[event.server_id][0].trace
                self._worker.live.offer(self._worker.topics.result_event(event.server_id), event, trace)

    def _refuse(self, submission: Submission, reason: str) -> None:
        text = "batch %s of %s cannot be stored: %s"
        self._warning.log(logging.ERROR, submission.name, text, submission.batch.id, submission.name, reason)
        topic = self._worker.topics.results(submission.name, submission.ipv)
        payload = encode(submission.batch)
        why = f"cannot be stored: {reason}"
        self._undecodable.offer(
            UndecodableMessage(topic, payload, why, submission.name, submission.ipv, submission.batch.id)
        )


def still_fresh(submissions: Sequence[Submission]) -> list[Submission]:
    """Return those of ``submissions`` that have not waited too long."""
    oldest = datetime.now(UTC) - _STALE
    return [submission for submission in submissions if submission.arrived >= oldest]
