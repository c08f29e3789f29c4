"""Tells the pool that we are here, what we do, and what waits; and the ``status`` command the same."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from runtime.log import Repeating
from runtime.mqtt.session import NotConnected, PublishRefused
from schema.limits import STATUS_REFRESH
from schema.messages import SpoolState, Status

log = logging.getLogger(__name__)

SETTLE: Final = 1.0
"""Seconds to wait after a change for others that come with it."""

REPORT_EVERY: Final = 30.0
"""Seconds after which the report for the ``status`` command is written although nothing changed."""


class Presence:
    """Publishes the status when it says something new, and from time to time. :meth:`run` it as a task.

    Args:
        status: what to say now.
        publish: raises :class:`NotConnected` or :class:`PublishRefused`.
        wait_ready: returns when there is a connection.
    """

    def __init__(
        self,
        status: Callable[[], Status],
        publish: Callable[[Status], Awaitable[None]],
        wait_ready: Callable[[], Awaitable[None]],
        *,
        settle: float = SETTLE,
    ) -> None:
        self._status = status
        self._publish = publish
        self._wait_ready = wait_ready
        self._settle = settle
        self._changed = asyncio.Event()
        self._said: Status | None = None
        self._complaint = Repeating(log)

    def changed(self) -> None:
        """Something that the status says may have changed."""
        self._changed.set()

    def connected(self) -> None:
        """The broker may have published our last will: say again that we are here."""
        self._said = None
        self._changed.set()

    async def run(self) -> None:
        """Publishes until cancelled."""
        while True:
            await self._wait_ready()
            # At first, too: assignments are arriving, and a status with half of them would have them all sent again.
            await asyncio.sleep(self._settle)
            self._changed.clear()
            status = self._status()
            if _news(status) != self._said:
                await self._say(status)
            try:
                async with asyncio.timeout(STATUS_REFRESH.total_seconds()):
                    await self._changed.wait()
            except TimeoutError:
                self._said = None

    async def _say(self, status: Status) -> None:
        said = _news(status)
        self._said = said
        try:
            await self._publish(status)
        except NotConnected:
            if self._said is said:
                self._said = None
            self._changed.set()
        except PublishRefused as error:
            # Saying it again at once would be refused again: the next change or refresh is early enough.
            self._complaint.warning("the status could not be published: %s", error)
        else:
            self._complaint.over()


def _news(status: Status) -> Status:
    """The status without what changes all the time."""
    spool = SpoolState(dropped_results=status.spool.dropped_results, set_aside=status.spool.set_aside)
    return msgspec.structs.replace(status, ts=None, spool=spool)


async def report_changes(
    write: Callable[[], None], changed: asyncio.Event, *, settle: float = SETTLE, every: float = REPORT_EVERY
) -> None:
    """Calls ``write`` after each change, at most once in ``settle`` seconds, and every so often without one."""
    while True:
        changed.clear()
        write()
        await asyncio.sleep(settle)
        try:
            async with asyncio.timeout(every):
                await changed.wait()
        except TimeoutError:
            pass
