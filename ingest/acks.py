"""Send acks to the monitors, several at a time.

An ack that cannot be sent is dropped: the batch is in the ledger, and the monitor sends it again and gets another ack.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from ingest.metrics import ACK_FAILED, ACKS_FULL, IngestMetrics
from runtime.mqtt.session import BrokerSession, NotConnected, PublishRefused
from schema.messages import Ack, encode
from schema.names import IpVersion
from schema.topics import Topics
from schema.trace_context import USER_PROPERTY

SENDERS: Final = 50
"""Acks in flight at a time. The broker acknowledges within a millisecond or two."""

MOST_WAITING: Final = 5_000
"""Maximum acks in the queue."""

MOST_BYTES: Final = 16 * 1024 * 1024
"""Maximum bytes of acks in the queue; an ack that rejects a thousand results has 80 KiB."""


@dataclass(frozen=True, slots=True)
class _Answer:
    topic: str
    payload: bytes
    correlation: bytes
    trace_parent: str | None


class Acks:
    """Sender of acks on the monitors' topics, each with the batch's ULID as correlation data."""

    def __init__(self, broker: BrokerSession, topics: Topics, metrics: IngestMetrics) -> None:
        self._broker = broker
        self._topics = topics
        self._metrics = metrics
        self._waiting: asyncio.Queue[_Answer] = asyncio.Queue(MOST_WAITING)
        self._bytes = 0

    def offer(self, name: str, ipv: IpVersion, ack: Ack, trace_parent: str | None = None) -> None:
        """Enqueue ``ack`` for sending, or drop it if the queue is full."""
        answer = _Answer(self._topics.acks(name, ipv), encode(ack), ack.batch.encode("ascii"), trace_parent)
        if self._waiting.full() or self._bytes + len(answer.payload) > MOST_BYTES:
            self._metrics.dropped(ACKS_FULL)
            return
        self._bytes += len(answer.payload)
        self._waiting.put_nowait(answer)

    async def run(self) -> None:
        """Send the enqueued acks until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(SENDERS):
                tasks.create_task(self._send(), name=f"acks {number}")

    async def _send(self) -> None:
        while True:
            answer = await self._waiting.get()
            self._bytes -= len(answer.payload)
            properties = [(USER_PROPERTY, answer.trace_parent)] if answer.trace_parent else []
            try:
                await self._broker.publish(
                    answer.topic, answer.payload, correlation=answer.correlation, user_properties=properties
                )
            except (NotConnected, PublishRefused):
                self._metrics.dropped(ACK_FAILED)
