"""Reads the retained messages under a filter, and knows when it has them all.

MQTT does not say when the last retained message has come. But a broker sends a session what it has for it in order: it
queues the retained messages when it handles the subscription, so a message that the session publishes to itself
afterwards comes after them. When that comes back, the picture is complete.
"""

import asyncio
import secrets
from typing import Any

from runtime.mqtt.session import BrokerSession, NotConnected
from runtime.mqtt.types import Handler, Incoming, Subscription


async def read_retained(
    session: BrokerSession, topic_filter: str, echo_topic: str, take: Handler, *, timeout: float = 60.0
) -> None:
    """Hands every retained message under ``topic_filter`` to ``take``; returns when all have come.

    What is published there meanwhile is handed over too, in its order, so the last message of a topic is the one that
    counts (an empty one: there is none any more). Below ``echo_topic`` is where the session talks to itself. A filter
    is read by one caller at a time.

    Raises:
        NotConnected: the connection was lost, or nothing came back within ``timeout`` seconds.
    """
    mark = f"{echo_topic}/{secrets.token_hex(8)}"
    complete = asyncio.Event()

    def hear(message: Incoming) -> None:
        complete.set()

    async with (
        session.watching(Subscription(mark, hear)) as lost,
        session.watching(Subscription(topic_filter, take)),
    ):
        await session.publish(mark, b"")
        waiting = asyncio.ensure_future(complete.wait())
        ends: set[asyncio.Future[Any]] = {waiting, lost}
        try:
            await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
    if not complete.is_set():
        raise NotConnected(f"the retained messages under {topic_filter} did not come completely")
