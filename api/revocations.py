"""Make the broker end the sessions of monitors whose keys or certificates were revoked, or that were deleted.

A revoked key gives no new tokens, but those that it gave before stay valid for up to six hours. The ledger is the
source: operators' commands and pages only write there, and this job sends to the broker what it finds. Every process of
the API sends the same; the broker ignores what it knows.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from math import ceil
from typing import Final

from sqlalchemy.engine import Engine

from api.revocation_store import KeyLife, Revoked, read_revoked
from runtime.clock import APART
from runtime.db.engine import reading
from runtime.log import RateLimitedLog
from runtime.mqtt.session import NotConnected, PublishRefused
from runtime.worker import Worker
from schema.messages import RevokeTokens, encode

log = logging.getLogger(__name__)

REVOCATIONS_EVERY: Final = 5.0
"""Seconds between two searches of the ledger."""

WITHIN: Final = timedelta(hours=7)
"""Age of the oldest revocation that is sent: the lifetime of a monitor's token, and an hour for clocks that differ. The
broker remembers revocations for the same time."""

MARGIN: Final = timedelta(seconds=2 * APART)
"""Tokens that were issued this long after a revocation are refused, too.

The clock of the host that signed a token may be ahead of that of the host on which the key was revoked, and the request
may have been in progress. A host that is allowed to return needs more time than this to register.
"""


@dataclass(frozen=True, slots=True)
class Revocation:
    """A monitor whose tokens are refused if they were issued until ``until``, which is aware."""

    name: str
    until: datetime

    def message(self, now: datetime) -> RevokeTokens:
        """Return the order to the broker, which accepts none for the future: a clock was wrong if it is from there.

        Args:
            now: aware.
        """
        return RevokeTokens(name=self.name, issued_until=ceil(min(self.until, now + MARGIN).timestamp()))


def without_key_since(lives: Iterable[KeyLife], since: datetime) -> datetime | None:
    """Return when the latest revocation of a key left its monitor without any; ``None`` if none did after ``since``.

    A key that was created in the same second as the revocation counts as later, since creation has whole seconds. One
    that ends in the future, since a clock was ahead, gives tokens until then.

    Args:
        lives: the keys of one monitor.
        since: :data:`WITHIN` ago.
    """
    lives = list(lives)
    ended = (life.ends_on for life in lives if life.revoked and life.ends_on is not None)
    ends = (end for end in ended if since < end <= since + WITHIN)
    return max((end for end in ends if not any(_was_valid(life, end) for life in lives)), default=None)


def _was_valid(life: KeyLife, moment: datetime) -> bool:
    began = life.created_on < moment.replace(microsecond=0)
    return began and (life.ends_on is None or life.ends_on > moment)


def find_revocations(revoked: Revoked, since: datetime) -> list[Revocation]:
    """Return the latest revocation of each monitor, ordered by name. ``since`` is naive UTC, as all times of the
    ledger."""
    latest: dict[str, datetime] = {}
    by_keys = {name: without_key_since(lives, since) for name, lives in revoked.keys.items()}
    for ends in (by_keys, revoked.deleted, revoked.certificates):
        for name, end in ends.items():
            if end is not None and end > latest.get(name, since):
                latest[name] = end
    return [Revocation(name, end.replace(tzinfo=UTC) + MARGIN) for name, end in sorted(latest.items())]


def unsent(found: Iterable[Revocation], sent: Mapping[str, datetime]) -> list[Revocation]:
    """Return the revocations that are later than those that were ``sent`` before, by the monitors' names."""
    return [one for one in found if one.name not in sent or sent[one.name] < one.until]


class Revocations:
    """Send each revocation of the ledger to the broker once."""

    def __init__(self, worker: Worker, now: Callable[[], datetime]) -> None:
        self._worker = worker
        self._now = now
        self._sent: dict[str, datetime] = {}
        self._unproven: list[Revocation] = []
        self._warnings = RateLimitedLog(log)

    async def send(self) -> None:
        """Send the revocations that have not been sent by this process yet."""
        now = self._now()
        since = (now - WITHIN).astimezone(UTC).replace(tzinfo=None)
        revoked = await self._worker.in_database(partial(_read, self._worker.engine, since))
        found = find_revocations(revoked, since)
        names = {one.name for one in found}
        self._sent = {name: until for name, until in self._sent.items() if name in names}
        for one in unsent(found, self._sent):
            try:
                await self._publish(one, now)
            except NotConnected as error:
                self._warnings.log(logging.WARNING, "broker", "revocations cannot be sent: %s", error)
                return
            except PublishRefused as error:
                self._warnings.log(logging.WARNING, one.name, "revocation of %s: %s", one.name, error)
        self._tell_unheeded()

    async def _publish(self, one: Revocation, now: datetime) -> None:
        await self._worker.broker.publish(self._worker.topics.revocations, encode(one.message(now)))
        self._sent[one.name] = one.until
        self._unproven.append(one)
        log.info("revocation sent: tokens of %s issued until %s", one.name, one.until.isoformat(timespec="seconds"))

    def _tell_unheeded(self) -> None:
        """Warn of revocations that are not enforced because the broker lacks the plugin."""
        present = self._worker.plugin.present
        if present is None:
            return
        for one in self._unproven if not present else ():
            until = one.until.isoformat(timespec="seconds")
            log.warning(
                "tokens of %s issued until %s stay valid until they expire: the broker has no plugin; block it there",
                one.name,
                until,
            )
        self._unproven.clear()


def _read(engine: Engine, since: datetime) -> Revoked:
    with reading(engine) as connection:
        return read_revoked(connection, since)


def revocations_job(worker: Worker) -> Callable[[], Awaitable[None]]:
    """Return the periodic job, to be run every :data:`REVOCATIONS_EVERY` seconds."""
    return Revocations(worker, lambda: datetime.now(UTC)).send
