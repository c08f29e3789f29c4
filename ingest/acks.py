"""Answers to the monitors, sent side by side.

An answer that cannot be sent is let go: the batch is in the ledger, its sender sends it again and is answered again.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from ingest.metrics import ACK_FAILED, ACKS_FULL, IngestMetrics
from runtime.mqtt.session import BrokerSession, NotConnected, PublishRefused
from schema.messages import Ack, encode
from schema.names import IpVersion
from schema.topics import Topics

SENDERS: Final = 50
"""Answers on their way at once. The broker acknowledges within a millisecond or two."""

MOST_WAITING: Final = 5_000
"""Answers that may wait."""

MOST_BYTES: Final = 16 * 1024 * 1024
"""Bytes of answers that may wait; one that rejects a thousand results has 80 KiB."""


@dataclass(frozen=True, slots=True)
class _Answer:
    topic: str
    payload: bytes
    correlation: bytes
    trace_parent: str | None


class Acks:
    """Sends answers on the monitors' topics, each with the batch's ULID as correlation data."""

    def __init__(self, broker: BrokerSession, topics: Topics, metrics: IngestMetrics) -> None:
        self._broker = broker
        self._topics = topics
        self._metrics = metrics
        self._waiting: asyncio.Queue[_Answer] = asyncio.Queue(MOST_WAITING)
        self._bytes = 0

    def offer(self, name: str, ipv: IpVersion, ack: Ack, trace_parent: str | None = None) -> None:
        """Sends ``ack`` soon, unless too many wait already."""
        answer = _Answer(self._topics.acks(name, ipv), encode(ack), ack.batch.encode("ascii"), trace_parent)
        if self._waiting.full() or self._bytes + len(answer.payload) > MOST_BYTES:
            self._metrics.dropped(ACKS_FULL)
            return
        self._bytes += len(answer.payload)
        self._waiting.put_nowait(answer)

    async def run(self) -> None:
        """Sends what is offered, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(SENDERS):
                tasks.create_task(self._send(), name=f"acks {number}")

    async def _send(self) -> None:
        while True:
            answer = await self._waiting.get()
            self._bytes -= len(answer.payload)
            properties = [("traceparent", answer.trace_parent)] if answer.trace_parent else []
            try:
                await self._broker.publish(
                    answer.topic, answer.payload, correlation=answer.correlation, user_properties=properties
                )
            except (NotConnected, PublishRefused):
                self._metrics.dropped(ACK_FAILED)
