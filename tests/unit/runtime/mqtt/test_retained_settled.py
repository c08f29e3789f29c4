"""Test that retained messages after the mark are waited for, at a broker that sends them in the background."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from runtime.mqtt.retained import read_retained
from runtime.mqtt.session import BrokerSession, Incoming, NotConnected
from runtime.mqtt.types import Subscription
from testbed.waiting import PATIENCE

EVERY = 0.02
SETTLE = 10 * EVERY


class LateBroker:
    """A session with a broker that echoes at once, and then sends retained messages one by one."""

    def __init__(self, retained: int) -> None:
        self._retained = retained
        self._watched: list[Subscription] = []

    @asynccontextmanager
    async def watching(self, subscription: Subscription) -> AsyncIterator["asyncio.Future[None]"]:
        self._watched.append(subscription)
        yield asyncio.get_running_loop().create_future()

    async def publish(self, topic: str, payload: bytes) -> None:
        mark, tree = self._watched
        loop = asyncio.get_running_loop()
        loop.call_soon(mark.handler, Incoming(topic, payload))
        for number in range(1, self._retained + 1):
            loop.call_later(number * EVERY, tree.handler, Incoming(f"a/{number}", b"x", retain=True))


async def read(retained: int, **given: Any) -> list[str]:
    found: list[str] = []
    session = cast(BrokerSession, LateBroker(retained))
    await read_retained(session, "a/#", "echo", lambda message: found.append(message.topic), **given)
    return found


@pytest.mark.parametrize("retained", [0, 1, 25])
async def test_set_is_complete_once_no_message_has_arrived_for_a_while(retained: int) -> None:
    found = await read(retained, settle=SETTLE, timeout=PATIENCE)
    assert found == [f"a/{number}" for number in range(1, retained + 1)], "even if all of them take longer than that"


async def test_without_that_time_the_mark_is_the_end() -> None:
    assert await read(3) == []


async def test_endless_messages_end_with_the_time_limit() -> None:
    with pytest.raises(NotConnected, match="did not arrive completely"):
        await read(1_000, settle=SETTLE, timeout=5 * EVERY)
