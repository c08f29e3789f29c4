"""Read the undecodable messages that ingest keeps for diagnosis."""

import base64
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ops.errors import OperatorError
from schema.tables import rejected_messages

COLUMNS: Final = ("id", "last seen", "times", "bytes", "topic", "reason")


def list_rejected(connection: Connection, limit: int, topic: str | None = None) -> list[tuple[Any, ...]]:
    """Return the last messages, newest first; if ``topic`` is given, only those whose topic contains it."""
    r = rejected_messages.c
    query = sa.select(r.id, r.last_seen, r.times, r.bytes, r.topic, r.reason)
    if topic is not None:
        query = query.where(r.topic.contains(topic, autoescape=True))
    return [tuple(row) for row in connection.execute(query.order_by(r.last_seen.desc(), r.id.desc()).limit(limit))]


def show_rejected(connection: Connection, message_id: int) -> tuple[list[tuple[str, str | int | datetime]], bytes]:
    """Return the fields of a message and its payload, of which at most 64 KiB are kept.

    Raises:
        OperatorError: there is no such message.
    """
    r = rejected_messages.c
    row = connection.execute(sa.select(rejected_messages).where(r.id == message_id)).first()
    if row is None:
        raise OperatorError(f"message {message_id}: not found (see 'ntppool-monitor rejected list')")
    fields: list[tuple[str, Any]] = [
        ("id", row.id),
        ("topic", row.topic),
        ("reason", row.reason),
        ("times", row.times),
        ("first seen", row.first_seen),
        ("last seen", row.last_seen),
        ("bytes", row.bytes),
    ]
    return fields, bytes(row.payload)


def payload_for_json(payload: bytes) -> dict[str, str]:
    """Return a payload as text if it is valid UTF-8, else in base 64."""
    try:
        return {"payload": payload.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(payload).decode()}
