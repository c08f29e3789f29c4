"""Read all retained messages under a topic filter, and detect the end.

MQTT does not mark the last retained message. But a broker sends a session's messages in order: it queues the retained
messages when it handles the subscription, so a message that the session then publishes to itself arrives after them.
When this message arrives, the set is complete.
"""

import asyncio
import secrets
from typing import Any

from runtime.mqtt.session import BrokerSession, NotConnected
from runtime.mqtt.types import Handler, Incoming, Subscription


async def read_retained(
    session: BrokerSession, topic_filter: str, echo_topic: str, handler: Handler, *, timeout: float = 60.0
) -> None:
    """Call ``handler`` with every retained message under ``topic_filter``, until all have arrived.

    Messages that are published meanwhile are also handled, in order, so the last message of a topic counts (an empty
    one removes it). The session publishes a message to itself below ``echo_topic``. Only one caller may read a filter
    at a time.

    Raises:
        NotConnected: the connection was lost, or the set was not complete within ``timeout`` seconds.
    """
    mark = f"{echo_topic}/{secrets.token_hex(8)}"
    complete = asyncio.Event()

    def on_mark(message: Incoming) -> None:
        complete.set()

    async with (
        session.watching(Subscription(mark, on_mark)) as lost,
        session.watching(Subscription(topic_filter, handler)),
    ):
        await session.publish(mark, b"")
        waiting = asyncio.ensure_future(complete.wait())
        ends: set[asyncio.Future[Any]] = {waiting, lost}
        try:
            await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
    if not complete.is_set():
        raise NotConnected(f"the retained messages under {topic_filter} did not arrive completely")
