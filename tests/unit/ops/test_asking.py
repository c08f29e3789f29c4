"""Answers to an order: all that come in time where many may answer, the first one where there can be one only."""

import asyncio

from ops.control import _gather
from schema.messages import ControlAnswer

ANSWERS = [
    ControlAnswer(ok=True, service="ingest", command="ping", details={"client_id": f"ingest/{n}"}) for n in (1, 2)
]


def arrived(answers: list[ControlAnswer]) -> "asyncio.Queue[ControlAnswer]":
    queue: asyncio.Queue[ControlAnswer] = asyncio.Queue()
    for answer in answers:
        queue.put_nowait(answer)
    return queue


async def test_the_only_answer_that_there_can_be_is_not_waited_out() -> None:
    async with asyncio.timeout(60):
        assert await _gather(arrived(ANSWERS[:1]), 3_600.0, one=True) == ANSWERS[:1]


async def test_of_many_that_may_answer_all_are_waited_for() -> None:
    assert await _gather(arrived(ANSWERS), 0.05, one=False) == ANSWERS
    assert await _gather(arrived([]), 0.05, one=True) == []
