"""Handle undecodable messages (dead letters): store them for diagnosis, count them, publish an event, and answer.

A message is stored once per topic and content, up to limits per topic and in total.
"""

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from ingest.acks import Acks
from ingest.messages import UndecodableMessage
from ingest.metrics import UNREADABLE_FULL, IngestMetrics
from ingest.persist import persist_each
from runtime.db.engine import transaction, utc_now
from runtime.log import RateLimitedLog
from runtime.worker import Worker
from schema.limits import MAX_REJECTED_PAYLOAD
from schema.messages import BatchRefused, MessageRejected
from schema.tables import rejected_messages

MOST_PER_TOPIC: Final = 100
"""Maximum stored messages per topic, since further ones of a defective agent add nothing."""

MOST_IN_ALL: Final = 10_000
"""Maximum stored messages, at most 640 MB."""

_MAX_TOPIC: Final = 500
_MAX_REASON: Final = 1_000


@dataclass(frozen=True, slots=True)
class RejectedMessage:
    """A row of ``rejected_messages``."""

    topic: str
    payload_hash: str
    """SHA-256 of the whole payload, hexadecimal."""
    payload: bytes
    """Its first 64 KiB."""
    size: int
    reason: str
    seen: datetime
    """Naive UTC."""


def rejected_message(topic: str, payload: bytes, reason: str, seen: datetime) -> RejectedMessage:
    """Return the row for a message."""
    return RejectedMessage(
        topic=topic[:_MAX_TOPIC],
        payload_hash=hashlib.sha256(payload).hexdigest(),
        payload=payload[:MAX_REJECTED_PAYLOAD],
        size=len(payload),
        reason=reason[:_MAX_REASON],
        seen=seen,
    )


def keep(engine: Engine, messages: Sequence[RejectedMessage]) -> None:
    """Store ``messages``, or count them again (upsert). If a commit's outcome is unknown, they may be counted twice.

    Raises:
        DatabaseUnavailable: the call may be retried.
    """
    transaction(engine, partial(_keep, messages=messages), retry_on=(IntegrityError,))


def _keep(connection: Connection, messages: Sequence[RejectedMessage]) -> None:
    # In the order of their key, so that two workers with the same messages do not deadlock.
    for message in sorted(messages, key=lambda m: (m.topic, m.payload_hash)):
        if not _count_again(connection, message) and _has_room(connection, message.topic):
            connection.execute(sa.insert(rejected_messages).values(_row(message)))


def _count_again(connection: Connection, message: RejectedMessage) -> bool:
    r = rejected_messages.c
    found = connection.execute(
        sa.update(rejected_messages)
        .where(r.topic == message.topic, r.payload_hash == message.payload_hash)
        .values(times=r.times + 1, last_seen=message.seen, reason=message.reason)
    )
    return found.rowcount > 0


def _has_room(connection: Connection, topic: str) -> bool:
    r = rejected_messages.c
    of_topic = sa.select(sa.func.count()).where(r.topic == topic).scalar_subquery()
    in_all = sa.select(sa.func.count()).select_from(rejected_messages).scalar_subquery()
    counts = connection.execute(sa.select(of_topic, in_all)).one()
    return bool(counts[0] < MOST_PER_TOPIC and counts[1] < MOST_IN_ALL)


def _row(message: RejectedMessage) -> dict[str, object]:
    return {
        "topic": message.topic,
        "payload_hash": message.payload_hash,
        "reason": message.reason,
        "payload": message.payload,
        "bytes": message.size,
        "first_seen": message.seen,
        "last_seen": message.seen,
    }


log = logging.getLogger(__name__)

MOST_WAITING: Final = 200
"""Maximum messages in the queue, each up to 64 KiB."""

_TOGETHER: Final = 50
"""Messages per transaction."""


class UndecodableMessages:
    """Queue of undecodable messages, with the task that stores and answers them."""

    def __init__(self, worker: Worker, acks: Acks, metrics: IngestMetrics) -> None:
        self._worker = worker
        self._acks = acks
        self._metrics = metrics
        self._waiting: asyncio.Queue[tuple[UndecodableMessage, RejectedMessage]] = asyncio.Queue(MOST_WAITING)
        self._warning = RateLimitedLog(log)

    def offer(self, undecodable: UndecodableMessage) -> None:
        """Enqueue a message, or drop it if the queue is full."""
        self._metrics.unreadable()
        self._log(undecodable)
        if self._waiting.full():
            self._metrics.dropped(UNREADABLE_FULL)
            return
        message = rejected_message(undecodable.topic, undecodable.payload, undecodable.reason, utc_now())
        self._waiting.put_nowait((without_payload(undecodable), message))

    def _log(self, undecodable: UndecodableMessage) -> None:
        # The metrics count every message; the log is rate-limited.
        self._warning.log(
            logging.WARNING, undecodable.name, "undecodable message on %s: %s", undecodable.topic, undecodable.reason
        )

    async def run(self) -> None:
        """Store and answer enqueued messages until cancelled."""
        while True:
            popped = [await self._waiting.get()]
            while len(popped) < _TOGETHER and not self._waiting.empty():
                popped.append(self._waiting.get_nowait())
            messages = [message for _, message in popped]
            await persist_each(self._worker, partial(keep, self._worker.engine), messages, self._lost)
            for undecodable, _ in popped:
                self._answer(undecodable)

    def _lost(self, message: RejectedMessage, why: str) -> None:
        self._warning.log(logging.ERROR, message.topic, "message on %s could not be stored: %s", message.topic, why)

    def _answer(self, undecodable: UndecodableMessage) -> None:
        event = MessageRejected(topic=undecodable.topic, reason=undecodable.reason)
        self._worker.live.offer(self._worker.topics.rejected_event, event)
        if undecodable.batch is not None and undecodable.ipv is not None:
            refused = BatchRefused(batch=undecodable.batch, reason=undecodable.reason)
            self._acks.offer(undecodable.name, undecodable.ipv, refused)


def without_payload(undecodable: UndecodableMessage) -> UndecodableMessage:
    """Return the message without its payload, since the row already has the stored part."""
    return replace(undecodable, payload=b"")
