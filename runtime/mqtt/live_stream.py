"""Publish the live stream under ``events/`` for observers; it is the first to be dropped under load."""

import asyncio
import time
from typing import Final

from opentelemetry.trace import NoOpTracer, SpanKind, Tracer

from runtime.mqtt.session import BrokerSession, NotConnected, PublishRefused
from runtime.tracing import child_of, context_of
from schema.messages import Message, encode
from schema.trace_context import USER_PROPERTY

_PER_TOPIC: Final = 1.0
"""Minimum seconds between two events on one topic."""

_MOST_A_SECOND: Final = 250
"""Maximum events per second on all topics: twice the pool's usual rate of results. More occur only while spools are
drained, when other work has priority."""

_MOST_WAITING: Final = 500
"""Maximum events in the queue; more are dropped."""

_MOST_TOPICS: Final = 20_000
"""Maximum topics in memory."""

_NO_TRACES: Final = NoOpTracer()


class LiveStream:
    """Queue of events, limited per topic and in total, that never blocks the caller."""

    def __init__(self, broker: BrokerSession, tracer: Tracer = _NO_TRACES) -> None:
        self._broker = broker
        self._tracer = tracer
        self._waiting: asyncio.Queue[tuple[str, Message, str | None]] = asyncio.Queue(_MOST_WAITING)
        self._last: dict[str, float] = {}
        self._second = -_PER_TOPIC
        self._offered = 0
        self.dropped = 0

    def offer(self, topic: str, event: Message, trace: str | None = None) -> None:
        """Enqueue ``event``, or drop it if it exceeds a limit.

        Args:
            trace: trace context that the event continues.
        """
        now = time.monotonic()
        if now - self._second >= 1.0:
            self._second, self._offered = now, 0
        too_soon = now - self._last.get(topic, -_PER_TOPIC) < _PER_TOPIC
        if too_soon or self._offered >= _MOST_A_SECOND or self._waiting.full():
            self.dropped += 1
            return
        self._offered += 1
        if len(self._last) >= _MOST_TOPICS:
            self._last = {t: at for t, at in self._last.items() if now - at < _PER_TOPIC}
        self._last[topic] = now
        self._waiting.put_nowait((topic, event, trace))

    async def run(self) -> None:
        """Publish the enqueued events until cancelled."""
        while True:
            topic, event, trace = await self._waiting.get()
            try:
                if trace is None:
                    await self._broker.publish(topic, encode(event), qos=0)
                else:
                    await self._publish_traced(topic, event, trace)
            except (NotConnected, PublishRefused):
                self.dropped += 1

    async def _publish_traced(self, topic: str, event: Message, trace: str) -> None:
        attributes = {"messaging.system": "mqtt", "messaging.destination.name": topic}
        with self._tracer.start_as_current_span(
            "publish event", context_of(trace), kind=SpanKind.PRODUCER, attributes=attributes
        ) as span:
            properties = [(USER_PROPERTY, child_of(span))]
            await self._broker.publish(topic, encode(event), qos=0, user_properties=properties)
