"""Read the channels through which people are told, without their addresses in clear."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from notifier.addresses import Sealed
from notifier.model import Change
from notifier.rules import KINDS
from notifier.schedule import QuietHours, parse_quiet
from schema.tables import alert_channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel, without its address in clear."""

    id: int
    account_id: int | None
    kind: str
    sealed: Sealed
    shown: str
    about: frozenset[str]
    quiet: str | None
    zone: str
    every: timedelta
    sent_on: datetime | None = None

    def gets(self, change: Change) -> bool:
        """Return whether it is told about a change: one of its account, or any if it is one of the operators'."""
        if KINDS[change.key.kind].group not in self.about:
            return False
        return self.account_id is None or self.account_id == change.account_id

    def quiet_hours(self) -> QuietHours | None:
        """Return its quiet hours; in UTC if this host does not know its zone, none if the row is invalid."""
        if self.quiet is None:
            return None
        try:
            zone = ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            zone = ZoneInfo("UTC")
        try:
            return parse_quiet(self.quiet, zone)
        except ValueError:
            return None


ALL_CHANNELS: Final = sa.select(alert_channels).order_by(alert_channels.c.id)


def read_channels(connection: Connection) -> list[Channel]:
    """Read all channels."""
    return [channel_of(row) for row in connection.execute(ALL_CHANNELS)]


def channel_of(row: sa.Row[Any]) -> Channel:
    """Return the channel of a row of ``alert_channels``."""
    return Channel(
        id=row.id,
        account_id=row.account_id,
        kind=row.kind,
        sealed=Sealed(row.sealed, row.salt),
        shown=row.shown,
        about=frozenset(row.about.split(",")),
        quiet=row.quiet,
        zone=row.zone,
        every=timedelta(minutes=row.digest_minutes),
        sent_on=row.sent_on,
    )
