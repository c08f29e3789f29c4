"""What could not be decoded: kept for diagnosis, once per topic and content, and never more than there is room for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from runtime.db.engine import transaction
from schema.limits import MAX_REJECTED_PAYLOAD
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
