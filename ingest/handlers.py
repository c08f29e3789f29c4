"""Handle messages from the broker: decode and enqueue each, or drop and count it. Handlers never block."""

import time
from datetime import UTC, datetime
from typing import Final

from ingest.messages import UndecodableMessage, read_results, read_status, sender_of_results, sender_of_status
from ingest.metrics import IGNORED, QUEUE_FULL, RATE_LIMITED, IngestMetrics
from ingest.presence import PresenceQueue
from ingest.queue import SubmissionQueue
from ingest.rate_limit import RateLimiter
from ingest.tracing import TraceLimiter
from ingest.undecodable import UndecodableMessages
from runtime.mqtt.session import Incoming
from schema.topics import Topics

_BYTES_PER_RESULT: Final = 250
"""Approximate size of a result on the wire, to count an undecodable message as results in the rate limit."""


class Handlers:
    """Message handlers for the monitors' results and status.

    Args:
        traces: limit of the traced batches; None if there is no collector of traces.
    """

    def __init__(
        self,
        topics: Topics,
        queue: SubmissionQueue,
        rate_limiter: RateLimiter,
        presences: PresenceQueue,
        undecodable: UndecodableMessages,
        metrics: IngestMetrics,
        traces: TraceLimiter | None = None,
    ) -> None:
        self._topics = topics
        self._queue = queue
        self._rate_limiter = rate_limiter
        self._presences = presences
        self._undecodable = undecodable
        self._metrics = metrics
        self._traces = traces

    def on_results(self, message: Incoming) -> None:
        """Enqueue a batch."""
        sender = sender_of_results(self._topics, message.topic)
        if sender is None:
            self._metrics.dropped(IGNORED)
        elif self._queue.full:
            self._metrics.dropped(QUEUE_FULL)
        elif self._admits(sender):
            found = read_results(*sender, message, datetime.now(UTC))
            if isinstance(found, UndecodableMessage):
                self._refuse(sender, found)
            else:
                now = time.monotonic()
                self._rate_limiter.charge(sender, len(found.batch.results), now)
                self._queue.put(found if self._traces is None else self._traces.admit(found, now))

    def on_status(self, message: Incoming) -> None:
        """Enqueue a status; an empty message only removes the retained one."""
        name = sender_of_status(self._topics, message.topic)
        if name is None:
            self._metrics.dropped(IGNORED)
            return
        sender = (name, "status")
        if message.payload and self._admits(sender):
            found = read_status(name, message, datetime.now(UTC))
            if isinstance(found, UndecodableMessage):
                self._refuse(sender, found)
            else:
                self._rate_limiter.charge(sender, 1, time.monotonic())
                self._presences.add(found)

    def _admits(self, sender: tuple[str, str]) -> bool:
        admitted = self._rate_limiter.admits(sender, time.monotonic())
        if not admitted:
            self._metrics.dropped(RATE_LIMITED)
        return admitted

    def _refuse(self, sender: tuple[str, str], found: UndecodableMessage) -> None:
        self._rate_limiter.charge(sender, len(found.payload) // _BYTES_PER_RESULT, time.monotonic())
        self._undecodable.offer(found)
