"""Show alerts, and manage the channels through which people are told, for operators.

Each change runs in a transaction of its caller. A running notifier reads channels in each round of evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from auth.api_keys import Peppers
from notifier.addresses import Address, seal_address, shown
from notifier.channels import Channel, channel_of
from notifier.model import Group
from notifier.outbox import OutMessage, new_key
from notifier.schedule import parse_quiet
from ops.errors import OperatorError, UsageError
from schema.tables import accounts, alert_channels, alerts

MOST_DIGEST: Final = 1_440
DEFAULT_DIGEST: Final = 10
MOST_CHANNELS: Final = 20
"""Channels of one account, or of the operators."""

_DEFAULT_ABOUT: Final = {True: (Group.SERVER, Group.MONITOR), False: (Group.POOL,)}
"""What a channel gets by default: of an account, and of the operators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPlan:
    """A channel to add, validated."""

    account_id: int | None
    address: Address
    about: tuple[Group, ...]
    quiet: str | None
    zone: str
    digest_minutes: int


def channel_plan(
    *,
    account_id: int | None,
    address: Address,
    about: Sequence[str] = (),
    quiet: str | None = None,
    zone: str = "UTC",
    digest: int = DEFAULT_DIGEST,
) -> ChannelPlan:
    """Validate the given values.

    Raises:
        UsageError: one is invalid.
    """
    groups = tuple(_group(name, account_id) for name in about) or _DEFAULT_ABOUT[account_id is not None]
    try:
        known = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"--zone {zone[:64]!r}: is no time zone of this host, such as Europe/Amsterdam") from None
    if quiet is not None:
        try:
            parse_quiet(quiet, known)
        except ValueError as error:
            raise UsageError(f"--quiet {quiet[:20]!r}: {error}") from None
    if not 0 <= digest <= MOST_DIGEST:
        raise UsageError(f"--digest {digest}: must be 0 to {MOST_DIGEST} minutes")
    return ChannelPlan(
        account_id=account_id, address=address, about=groups, quiet=quiet, zone=zone, digest_minutes=digest
    )


def _group(name: str, account_id: int | None) -> Group:
    allowed = [group for group in Group if account_id is None or group is not Group.POOL]
    for group in allowed:
        if name == group:
            return group
    raise UsageError(f"--about {name[:20]!r}: must be one of {', '.join(allowed)}")


def add_channel(connection: Connection, plan: ChannelPlan, peppers: Peppers, now: datetime) -> str:
    """Add a channel and return a line that describes the change.

    Raises:
        OperatorError: there are too many.
    """
    c = alert_channels.c
    same = c.account_id.is_(None) if plan.account_id is None else c.account_id == plan.account_id
    count = connection.scalar(sa.select(sa.func.count()).select_from(alert_channels).where(same)) or 0
    if count >= MOST_CHANNELS:
        raise OperatorError(f"there are {count} channels already, as many as there may be: remove one first")
    sealed = seal_address(plan.address, peppers)
    done = connection.execute(
        sa.insert(alert_channels).values(
            account_id=plan.account_id,
            kind=plan.address.kind,
            sealed=sealed.text,
            salt=sealed.salt,
            shown=shown(plan.address)[:255],
            about=",".join(plan.about),
            quiet=plan.quiet,
            zone=plan.zone,
            digest_minutes=plan.digest_minutes,
            created_on=now,
        )
    )
    assert done.inserted_primary_key is not None
    channel_id = done.inserted_primary_key[0]
    return f"channel {channel_id} ({shown(plan.address)}): added; 'ntppool-monitor alerts test {channel_id}' tries it"


def remove_channel(connection: Connection, channel_id: int) -> str:
    """Remove a channel with all that waits for it, and return a line that describes the change.

    Raises:
        OperatorError: there is no such channel.
    """
    found = find_channel(connection, channel_id)
    connection.execute(sa.delete(alert_channels).where(alert_channels.c.id == channel_id))
    return f"channel {channel_id} ({found.shown}): removed"


def find_channel(connection: Connection, channel_id: int) -> Channel:
    """Return a channel.

    Raises:
        OperatorError: there is no such channel.
    """
    row = connection.execute(sa.select(alert_channels).where(alert_channels.c.id == channel_id)).first()
    if row is None:
        raise OperatorError(f"channel {channel_id}: not found (see 'ntppool-monitor alerts channels')")
    return channel_of(row)


def trial_message(channel: Channel, env: str, now: datetime) -> OutMessage:
    """Return a message that tries a channel."""
    return OutMessage(
        channel=channel,
        key=new_key(),
        title=f"[NTP Pool{'' if env == 'prod' else f', {env}'}] Test of this channel",
        body="This is a test. Alerts of the NTP Pool will arrive here.\n",
        composed_on=now,
    )


ALERT_COLUMNS: Final = ("kind", "subject", "account", "since", "now")


def list_alerts(connection: Connection, account_id: int | None = None) -> list[tuple[Any, ...]]:
    """Return the alerts that are raised, the oldest first; optionally only those of an account."""
    a = alerts.c
    account = sa.func.coalesce(accounts.c.id_token, accounts.c.name)
    query = sa.select(a.kind, a.name, account, a.raised_on, a.detail).where(a.raised)
    if account_id is not None:
        query = query.where(a.account_id == account_id)
    joined = query.select_from(alerts.outerjoin(accounts, accounts.c.id == a.account_id))
    return [tuple(row) for row in connection.execute(joined.order_by(a.raised_on, a.kind, a.subject))]


CHANNEL_COLUMNS: Final = ("id", "account", "to", "about", "quiet", "zone", "digest", "last sent", "failing", "failure")


def list_channels(connection: Connection, account_id: int | None = None) -> list[tuple[Any, ...]]:
    """Return the channels by id; optionally only those of an account."""
    c = alert_channels.c
    account = sa.case(
        (c.account_id.is_(None), "operators"), else_=sa.func.coalesce(accounts.c.id_token, accounts.c.name)
    )
    columns = (
        c.id,
        account,
        c.shown,
        c.about,
        c.quiet,
        c.zone,
        c.digest_minutes,
        c.sent_on,
        c.failing_since,
        c.failure,
    )
    query = sa.select(*columns).select_from(alert_channels.outerjoin(accounts, accounts.c.id == c.account_id))
    if account_id is not None:
        query = query.where(c.account_id == account_id)
    return [tuple(row) for row in connection.execute(query.order_by(c.id))]
