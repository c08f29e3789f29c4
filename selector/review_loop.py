"""The loop that reviews what is due, and the one that publishes what the reviews changed."""

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
"""Seconds between two looks for servers that are due, when there were few or none."""

LONGEST: Final = 0.25
"""Seconds that a transaction of reviews should take at most: agents wait for all of its decisions, and others for its
locks. With sixty monitors a server that is a full batch, with hundreds it is less."""

UNPUBLISHED: Final = 50
"""Transactions whose changes may wait to be published before reviews wait for them."""

PUBLISH_FIRST: Final = 0.25
"""Seconds for which the next reviews wait until the changes of the last ones are published, which takes a tenth of it.
They would take the processor from those whom agents wait for. If the broker takes longer, reviews go on."""

PUBLISH_TOGETHER: Final = 500
"""Pairs that are published with one look at the ledger, about."""


class ReviewLoop:
    """Reviews what is due. Pausing it stops decisions only: what was decided is still published and kept right."""

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
        """How many servers, since the start."""

    @property
    def paused(self) -> bool:
        """Whether it was told to pause."""
        return not self._resumed.is_set()

    async def pause(self) -> None:
        """No review is begun from now on; returns when none is under way any more."""
        self._resumed.clear()
        async with self._under_way:
            pass

    def resume(self) -> None:
        """Reviews go on."""
        self._resumed.set()

    def wake(self) -> None:
        """Something is due now."""
        self._wakeup.set()

    async def run(self) -> None:
        """Reviews until cancelled."""
        while True:
            await self._resumed.wait()
            # By a wrong clock every monitor is gone, or has no results of the last day.
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
        """Publishes what the reviews changed, until cancelled."""
        while True:
            together = [await self._unpublished.get()]
            while sum(map(len, together)) < PUBLISH_TOGETHER and not self._unpublished.empty():
                together.append(self._unpublished.get_nowait())
            await self._publisher.publish_pairs([pair for pairs in together for pair in pairs])
            for _ in together:
                self._unpublished.task_done()

    async def _publish_first(self, touched: Sequence[Pair]) -> None:
        """Has these pairs published, and lets the agents be told first: others may wait that long."""
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
    """Servers of the next transaction, when the last one reviewed so many in so long."""
    return max(1, min(BATCH, round(LONGEST * reviewed / seconds))) if reviewed else BATCH


def log_review(reviewed: Reviewed, row_warnings: RowWarnings) -> None:
    """Logs what a review decided and what it could not use."""
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
        row_warnings.say("server", reviewed.server_id, f"not reviewed: {reviewed.problem}")
    for rejected in reviewed.rejected:
        row_warnings.say("monitor", rejected.name, f"left out of reviews: {rejected.reason}")
