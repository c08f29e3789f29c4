"""Compose the message of a channel from its pending changes, and the job for the sender's process. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, cast

from auth.api_keys import Peppers
from notifier.addresses import unseal_address
from notifier.channels import Channel
from notifier.jobs import Job
from notifier.outbox import OutMessage, new_key
from notifier.schedule import Pending, due_now
from notifier.texts import message_body, message_title

MOST_CHANGES: Final = 100
"""Changes in one message; the others follow in the next one."""


@dataclass(frozen=True, slots=True)
class Composed:
    """What becomes of the pending changes of a channel now."""

    message: OutMessage | None = None
    done: tuple[Pending, ...] = ()
    """Changes that need no further message: those of the message, and those that are never sent."""


def compose(env: str, channel: Channel, pending: Sequence[Pending], now: datetime) -> Composed:
    """Return the message that is due now, if any."""
    due = due_now(pending, now, quiet=channel.quiet_hours(), every=channel.every, sent_on=channel.sent_on)
    changes = due.send[:MOST_CHANGES]
    if not changes:
        return Composed(done=due.drop)
    message = OutMessage(
        channel=channel,
        key=new_key(),
        title=message_title(env, [(change.raised, change.title) for change in changes]),
        body=message_body([change.text for change in changes]),
        composed_on=now,
    )
    return Composed(message, (*changes, *due.drop))


def job_for(message: OutMessage, peppers: Peppers) -> Job | None:
    """Return the job that sends a message; None if the address of its channel cannot be decrypted."""
    channel = message.channel
    address = unseal_address(channel.kind, channel.sealed, peppers)
    if address is None:
        return None
    return Job(
        kind=cast(Literal["mail", "url"], channel.kind),
        address=address.text,
        for_account=channel.account_id is not None,
        key=message.key,
        title=message.title,
        body=message.body,
        composed_on=message.composed_on.replace(tzinfo=UTC),
    )


def unreadable(channels: Iterable[Channel], peppers: Peppers) -> list[Channel]:
    """Return the channels whose address cannot be decrypted."""
    return [one for one in channels if unseal_address(one.kind, one.sealed, peppers) is None]


UNREADABLE: Final = "its address cannot be decrypted, since API_KEY_PEPPER has changed: add the channel again"
