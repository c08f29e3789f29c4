"""Keep the alerts about this process's own dependencies in a file, since the ledger may be what is away.

The file has what the ledger has for all other alerts: what people were told, the outbox, and the messages on their way;
and a copy of the operators' channels, whose addresses are encrypted there, too. A restart within an outage therefore
neither repeats an alert nor forgets one. Of several notifiers on one host, the one that holds the lock does this work.
"""

import fcntl
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from auth.ca.private_files import replace_file
from notifier.channels import Channel
from notifier.messages import compose
from notifier.model import Alert, Change, Fact
from notifier.outbox import OutMessage
from notifier.rules import KINDS, evaluate
from notifier.schedule import KEEP_TRYING, NEVER_LATER, Pending, next_attempt
from notifier.texts import text_of, title_of
from runtime.log import OngoingWarning

log = logging.getLogger(__name__)

MOST_PENDING: Final = 50
"""Changes that wait for one channel; of more, the oldest are dropped."""


class LocalMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message on its way."""

    message: OutMessage
    due_on: datetime


class LocalState(msgspec.Struct, kw_only=True):
    """The content of the file; dicts are by channel."""

    alerts: list[Alert] = []
    channels: list[Channel] = []
    outbox: dict[int, list[Pending]] = {}
    messages: dict[int, LocalMessage] = {}
    sent_on: dict[int, datetime] = {}
    numbers: int = 0
    """Number of changes so far."""


class LocalAlerts:
    """The alerts in one file. Not thread-safe; every method may block for a write to the disk."""

    def __init__(self, path: Path, env: str) -> None:
        self._path = path
        self._env = env
        self._lock: int | None = None
        self._works = False
        """Whether this process does the work."""
        self._state = LocalState()
        self._saved = b""
        self._warning = OngoingWarning(log)

    def acquire(self) -> bool:
        """Return whether this process does the work; the one that holds the lock does, until it ends."""
        if self._lock is not None:
            return True
        try:
            descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            # Without a place for a file, alerts from memory are better than none.
            self._warning.warning("%s: %s; a restart may repeat alerts", self._path, error.strerror, key="lock")
            self._works = True
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._lock, self._works = descriptor, True
        self._load()
        return True

    def release(self) -> None:
        """Let another process do the work."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock, self._works = None, False

    def _load(self) -> None:
        try:
            self._saved = self._path.read_bytes()
            self._state = msgspec.json.decode(self._saved, type=LocalState)
            # Those of kinds that this version does not know, after a downgrade, are forgotten.
            self._state.alerts = [alert for alert in self._state.alerts if alert.key.kind in KINDS]
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.error("%s: cannot be read, so alerts may be repeated: %s", self._path, error)

    def _save(self) -> None:
        content = msgspec.json.encode(self._state)
        if content == self._saved or not self._works:
            return
        try:
            replace_file(self._path, content, 0o600)
        except OSError as error:
            self._warning.warning("%s: %s; a restart may repeat alerts", self._path, error.strerror, key="save")
            return
        self._saved = content
        self._warning.over("save")

    @property
    def raised(self) -> list[Alert]:
        """The alerts that are raised."""
        return [alert for alert in self._state.alerts if alert.raised]

    @property
    def channels(self) -> Sequence[Channel]:
        """The operators' channels, as they were when the ledger was last read."""
        return self._state.channels

    def set_channels(self, channels: Iterable[Channel]) -> None:
        """Replace the copy of the operators' channels. What waits for a channel that was removed is dropped."""
        state = self._state
        state.channels = [replace(one, sent_on=None) for one in channels if one.account_id is None]
        kept = {one.id for one in state.channels}
        for waiting in (state.outbox, state.messages, state.sent_on):
            for gone in waiting.keys() - kept:
                del waiting[gone]
        self._save()

    def observe(self, facts: Sequence[Fact], now: datetime) -> tuple[Change, ...]:
        """Compare the facts with what people were told; put changes into the outbox, and compose due messages."""
        state = self._state
        alerts = {alert.key: alert for alert in state.alerts}
        found = evaluate(alerts, facts, now)
        alerts |= {alert.key: alert for alert in found.kept}
        state.alerts = [alert for key, alert in sorted(alerts.items()) if key not in found.removed]
        for change in found.changes:
            for channel in state.channels:
                if channel.gets(change):
                    self._put(channel, change)
        for channel in state.channels:
            self._compose(channel, now)
        self._save()
        return found.changes

    def _put(self, channel: Channel, change: Change) -> None:
        state = self._state
        state.numbers += 1
        pending = Pending(
            state.numbers, change.key, change.raised, title_of(change), text_of(change), change.changed_on
        )
        state.outbox[channel.id] = [*state.outbox.get(channel.id, []), pending][-MOST_PENDING:]

    def _compose(self, channel: Channel, now: datetime) -> None:
        state = self._state
        pending = state.outbox.get(channel.id)
        if not pending or channel.id in state.messages:
            return
        composed = compose(self._env, replace(channel, sent_on=state.sent_on.get(channel.id)), pending, now)
        state.outbox[channel.id] = [one for one in pending if one not in composed.done]
        if composed.message is not None:
            state.messages[channel.id] = LocalMessage(message=composed.message, due_on=now)

    def claim(self, now: datetime, lease: timedelta) -> OutMessage | None:
        """Claim a due message for one attempt, which counts as failed if nothing is recorded within ``lease``."""
        state = self._state
        for channel_id, waiting in state.messages.items():
            if waiting.due_on <= now or waiting.due_on > now + NEVER_LATER:  # the clock was set back
                message = replace(waiting.message, attempts=waiting.message.attempts + 1)
                state.messages[channel_id] = LocalMessage(message=message, due_on=now + lease)
                self._save()
                return message
        return None

    def record(self, message: OutMessage, failure: str | None, now: datetime) -> None:
        """Record the outcome of an attempt; ``failure`` is None if the message was sent."""
        state, channel_id = self._state, message.channel.id
        waiting = state.messages.get(channel_id)
        if waiting is None or waiting.message.key != message.key:
            return
        if failure is None:
            state.sent_on[channel_id] = now
        if failure is None or now - message.composed_on > KEEP_TRYING:
            del state.messages[channel_id]
        else:
            state.messages[channel_id] = LocalMessage(
                message=waiting.message, due_on=next_attempt(now, message.attempts)
            )
        self._save()
