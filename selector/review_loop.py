"""Run two loops: one reviews servers that are due, the other publishes the changes of the reviews."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final

from runtime.wakeup import Wakeup
from runtime.worker import Worker
from schema.messages import AssignmentChanged
from selector.metrics import SelectorMetrics
from selector.publisher import Publisher
from selector.reviews import BATCH, Reviewed, review_due
from selector.row_warnings import RowWarnings
from selector.store import Pair

log = logging.getLogger(__name__)

POLL: Final = 1.0
"""Seconds between two polls for due servers, if the last one found fewer than a batch."""

LONGEST: Final = 0.25
"""Target maximum duration of a review transaction in seconds: agents wait for all of its decisions, and other processes
for its locks. With sixty monitors per server it fits a full batch, with hundreds fewer reviews."""

UNPUBLISHED: Final = 50
"""Maximum transactions with unpublished changes; further reviews wait."""

PUBLISH_FIRST: Final = 0.25
"""Maximum seconds for which the next reviews wait for publishing of the last changes, which usually takes a tenth of
it. Otherwise reviews would compete for the processor with messages for which agents wait."""

PUBLISH_TOGETHER: Final = 500
"""Approximate number of pairs that are published after one read of the ledger."""


class ReviewLoop:
    """Loop that reviews due servers. A pause stops only reviews; earlier decisions are still published."""

    def __init__(
        self, worker: Worker, publisher: Publisher, row_warnings: RowWarnings, metrics: SelectorMetrics
    ) -> None:
        self._worker = worker
        self._publisher = publisher
        self._row_warnings = row_warnings
        self._metrics = metrics
        self._unpublished: asyncio.Queue[Sequence[Pair]] = asyncio.Queue(UNPUBLISHED)
        self._wakeup = Wakeup()
        self._under_way = asyncio.Lock()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._together = BATCH
        self.reviewed = 0
        """Number of reviewed servers since the start."""

    @property
    def paused(self) -> bool:
        """Return whether reviews are paused."""
        return not self._resumed.is_set()

    async def pause(self) -> None:
        """Start no further review, and wait for the end of a running one."""
        self._resumed.clear()
        async with self._under_way:
            pass

    def resume(self) -> None:
        """Resume reviews."""
        self._resumed.set()

    def wake(self) -> None:
        """Review at once, since a server is due."""
        self._wakeup.set()

    async def run(self) -> None:
        """Review until cancelled."""
        while True:
            await self._resumed.wait()
            # With a wrong clock, every monitor would be gone or have no results of the last day.
            await self._worker.clock.agreed()
            self._wakeup.clear()
            async with self._under_way:
                if self.paused:
                    continue
                together = self._together
                with self._worker.rounds.one("reviews"):
                    reviewed, seconds = await self._worker.in_database(partial(self._review, together))
            self._together = next_together(len(reviewed), seconds)
            for one in reviewed:
                self._count(one, seconds / len(reviewed))
            try:
                await self._publish_first([pair for one in reviewed for pair in one.touched])
            finally:
                for one in reviewed:
                    self._notify(one)
            if len(reviewed) < together:
                await self._wakeup.wait(POLL)

    async def publish(self) -> None:
        """Publish the changes of the reviews until cancelled."""
        while True:
            together = [await self._unpublished.get()]
            while sum(map(len, together)) < PUBLISH_TOGETHER and not self._unpublished.empty():
                together.append(self._unpublished.get_nowait())
            await self._publisher.publish_pairs([pair for pairs in together for pair in pairs])
            for _ in together:
                self._unpublished.task_done()

    async def _publish_first(self, touched: Sequence[Pair]) -> None:
        """Enqueue these pairs for publishing, and wait briefly, so that agents are notified before the next review."""
        if not touched:
            return
        await self._unpublished.put(touched)
        with suppress(TimeoutError):
            async with asyncio.timeout(PUBLISH_FIRST):
                await self._unpublished.join()

    def _review(self, together: int) -> tuple[list[Reviewed], float]:
        began = time.perf_counter()
        reviewed = review_due(self._worker.engine, self._worker.pool.get(), datetime.now(UTC), together)
        return reviewed, time.perf_counter() - began

    def _count(self, reviewed: Reviewed, seconds: float) -> None:
        self.reviewed += 1
        self._metrics.reviewed(reviewed, seconds)

    def _notify(self, reviewed: Reviewed) -> None:
        log_review(reviewed, self._row_warnings)
        topic = self._worker.topics.assignment_event(reviewed.server_id)
        for change in reviewed.changes:
            event = AssignmentChanged(
                server_id=reviewed.server_id,
                monitor=reviewed.name(change.monitor_id),
                before=change.from_status.value,
                after=change.to_status.value,
                reason=f"{change.rule}: {change.reason}",
            )
            self._worker.live.offer(topic, event)


def next_together(reviewed: int, seconds: float) -> int:
    """Return the number of servers for the next transaction, from the number and duration of the last one."""
    return max(1, min(BATCH, round(LONGEST * reviewed / seconds))) if reviewed else BATCH


def log_review(reviewed: Reviewed, row_warnings: RowWarnings) -> None:
    """Log the changes of a review and the rows that it skipped."""
    for change in reviewed.changes:
        log.info(
            "server %d: %s: %s to %s: %s: %s",
            reviewed.server_id,
            reviewed.name(change.monitor_id),
            change.from_status.value,
            change.to_status.value,
            change.rule,
            change.reason,
        )
    if reviewed.problem:
        row_warnings.warn("server", reviewed.server_id, f"not reviewed: {reviewed.problem}")
    for skipped in reviewed.skipped:
        row_warnings.warn("monitor", skipped.name, f"skipped in reviews: {skipped.reason}")
