"""Test when missing pairs are created: after each new monitor or server, and in every sweep."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from selector import pairs as pairs_module
from selector.pairs import PairLoop


class Pool:
    """A pool with two monitors; ``missing`` contains the pairs that they lack."""

    rows: tuple[Any, ...] = (SimpleNamespace(id=1), SimpleNamespace(id=2))

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.population = 1
        self.missing: dict[int, list[list[tuple[int, int]]]] = {}
        self.new_servers = 0
        self.story: list[str] = []
        monkeypatch.setattr(pairs_module, "read_population", lambda engine, rows, now: self.population)
        monkeypatch.setattr(pairs_module, "make_pairs", self._make)
        monkeypatch.setattr(pairs_module, "queue_servers", self._queue)
        metrics = SimpleNamespace(made_pairs=lambda count: self.story.append(f"made {count}"))
        self.pair_loop = PairLoop(
            cast(Any, SimpleNamespace(in_database=self._in_database, engine=None)),
            cast(Any, SimpleNamespace(wake=lambda: self.story.append("wake"))),
            cast(Any, SimpleNamespace(publish_pairs=self._publish)),
            cast(Any, metrics),
        )

    async def _in_database(self, work: Any) -> Any:
        return work()

    def _make(self, _engine: object, row: Any, _now: object) -> list[tuple[int, int]]:
        self.story.append(f"look {row.id}")
        batches = self.missing.get(row.id)
        return batches.pop(0) if batches else []

    def _queue(self, _engine: object, _now: object) -> int:
        self.story.append("queue")
        return self.new_servers

    async def _publish(self, pairs: list[tuple[int, int]]) -> None:
        self.story.append(f"publish {len(pairs)}")

    async def looks(self) -> list[str]:
        await self.pair_loop._check(self.rows)
        story, self.story = self.story, []
        return story


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    yield Pool(monkeypatch)


async def test_pairs_are_checked_after_population_changes_and_in_each_sweep(pool: Pool) -> None:
    everything = ["look 1", "look 2", "queue"]
    assert await pool.looks() == everything
    assert await pool.looks() == []
    pool.population = 2
    assert await pool.looks() == everything
    assert await pool.looks() == []
    await pool.pair_loop.sweep()
    assert await pool.looks() == everything
    assert await pool.looks() == []


async def test_loop_checks_pairs_for_new_monitors_and_on_a_sweep(pool: Pool) -> None:
    everything = ["look 1", "look 2", "queue"]

    async def until_looked(times: int) -> None:
        async with asyncio.timeout(30):
            while pool.story != everything * times:
                await asyncio.sleep(0.001)

    running = asyncio.create_task(pool.pair_loop.run())
    pool.pair_loop.set_monitors(pool.rows)
    await until_looked(1)
    await pool.pair_loop.sweep()
    await until_looked(2)
    running.cancel()
    await asyncio.wait({running})


async def test_pairs_are_published_in_batches_before_servers_are_queued(pool: Pool) -> None:
    """The first review of a server must see its pairs."""
    pool.missing = {1: [[(7, 1), (8, 1)], [(9, 1)]]}
    pool.new_servers = 1
    assert await pool.looks() == [
        *("look 1", "made 2", "publish 2"),
        *("look 1", "made 1", "publish 1", "look 1"),
        *("look 2", "queue", "wake"),
    ]
