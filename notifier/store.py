"""Read and write alerts in the ledger, and put their changes into the outbox. All times are naive UTC."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from notifier.channels import Channel
from notifier.model import Alert, Change, Key
from notifier.rules import KINDS, SERVER_LOW, SERVER_VERY_LOW, Evaluation
from notifier.texts import text_of, title_of
from runtime.db.bulk import BulkDelete, insert_or_ignore, upsert
from schema.tables import alert_changes, alert_rounds, alerts, result_batches, server_alerts

_THE_ROUND: Final = 1
_MOST_DETAIL: Final = 500
_MOST_NAME: Final = 300


class _AlertRow(NamedTuple):
    kind: str
    subject: str
    account_id: int | None
    raised: bool
    raised_on: datetime | None
    differs_since: datetime | None
    name: str
    detail: str


class _Round(NamedTuple):
    id: int


_KEY: Final = ("kind", "subject")
_write_alerts: Final = upsert(
    alerts, _AlertRow, key=_KEY, update=[name for name in _AlertRow._fields if name not in _KEY]
)
_delete_alerts: Final = BulkDelete(alerts)
_add_round: Final = insert_or_ignore(alert_rounds, _Round, common=["evaluated_on"])


def begin_round(connection: Connection, now: datetime) -> bool:
    """Begin an evaluation, alone until the end of the transaction; return False if another process has one.

    The row is written each time, so that two nodes of a cluster that both begin one conflict at COMMIT.
    """
    r = alert_rounds.c
    the_row = sa.select(r.id).where(r.id == _THE_ROUND)
    lock = the_row.with_for_update(skip_locked=True)
    if connection.scalar(lock) is None:
        if connection.scalar(the_row) is not None:
            return False
        _add_round.execute(connection, [_Round(_THE_ROUND)], evaluated_on=now)
    connection.execute(sa.update(alert_rounds).where(r.id == _THE_ROUND).values(evaluated_on=now))
    return True


def read_alerts(connection: Connection) -> dict[Key, Alert]:
    """Read the alerts that are raised, or whose facts differ from what people were told.

    Those of kinds that this version does not know, after a downgrade, are left alone.
    """
    query = sa.select(*(alerts.c[name] for name in _AlertRow._fields)).where(alerts.c.kind.in_(sorted(KINDS)))
    rows = [_AlertRow(*row) for row in connection.execute(query)]
    return {
        Key(row.kind, row.subject): Alert(
            key=Key(row.kind, row.subject),
            raised=bool(row.raised),
            raised_on=row.raised_on,
            differs_since=row.differs_since,
            account_id=row.account_id,
            name=row.name,
            detail=row.detail,
        )
        for row in rows
    }


def write_evaluation(connection: Connection, found: Evaluation, channels: Sequence[Channel]) -> None:
    """Write the alerts, and for each change its place in the outbox of every channel that gets it."""
    _write_alerts.execute(
        connection,
        [
            _AlertRow(
                *one.key,
                one.account_id,
                one.raised,
                one.raised_on,
                one.differs_since,
                one.name[:_MOST_NAME],
                one.detail[:_MOST_DETAIL],
            )
            for one in found.kept
        ],
    )
    _delete_alerts.execute(connection, found.removed)
    outbox = [_outbox_row(channel, change) for change in found.changes for channel in channels if channel.gets(change)]
    if outbox:
        connection.execute(sa.insert(alert_changes), outbox)
    mailed = [change for change in found.changes if any(channel.gets(change) for channel in channels)]
    _record_for_pool(connection, mailed)


def _outbox_row(channel: Channel, change: Change) -> dict[str, Any]:
    return {
        "channel_id": channel.id,
        "kind": change.key.kind,
        "subject": change.key.subject,
        "raised": change.raised,
        "title": title_of(change),
        "text": text_of(change),
        "changed_on": change.changed_on,
    }


def _record_for_pool(connection: Connection, changes: Iterable[Change]) -> None:
    """Record in the pool's table what the owners of servers were told: a row per server that was ever reported.

    The pool's programs read the score that was reported last, and when; they keep the row when the server recovers.
    """
    scores = {
        int(change.key.subject): (change.score, change.changed_on)
        for change in changes
        if change.key.kind in (SERVER_LOW, SERVER_VERY_LOW) and change.score is not None
    }
    t = server_alerts.c
    known = set(connection.scalars(sa.select(t.server_id).where(t.server_id.in_(sorted(scores))))) if scores else set()
    for server_id, (score, moment) in sorted(scores.items()):
        told = {"last_score": score, "last_email_time": moment.replace(microsecond=0)}
        if server_id in known:
            connection.execute(sa.update(server_alerts).where(t.server_id == server_id).values(told))
        else:
            first = told["last_email_time"]
            connection.execute(sa.insert(server_alerts).values(server_id=server_id, first_email_time=first, **told))


def last_results(connection: Connection) -> datetime | None:
    """Return when results were last stored; None if none are remembered."""
    found: datetime | None = connection.scalar(sa.select(sa.func.max(result_batches.c.received_on)))
    return found
