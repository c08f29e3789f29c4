"""The queue before the ledger: in order, bounded by results and bytes, and never stuck."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from ingest.messages import Submission
from ingest.queue import Intake
from testbed.fixtures.batches import new_batch, new_result, new_submission

RESULT = new_result(1, "192.0.2.1")


def of(results: int, size: int = 100) -> Submission:
    batch = new_batch(*[RESULT] * results)
    return Submission("alice", "v4", batch, RESULT.ts, size)


async def test_submissions_come_out_in_their_order_and_as_many_as_asked() -> None:
    intake = Intake()
    given_ones = [of(4), of(4), of(4), of(20), of(0)]
    for each in given_ones:
        assert intake.put(each)
    assert (intake.results, intake.bytes, len(intake)) == (33, 500, 5)
    assert await intake.take(10) == given_ones[:2]
    assert await intake.take(10) == given_ones[2:3]
    assert await intake.take(10) == given_ones[3:4], "one that is larger than asked is taken alone"
    assert await intake.take(10) == given_ones[4:]
    assert (intake.results, intake.bytes, len(intake)) == (0, 0, 0)


async def test_taking_waits_for_something() -> None:
    intake = Intake()
    taking = asyncio.create_task(intake.take(10))
    await asyncio.sleep(0)
    assert not taking.done()
    submission = new_submission("alice", RESULT)
    intake.put(submission)
    async with asyncio.timeout(5):
        assert await taking == [submission]


def test_it_is_full_by_results_by_bytes_and_by_empty_batches() -> None:
    for intake, submission in (
        (Intake(most_results=10), of(5)),
        (Intake(most_bytes=200), of(1)),
        (Intake(most_results=2), of(0)),
    ):
        assert intake.put(submission)
        assert intake.put(submission)
        assert intake.full
        assert not intake.put(submission)
        assert len(intake) == 2


@given(st.lists(st.integers(0, 30) | st.none(), max_size=60))
async def test_nothing_is_lost_doubled_or_reordered(actions: list[int | None]) -> None:
    """A number puts a batch of that size, None takes."""
    intake, put, taken = Intake(most_results=100), [], []
    for size in actions:
        if size is not None:
            submission = of(size)
            if intake.put(submission):
                put.append(submission)
        elif len(intake):
            some = await intake.take(25)
            taken += some
            assert len(some) == 1 or sum(max(1, len(s.batch.results)) for s in some) <= 25
        assert intake.results == sum(max(1, len(s.batch.results)) for s in put[len(taken) :])
        assert intake.results < 100 + 30
    while len(intake):
        taken += await intake.take(25)
    assert taken == put
