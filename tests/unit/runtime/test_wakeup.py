"""Test that a loop wakes once for any number of calls, and continues by itself after its maximum wait."""

import asyncio

from runtime.wakeup import Wakeup


async def test_calls_before_a_wait_count_once() -> None:
    wakeup = Wakeup()
    wakeup.set()
    wakeup.set()
    assert await wakeup.wait(60.0) is True
    assert await wakeup.wait(0.001) is False


async def test_a_call_ends_a_wait() -> None:
    wakeup = Wakeup()
    waiting = asyncio.create_task(wakeup.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    wakeup.set()
    async with asyncio.timeout(10):
        assert await waiting is True


async def test_call_can_be_cleared() -> None:
    wakeup = Wakeup()
    wakeup.set()
    wakeup.clear()
    assert await wakeup.wait(0.001) is False
