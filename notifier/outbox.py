"""Keep the outbox in the ledger: changes that wait for a message, and the messages that are being delivered."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from notifier.channels import ALL_CHANNELS, Channel, channel_of
from notifier.model import Key
from notifier.schedule import NEVER_LATER, Pending
from schema.tables import alert_changes, alert_channels, alert_messages

_MOST_REASON: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class OutMessage:
    """A message to one channel; ``key`` identifies it in every attempt."""

    channel: Channel
    key: str
    title: str
    body: str
    composed_on: datetime
    attempts: int = 0


def new_key() -> str:
    """Return the key of a new message."""
    return secrets.token_hex(16)


def idle_channels(connection: Connection) -> list[Channel]:
    """Return the channels with changes in the outbox and no message on its way."""
    waiting = sa.select(alert_changes.c.channel_id).distinct()
    busy = sa.select(alert_messages.c.channel_id)
    chosen = ALL_CHANNELS.where(alert_channels.c.id.in_(waiting), alert_channels.c.id.not_in(busy))
    return [channel_of(row) for row in connection.execute(chosen)]


def hold_channel(connection: Connection, channel_id: int) -> Channel | None:
    """Lock a channel until the end of the transaction; return None if it was removed, or another process has it, or
    has composed a message."""
    c = alert_channels.c
    row = connection.execute(
        sa.select(alert_channels).where(c.id == channel_id).with_for_update(skip_locked=True)
    ).first()
    composed = sa.select(alert_messages.c.channel_id).where(alert_messages.c.channel_id == channel_id)
    return None if row is None or connection.scalar(composed) is not None else channel_of(row)


def pending_of(connection: Connection, channel_id: int) -> list[Pending]:
    """Return the changes in the outbox of a channel, in their order."""
    c = alert_changes.c
    query = sa.select(c.id, c.kind, c.subject, c.raised, c.title, c.text, c.changed_on).where(
        c.channel_id == channel_id
    )
    # Not by id alone: in a cluster, ids are not in the order of the commits.
    rows = connection.execute(query.order_by(c.changed_on, c.id))
    return [
        Pending(row.id, Key(row.kind, row.subject), bool(row.raised), row.title, row.text, row.changed_on)
        for row in rows
    ]


def take_out(connection: Connection, changes: Iterable[Pending]) -> None:
    """Remove changes from the outbox."""
    ids = [change.id for change in changes]
    if ids:
        connection.execute(sa.delete(alert_changes).where(alert_changes.c.id.in_(ids)))


def add_message(connection: Connection, message: OutMessage) -> None:
    """Add a message, due now."""
    values = {"key": message.key, "title": message.title, "body": message.body, "composed_on": message.composed_on}
    row = {"channel_id": message.channel.id, "due_on": message.composed_on, "attempts": 0, **values}
    connection.execute(sa.insert(alert_messages).values(row))


def claim_message(connection: Connection, now: datetime, lease: timedelta) -> OutMessage | None:
    """Claim a due message for one attempt, which counts as failed if nothing is recorded within ``lease``."""
    m = alert_messages.c
    due = (
        sa.select(alert_messages)
        .where(sa.or_(m.due_on <= now, m.due_on > now + NEVER_LATER))
        .order_by(m.due_on)
        .limit(1)
    )
    row = connection.execute(due.with_for_update(skip_locked=True)).first()
    if row is None:
        return None
    channel = connection.execute(sa.select(alert_channels).where(alert_channels.c.id == row.channel_id)).one()
    attempts = row.attempts + 1
    connection.execute(
        sa.update(alert_messages).where(m.channel_id == row.channel_id).values(attempts=attempts, due_on=now + lease)
    )
    return OutMessage(
        channel=channel_of(channel),
        key=row.key,
        title=row.title,
        body=row.body,
        composed_on=row.composed_on,
        attempts=attempts,
    )


def record_sent(connection: Connection, message: OutMessage, now: datetime) -> None:
    """Record that the channel has the message."""
    m, c = alert_messages.c, alert_channels.c
    connection.execute(sa.delete(alert_messages).where(m.channel_id == message.channel.id, m.key == message.key))
    values = {"sent_on": now, "failing_since": None, "failure": None}
    connection.execute(sa.update(alert_channels).where(c.id == message.channel.id).values(values))


def record_failure(
    connection: Connection, message: OutMessage, reason: str, now: datetime, again_on: datetime | None
) -> None:
    """Record a failed attempt, unless another process has begun the next one.

    Args:
        again_on: time of the next attempt; None gives the message up.
    """
    m, c = alert_messages.c, alert_channels.c
    ours = (m.channel_id == message.channel.id, m.key == message.key, m.attempts == message.attempts)
    if again_on is None:
        connection.execute(sa.delete(alert_messages).where(*ours))
    else:
        connection.execute(sa.update(alert_messages).where(*ours).values(due_on=again_on))
    since = sa.func.coalesce(c.failing_since, now)
    values = {"failing_since": since, "failure": reason[:_MOST_REASON]}
    connection.execute(sa.update(alert_channels).where(c.id == message.channel.id).values(values))


class Waiting(NamedTuple):
    """What the outbox holds."""

    changes: int
    messages: int
    oldest: datetime | None
    """Time of the oldest message on its way."""
    failing: int
    """Channels to which messages cannot be delivered."""


def waiting(connection: Connection) -> Waiting:
    """Count what waits in the outbox."""

    def count(table: sa.Table, *where: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
        return sa.select(sa.func.count()).select_from(table).where(*where).scalar_subquery()

    oldest = sa.select(sa.func.min(alert_messages.c.composed_on)).scalar_subquery()
    failing = count(alert_channels, alert_channels.c.failing_since.is_not(None))
    return Waiting(*connection.execute(sa.select(count(alert_changes), count(alert_messages), oldest, failing)).one())
