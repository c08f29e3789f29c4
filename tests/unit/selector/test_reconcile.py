"""Test the order of reconciliation: marked monitors first, then all in turn, each once per cycle."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from selector import reconcile
from selector.reconcile import CYCLE, Reconciler
from testbed.fixtures.manual_clock import ManualClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    made = ManualClock()
    monkeypatch.setattr(reconcile, "time", made)
    return made


@pytest.fixture
def reconciler(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Reconciler:
    """A reconciler whose monitors have no assignments, neither in the ledger nor retained."""

    async def in_database(work: object) -> dict[str, None]:
        return {}

    async def tree(name: str) -> dict[str, bytes]:
        return {}

    metrics = SimpleNamespace(repaired=lambda what, count: None)
    made = Reconciler(cast(Any, SimpleNamespace(in_database=in_database)), cast(Any, None), cast(Any, metrics))
    monkeypatch.setattr(made, "_read_tree", tree)
    return made


async def looked_at(reconciler: Reconciler, clock: ManualClock) -> list[str]:
    """Reconcile all monitors whose turn it is, one every ten seconds, and return their names in order."""
    names: list[str] = []
    while True:
        following = asyncio.create_task(reconciler._next())
        for _ in range(5):
            await asyncio.sleep(0)
        if not following.done():
            following.cancel()
            await asyncio.wait({following})
            return names
        name, _everything = following.result()
        names.append(name)
        assert len(names) < 20, f"it does not come to an end: {names}"
        await reconciler.reconcile(name)
        clock.now += 10


async def test_every_monitor_is_reconciled_once_per_cycle(reconciler: Reconciler, clock: ManualClock) -> None:
    reconciler.set_monitors({"a", "b", "c"})
    first = await looked_at(reconciler, clock)
    assert sorted(first) == ["a", "b", "c"], "new ones are marked"
    assert await looked_at(reconciler, clock) == []
    clock.now += CYCLE - 40
    assert await looked_at(reconciler, clock) == [], "ten seconds before its turn"
    clock.now += 10
    assert await looked_at(reconciler, clock) == first, "in the same order, each when its turn comes"
    clock.now += CYCLE
    assert await looked_at(reconciler, clock) == first


async def test_marked_monitor_comes_first_and_starts_its_own_cycle(reconciler: Reconciler, clock: ManualClock) -> None:
    reconciler.set_monitors({"a", "b"})
    first, second = await looked_at(reconciler, clock)
    clock.now += CYCLE / 2
    reconciler.mark(first)
    assert await looked_at(reconciler, clock) == [first]
    clock.now += CYCLE / 2
    assert await looked_at(reconciler, clock) == [second]
    clock.now += CYCLE / 2
    assert await looked_at(reconciler, clock) == [first]


async def test_marks_are_processed_in_order_and_duplicates_are_ignored(
    reconciler: Reconciler, clock: ManualClock
) -> None:
    reconciler.set_monitors({"a", "b", "c"})
    await looked_at(reconciler, clock)
    for name in ("b", "c", "a", "b"):
        reconciler.mark(name)
    assert await looked_at(reconciler, clock) == ["b", "c", "a"]


async def test_removed_monitor_is_reconciled_one_last_time(reconciler: Reconciler, clock: ManualClock) -> None:
    reconciler.set_monitors({"a", "b"})
    await looked_at(reconciler, clock)
    reconciler.set_monitors({"b"})
    assert await looked_at(reconciler, clock) == ["a"], "what is retained for it must go"
    clock.now += CYCLE
    assert await looked_at(reconciler, clock) == ["b"]
