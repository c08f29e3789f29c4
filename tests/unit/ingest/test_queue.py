"""Test the queue before the ledger: in order, bounded by results and bytes, and never stuck."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from ingest.messages import Submission
from ingest.queue import SubmissionQueue
from testbed.fixtures.batches import new_batch, new_result, new_submission

RESULT = new_result(1, "192.0.2.1")


def of(results: int, size: int = 100) -> Submission:
    batch = new_batch(*[RESULT] * results)
    return Submission("alice", "v4", batch, RESULT.ts, size)


async def test_submissions_are_popped_in_order_up_to_the_limit() -> None:
    queue = SubmissionQueue()
    given_ones = [of(4), of(4), of(4), of(20), of(0)]
    for each in given_ones:
        assert queue.put(each)
    assert (queue.results, queue.bytes, len(queue)) == (33, 500, 5)
    assert await queue.pop(10) == given_ones[:2]
    assert await queue.pop(10) == given_ones[2:3]
    assert await queue.pop(10) == given_ones[3:4], "one that is larger than asked is taken alone"
    assert await queue.pop(10) == given_ones[4:]
    assert (queue.results, queue.bytes, len(queue)) == (0, 0, 0)


async def test_pop_waits_for_a_submission() -> None:
    queue = SubmissionQueue()
    taking = asyncio.create_task(queue.pop(10))
    await asyncio.sleep(0)
    assert not taking.done()
    submission = new_submission("alice", RESULT)
    queue.put(submission)
    async with asyncio.timeout(5):
        assert await taking == [submission]


def test_queue_is_bounded_by_results_bytes_and_empty_batches() -> None:
    for queue, submission in (
        (SubmissionQueue(most_results=10), of(5)),
        (SubmissionQueue(most_bytes=200), of(1)),
        (SubmissionQueue(most_results=2), of(0)),
    ):
        assert queue.put(submission)
        assert queue.put(submission)
        assert queue.full
        assert not queue.put(submission)
        assert len(queue) == 2


@given(st.lists(st.integers(0, 30) | st.none(), max_size=60))
async def test_nothing_is_lost_duplicated_or_reordered(actions: list[int | None]) -> None:
    """A number puts a batch of that size into the queue, None pops some."""
    queue, put, taken = SubmissionQueue(most_results=100), [], []
    for size in actions:
        if size is not None:
            submission = of(size)
            if queue.put(submission):
                put.append(submission)
        elif len(queue):
            some = await queue.pop(25)
            taken += some
            assert len(some) == 1 or sum(max(1, len(s.batch.results)) for s in some) <= 25
        assert queue.results == sum(max(1, len(s.batch.results)) for s in put[len(taken) :])
        assert queue.results < 100 + 30
    while len(queue):
        taken += await queue.pop(25)
    assert taken == put
