"""Deliver messages: claim one, hand it to a sender's process, record the outcome; several at a time.

Delivery is at least once. Between the moment when a channel takes a message and the commit that records it, a process
may die, and then the message is sent again after :data:`LEASE`, with the same key: as ``Message-ID`` of a mail, as
``Idempotency-Key`` of a webhook. A chat shows it twice.
"""

import asyncio
import logging
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from sqlalchemy.engine import Connection

from auth.api_keys import Peppers
from notifier import outbox
from notifier.jobs import Outcome
from notifier.local import LocalAlerts
from notifier.messages import UNREADABLE, compose, job_for
from notifier.metrics import NotifierMetrics
from notifier.outbox import OutMessage
from notifier.schedule import KEEP_TRYING, next_attempt
from notifier.senders import AT_ONCE, ENDS_WITHIN, STARTS_WITHIN, Senders
from runtime.db.engine import transaction, utc_now
from runtime.log import OngoingWarning
from runtime.wakeup import Wakeup
from runtime.worker import Worker

log = logging.getLogger(__name__)

POLL: Final = 5.0
"""Seconds between two looks for due messages."""

LEASE: Final = timedelta(seconds=4 * (ENDS_WITHIN + STARTS_WITHIN))
"""Time after which an attempt without an outcome counts as failed, since its process has died. It is much longer than
an attempt, which may have to wait for a free sender."""

_LAST_MOMENT: Final = 1.5
"""Seconds for which the end of the worker waits for messages that are being sent; it has three in all."""

_CLOSE_AFTER: Final = 12
"""Looks without a message after which the senders' processes end."""


class Delivery:
    """The loops that send the messages of the ledger and of the local file, and the job that composes the former."""

    def __init__(
        self, worker: Worker, local: LocalAlerts, senders: Senders, peppers: Peppers, metrics: NotifierMetrics
    ) -> None:
        self._worker = worker
        self._local = local
        self._senders = senders
        self._peppers = peppers
        self._metrics = metrics
        self._free = asyncio.Semaphore(AT_ONCE)
        self._wake = Wakeup()
        self._wake_local = Wakeup()
        self._warning = OngoingWarning(log)

    def wake(self) -> None:
        """Look for messages of the ledger now."""
        self._wake.set()

    def wake_local(self) -> None:
        """Look for messages of the local file now."""
        self._wake_local.set()

    async def compose(self) -> None:
        """Compose the messages that are due. A periodic job."""
        worker = self._worker
        env = worker.settings.deployment_mode
        if await worker.in_database(partial(transaction, worker.engine, partial(compose_due, env=env, now=utc_now()))):
            self.wake()

    async def run(self) -> None:
        """Send the messages of the ledger until cancelled."""
        idle = 0
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._free.acquire()
                await self._worker.clock.agreed()
                message = await self._worker.in_database(self._claim)
                if message is not None:
                    idle = 0
                    tasks.create_task(self._deliver(message), name="message")
                    continue
                self._free.release()
                idle += 1
                if idle == _CLOSE_AFTER:
                    await self._senders.close()
                await self._wake.wait(POLL)

    def _claim(self) -> OutMessage | None:
        return transaction(self._worker.engine, lambda connection: outbox.claim_message(connection, utc_now(), LEASE))

    async def _deliver(self, message: OutMessage) -> None:
        sending = asyncio.create_task(self._send(message), name="sending")
        try:
            await self._record(message, await asyncio.shield(sending))
        except asyncio.CancelledError:
            # The worker ends. A channel that takes the message just now must not get it again.
            await asyncio.wait({sending}, timeout=_LAST_MOMENT)
            if sending.done():
                await self._record(message, sending.result())
            sending.cancel()
            raise
        finally:
            self._free.release()
            self._wake.set()

    async def _record(self, message: OutMessage, outcome: Outcome) -> None:
        work = partial(_record, message, outcome, now=utc_now())
        await self._worker.in_database(lambda: transaction(self._worker.engine, work))

    async def run_local(self) -> None:
        """Send the messages of the local file until cancelled, one after the other."""
        while True:
            message = self._local.claim(utc_now(), LEASE)
            if message is None:
                await self._wake_local.wait(POLL)
                continue
            outcome = await self._send(message)
            self._local.record(message, outcome.failure, utc_now())

    async def _send(self, message: OutMessage) -> Outcome:
        job = job_for(message, self._peppers)
        outcome = Outcome(failure=UNREADABLE) if job is None else await self._senders.send(job)
        channel = message.channel
        self._metrics.sent(outcome.failure is None)
        if outcome.failure is None:
            log.info("message %s to channel %d (%s): sent", message.key, channel.id, channel.shown)
            self._warning.over(channel.id)
        else:
            self._warning.warning(
                "channel %d (%s): %s; trying again", channel.id, channel.shown, outcome.failure, key=channel.id
            )
        return outcome


def compose_due(connection: Connection, env: str, now: datetime) -> int:
    """Compose a message for each channel that is due one; return their number."""
    composed = 0
    for idle in outbox.idle_channels(connection):
        channel = outbox.hold_channel(connection, idle.id)
        if channel is None:
            continue
        found = compose(env, channel, outbox.pending_of(connection, channel.id), now)
        outbox.take_out(connection, found.done)
        if found.message is not None:
            outbox.add_message(connection, found.message)
            composed += 1
    return composed


def _record(message: OutMessage, outcome: Outcome, connection: Connection, now: datetime) -> None:
    if outcome.failure is None:
        outbox.record_sent(connection, message, now)
        return
    given_up = now - message.composed_on > KEEP_TRYING
    again_on = None if given_up else next_attempt(now, message.attempts)
    outbox.record_failure(connection, message, outcome.failure, now, again_on)
