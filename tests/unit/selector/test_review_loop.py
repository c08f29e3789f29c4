"""Test that reviews and publishing alternate: decisions are published before the next reviews."""

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.clock import Clock
from runtime.health import Rounds
from selector.review_loop import LONGEST, ReviewLoop, next_together
from selector.reviews import BATCH, Reviewed
from selector.store import Pair
from testbed.waiting import wait_until


class _Worker:
    """Fake worker whose reviews all have something to publish."""

    topics = SimpleNamespace(assignment_event=lambda server_id: "")

    def __init__(self, story: list[str], count: int) -> None:
        self._story = story
        self._left = count
        self.clock, self.rounds = Clock(), Rounds()

    async def in_database(self, work: Callable[[], Any]) -> tuple[list[Reviewed], float]:
        if not self._left:
            await asyncio.Event().wait()
        self._left -= 1
        self._story.append("review")
        # A full transaction, so that the loop does not wait for its next poll.
        return [Reviewed(number, "unchanged", touched=((number, 1),)) for number in range(10)], 0.1


class _Publisher:
    def __init__(self, story: list[str], release: asyncio.Event) -> None:
        self._story = story
        self._release = release

    async def publish_pairs(self, pairs: Sequence[Pair]) -> None:
        self._story.append(f"publish {len(pairs)}")
        await self._release.wait()
        self._story.append("published")


class _Numbers:
    def reviewed(self, reviewed: Reviewed, seconds: float) -> None:
        pass


async def _story(release: asyncio.Event, until: Callable[[list[str]], bool], count: int = 2) -> list[str]:
    story: list[str] = []
    worker, publisher = _Worker(story, count), _Publisher(story, release)
    review_loop = ReviewLoop(cast(Any, worker), cast(Any, publisher), cast(Any, None), cast(Any, _Numbers()))
    tasks = [asyncio.create_task(review_loop.run()), asyncio.create_task(review_loop.publish())]
    await wait_until(lambda: until(story), lambda: str(story), within=10)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return story


async def test_next_reviews_begin_after_the_last_ones_are_published() -> None:
    release = asyncio.Event()
    release.set()
    story = await _story(release, lambda story: story.count("published") == 2)
    assert story == ["review", "publish 10", "published"] * 2


async def test_slow_broker_does_not_stop_reviews() -> None:
    story = await _story(asyncio.Event(), lambda story: story.count("review") == 2)
    assert story == ["review", "publish 10", "review"]


async def test_no_review_begins_if_paused_while_waiting_for_the_clock() -> None:
    story: list[str] = []
    worker, agreed, asked = _Worker(story, 1), asyncio.Event(), asyncio.Event()

    async def clock() -> None:
        asked.set()
        await agreed.wait()

    worker.clock = cast(Any, SimpleNamespace(agreed=clock))
    reviewing = ReviewLoop(cast(Any, worker), cast(Any, None), cast(Any, None), cast(Any, _Numbers()))
    running = asyncio.create_task(reviewing.run())
    async with asyncio.timeout(10):
        await asked.wait()
        await reviewing.pause()
        agreed.set()
        for _ in range(20):  # iterations of the event loop; a review takes two
            await asyncio.sleep(0)
        assert story == [] and reviewing.paused
        worker.clock = Clock()
        reviewing.resume()
        await wait_until(lambda: story)
    running.cancel()
    await asyncio.wait({running})


@pytest.mark.parametrize(
    ("reviewed", "seconds", "together"),
    [(10, 0.2, 10), (10, 1.0, 2), (10, 0.5, 5), (1, 60.0, 1), (2, 0.05, 10), (0, 0.001, BATCH)],
)
def test_a_transaction_has_as_many_servers_as_its_time_allows(reviewed: int, seconds: float, together: int) -> None:
    assert next_together(reviewed, seconds) == together


@given(st.floats(1e-4, 2.0), st.integers(1, BATCH))
def test_transaction_size_converges_at_once_and_stays(server: float, together: int) -> None:
    """With servers that take ``server`` seconds each, however many were reviewed together at first."""
    size = next_together(together, together * server)
    assert size * server <= LONGEST + server / 2 or size == 1
    assert next_together(size, size * server) == size
