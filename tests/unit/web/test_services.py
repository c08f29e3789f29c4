"""Test the limits of what takes long."""

import asyncio
import threading
from datetime import datetime
from typing import Any

import pytest

import web.services
from runtime.http.answers import Declined
from web.services import POOL_SECONDS, HeavyWork, PoolState

NOW = datetime(2026, 11, 30, 12)


async def test_heavy_work_has_few_places() -> None:
    heavy, go, running = HeavyWork(at_once=1, waiting=1), threading.Event(), []

    def work() -> int:
        running.append(1)
        assert go.wait(20)
        return len(running)

    tasks = [asyncio.create_task(heavy.run(work)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Declined) as refused:
        await heavy.run(work)
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})
    go.set()
    assert await asyncio.gather(*tasks) == [1, 2], "one after the other"
    assert await heavy.run(lambda: 3) == 3


async def test_work_that_fails_gives_its_place_back() -> None:
    heavy = HeavyWork(at_once=1, waiting=0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await heavy.run(lambda: 1 // 0)


def test_the_state_of_the_pool_is_read_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[datetime] = []
    monkeypatch.setattr(web.services, "read_pool", lambda connection, now: read.append(now))
    at = [0.0]
    state, connection = PoolState(lambda: at[0]), Any
    for moment in (0.0, POOL_SECONDS - 0.1, POOL_SECONDS, POOL_SECONDS + 1):
        at[0] = moment
        state.get(connection, NOW)  # type: ignore[arg-type]  # nothing is read from it
    assert len(read) == 2
