"""Read all retained messages under a topic filter, and detect the end.

MQTT does not mark the last retained message. But Mosquitto sends a session's messages in order: it queues the retained
messages when it handles the subscription, so a message that the session then publishes to itself arrives after them.
When this message arrives, the set is complete. Other brokers read retained messages in the background, and the message
may overtake them; there, the set counts as complete when none has arrived for a while.
"""

import asyncio
import secrets
from typing import Any

from runtime.mqtt.session import BrokerSession, NotConnected
from runtime.mqtt.types import Handler, Incoming, Subscription
from runtime.wakeup import Wakeup


async def read_retained(
    session: BrokerSession,
    topic_filter: str,
    echo_topic: str,
    handler: Handler,
    *,
    timeout: float = 60.0,
    settle: float = 0.0,
) -> None:
    """Call ``handler`` with every retained message under ``topic_filter``, until all have arrived.

    Messages that are published meanwhile are also handled, in order, so the last message of a topic counts (an empty
    one removes it). The session publishes a message to itself below ``echo_topic``. Only one caller may read a filter
    at a time.

    Args:
        settle: seconds without a message after which the set is complete, for a broker that may send it late.

    Raises:
        NotConnected: the connection was lost, or the set was not complete within ``timeout`` seconds.
    """
    mark = f"{echo_topic}/{secrets.token_hex(8)}"
    marked, arrived = asyncio.Event(), Wakeup()

    def on_mark(message: Incoming) -> None:
        marked.set()

    def on_message(message: Incoming) -> None:
        arrived.set()
        handler(message)

    async def complete() -> None:
        await marked.wait()
        arrived.clear()
        while settle and await arrived.wait(settle):
            pass

    async with (
        session.watching(Subscription(mark, on_mark)) as lost,
        session.watching(Subscription(topic_filter, on_message)),
    ):
        await session.publish(mark, b"")
        waiting = asyncio.ensure_future(complete())
        ends: set[asyncio.Future[Any]] = {waiting, lost}
        try:
            done, _ = await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
    if waiting not in done:
        raise NotConnected(f"the retained messages under {topic_filter} did not arrive completely")
