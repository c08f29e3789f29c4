"""Messages that cannot be decoded or stored: kept for diagnosis, counted, published as an event, and answered.

They are kept once per topic and content, and never more of them than there is room for.
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
"""Different messages of one topic that are kept; a broken agent's thousandth is no news."""

MOST_IN_ALL: Final = 10_000
"""Messages that are kept, at most 640 MB."""

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
    """UTC without a zone."""


def rejected_message(topic: str, payload: bytes, reason: str, seen: datetime) -> RejectedMessage:
    """The row for a message as it arrived."""
    return RejectedMessage(
        topic=topic[:_MAX_TOPIC],
        payload_hash=hashlib.sha256(payload).hexdigest(),
        payload=payload[:MAX_REJECTED_PAYLOAD],
        size=len(payload),
        reason=reason[:_MAX_REASON],
        seen=seen,
    )


def keep(engine: Engine, messages: Sequence[RejectedMessage]) -> None:
    """Keeps ``messages``, or counts them once more; twice when the answer to a commit was lost, which does no harm.

    Raises:
        DatabaseUnavailable: it may be called again.
    """
    transaction(engine, partial(_keep, messages=messages), retry_on=(IntegrityError,))


def _keep(connection: Connection, messages: Sequence[RejectedMessage]) -> None:
    # In the order of their key: two workers that keep the same messages wait for each other, but never deadlock.
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
"""Messages that wait to be kept, with 64 KiB each at most."""

_TOGETHER: Final = 50
"""Messages of one transaction."""


class UndecodableMessages:
    """Takes messages that are of no use, and deals with them in its own time."""

    def __init__(self, worker: Worker, acks: Acks, metrics: IngestMetrics) -> None:
        self._worker = worker
        self._acks = acks
        self._metrics = metrics
        self._waiting: asyncio.Queue[tuple[UndecodableMessage, RejectedMessage]] = asyncio.Queue(MOST_WAITING)
        self._warning = RateLimitedLog(log)

    def offer(self, unreadable: UndecodableMessage) -> None:
        """Deals with ``unreadable`` soon, unless too many wait already."""
        self._metrics.unreadable()
        self._log(unreadable)
        if self._waiting.full():
            self._metrics.dropped(UNREADABLE_FULL)
            return
        message = rejected_message(unreadable.topic, unreadable.payload, unreadable.reason, utc_now())
        self._waiting.put_nowait((without_payload(unreadable), message))

    def _log(self, unreadable: UndecodableMessage) -> None:
        # The counters tell how many; a sender of nonsense must not fill the log as well.
        self._warning.say(
            logging.WARNING, unreadable.name, "message on %s refused: %s", unreadable.topic, unreadable.reason
        )

    async def run(self) -> None:
        """Keeps and answers what is offered, until cancelled."""
        while True:
            taken = [await self._waiting.get()]
            while len(taken) < _TOGETHER and not self._waiting.empty():
                taken.append(self._waiting.get_nowait())
            messages = [message for _, message in taken]
            await persist_each(self._worker, partial(keep, self._worker.engine), messages, self._lost)
            for unreadable, _ in taken:
                self._answer(unreadable)

    def _lost(self, message: RejectedMessage, why: str) -> None:
        self._warning.say(logging.ERROR, message.topic, "message on %s could not be kept: %s", message.topic, why)

    def _answer(self, unreadable: UndecodableMessage) -> None:
        event = MessageRejected(topic=unreadable.topic, reason=unreadable.reason)
        self._worker.live.offer(self._worker.topics.rejected_event, event)
        if unreadable.batch is not None and unreadable.ipv is not None:
            refused = BatchRefused(batch=unreadable.batch, reason=unreadable.reason)
            self._acks.offer(unreadable.name, unreadable.ipv, refused)


def without_payload(unreadable: UndecodableMessage) -> UndecodableMessage:
    """``unreadable`` as it may wait: what is kept of its payload is cut already."""
    return replace(unreadable, payload=b"")
