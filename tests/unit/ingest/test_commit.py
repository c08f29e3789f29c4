"""Test that ingest's transactions run in sequence, and each takes all waiting batches."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

from opentelemetry.metrics import NoOpMeter
from opentelemetry.trace import NoOpTracer

from ingest.commit import MOST_RESULTS, Committer
from ingest.messages import Submission
from ingest.metrics import IngestMetrics
from ingest.queue import SubmissionQueue
from runtime.telemetry import Telemetry
from testbed.fixtures.batches import new_batch, new_result
from testbed.waiting import wait_until

RESULT = new_result(1, "192.0.2.1")
NOTHING = cast(Any, None)


class Slow(Committer):
    """Committer whose transactions last until the test ends them."""

    def __init__(self, queue: SubmissionQueue) -> None:
        metrics = IngestMetrics(NoOpMeter("test"), queue)
        worker: Any = SimpleNamespace(telemetry=Telemetry(NoOpMeter("test"), NoOpTracer()))
        super().__init__(worker, queue, NOTHING, NOTHING, NOTHING, metrics)
        self.under_way: list[asyncio.Event] = []
        self.committed = 0

    async def _commit(self, submissions: Sequence[Submission]) -> None:
        end = asyncio.Event()
        self.under_way.append(end)
        await end.wait()
        self.under_way.remove(end)
        self.committed += sum(len(submission.batch.results) for submission in submissions)


@asynccontextmanager
async def committing(queue: SubmissionQueue) -> AsyncIterator[Slow]:
    committer = Slow(queue)
    running = asyncio.create_task(committer.run())
    try:
        yield committer
    finally:
        running.cancel()
        await asyncio.wait({running})


async def all_had_their_turn() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def put(queue: SubmissionQueue, batches: int) -> None:
    for _ in range(batches):
        assert queue.put(Submission("alice", "v4", new_batch(*[RESULT] * 10), RESULT.ts, 1))


async def test_few_batches_are_committed_in_successive_transactions() -> None:
    queue = SubmissionQueue()
    async with committing(queue) as committer:
        put(queue, 1)
        await wait_until(lambda: len(committer.under_way) == 1)
        put(queue, 3)
        await all_had_their_turn()
        assert len(committer.under_way) == 1
        committer.under_way[0].set()
        await wait_until(lambda: len(committer.under_way) == 1 and committer.committed == 10)
        committer.under_way[0].set()
        await wait_until(lambda: committer.committed == 40)


async def test_many_batches_are_committed_in_full_successive_transactions() -> None:
    queue = SubmissionQueue()
    put(queue, 3 * MOST_RESULTS // 10)
    async with committing(queue) as committer:
        for full in range(3):
            await wait_until(lambda: len(committer.under_way) == 1)
            await all_had_their_turn()
            assert len(committer.under_way) == 1
            assert committer.committed == full * MOST_RESULTS
            committer.under_way[0].set()
            await wait_until(lambda full=full: committer.committed == (full + 1) * MOST_RESULTS)  # type: ignore[misc]  # mypy sees no type of a default
