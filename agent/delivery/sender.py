"""Publish the batches in the spool, oldest first and a few at a time, until each has been acknowledged.

The broker's own acknowledgement does not count: it may lose a message afterwards. A batch is deleted when ingest
confirms that it is in the ledger, set aside when ingest refuses it for good, and otherwise published again. A batch
that exceeds the broker's limit is kept, and not split: another broker may have accepted it before, and its results
would count twice in batches with other ids.
"""

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, Protocol

from agent.delivery.spool import Batched
from agent.metrics import AgentCounters
from runtime.log import OngoingWarning
from runtime.mqtt.session import NotConnected, PublishRefused, TooLarge
from schema.messages import Ack, BatchCommitted

log = logging.getLogger(__name__)

IN_FLIGHT: Final = 4
"""Maximum number of batches that wait for their acknowledgement."""

ATTEMPTS: Final = 3
"""Number of times that a batch is published before others take its place."""

ACK_TIMEOUT: Final = 10.0
"""Seconds to wait for an acknowledgement."""

OVERTAKEN: Final = 2.0
"""Seconds to keep waiting for the acknowledgement of a batch once a later one has been acknowledged. Ingest handles
batches in order of arrival, so it has probably never received this one: there was no subscriber yet."""

SHORTEST_REST: Final = 2.0
LONGEST_REST: Final = 300.0
"""Seconds between two attempts: a quarter of the time since the last acknowledgement, within these bounds."""

LONG_SILENCE: Final = ATTEMPTS * ACK_TIMEOUT
"""Seconds without any acknowledgement after which the cause is not the batches. No batch is put off earlier, so none
that only lacked a subscriber keeps waiting once there is one."""

LATER: Final = 15.0
LONGEST_LATER: Final = 600.0
"""Seconds until a batch that was not acknowledged is retried, after others: doubled each time. Most such batches were
just published while the connection to the ledger was unstable."""

MAX_LATER: Final = 1_000


class Link(Protocol):
    """The connection to the broker, as far as the sender needs it."""

    async def wait_ready(self) -> None:
        """Wait for a connection."""

    async def publish_batch(self, batch: Batched) -> None:
        """Publish a batch. Raise :class:`NotConnected` or :class:`PublishRefused`."""


class Waiting(Protocol):
    """The spool, as far as the sender needs it."""

    def __contains__(self, number: object) -> bool: ...

    def __iter__(self) -> Iterator[int]: ...

    def read(self, number: int) -> Batched | None:
        """Return a batch, or ``None`` if it is gone or torn. Raise :class:`OSError` if it cannot be read now."""

    def remove(self, number: int) -> None:
        """Remove a batch that was acknowledged."""

    def set_aside(self, number: int) -> None:
        """Set a refused batch aside, so that it is not published again."""


class Sender:
    """Empty the spool of one protocol. Run :meth:`run` as a task.

    Args:
        on_sent: called with the number of a batch when it has been published.
        on_done: called when a batch has left the spool.
    """

    def __init__(
        self,
        spool: Waiting,
        link: Link,
        counters: AgentCounters,
        on_sent: Callable[[int], None],
        on_done: Callable[[], None],
        *,
        ack_timeout: float = ACK_TIMEOUT,
        overtaken: float = OVERTAKEN,
        shortest_rest: float = SHORTEST_REST,
    ) -> None:
        self._spool = spool
        self._link = link
        self._counters = counters
        self._on_sent = on_sent
        self._on_done = on_done
        self._ack_timeout = ack_timeout
        self._overtaken = overtaken
        self._shortest_rest = shortest_rest
        self._unanswered_since: float | None = None
        self._later: dict[int, float] = {}
        self._put_off: dict[int, int] = {}
        self._numbers: dict[str, int] = {}
        self._flights: dict[int, _Flight] = {}
        self._work = asyncio.Event()
        self._oversized: set[int] = set()
        self._refusals = OngoingWarning(log)
        self._rejections = OngoingWarning(log)
        self._too_large, self._unreadable = OngoingWarning(log), OngoingWarning(log)

    def wake(self) -> None:
        """Check for batches to publish."""
        self._work.set()

    def send_again(self) -> None:
        """Stop waiting for acknowledgements, since the broker has lost our session and perhaps our messages."""
        for flight in self._flights.values():
            flight.event.set()

    def on_connected(self) -> None:
        """Retry oversized batches, since a new connection may have a higher limit."""
        for number in self._oversized:
            self._later.pop(number, None)
        self._oversized.clear()
        self._work.set()

    @property
    def trouble(self) -> str | None:
        """Return why some batches stay in the spool; ``None`` when none does."""
        waiting = sum(number in self._spool for number in self._oversized)
        return f"{waiting} batches are larger than the broker accepts" if waiting else None

    def acknowledge(self, ack: Ack) -> None:
        """Handle ingest's acknowledgement of a batch."""
        number = self._numbers.pop(ack.batch, None)
        if number is None or number not in self._spool:
            log.debug("acknowledgement of unknown batch %s", ack.batch)
            return
        if isinstance(ack, BatchCommitted):
            self._spool.remove(number)
            self._counters.batches_committed += 1
            self._report_rejections(ack)
        else:
            log.error("batch %s was refused and set aside: %s", ack.batch, ack.reason)
            self._spool.set_aside(number)
        self._end_silence()
        if (flight := self._flights.get(number)) is not None:
            flight.gone = True
            flight.event.set()
            self._shorten_overtaken_waits(flight)
        self._later.pop(number, None)
        self._put_off.pop(number, None)
        self._on_done()

    async def run(self) -> None:
        """Publish batches until cancelled."""
        async with asyncio.TaskGroup() as senders:
            for _ in range(IN_FLIGHT):
                senders.create_task(self._send_forever())

    async def _send_forever(self) -> None:
        while True:
            number = self._next()
            if number is None:
                self._work.clear()
                await _wait(self._work, self._until_next())
                continue
            flight = self._flights[number] = _Flight()
            try:
                await self._deliver(number, flight)
            finally:
                del self._flights[number]

    def _next(self) -> int | None:
        """Return the oldest batch that is neither in flight nor put off."""
        now = _now()
        if max(len(self._numbers), len(self._later)) > 2 * MAX_LATER:
            self._forget_dropped()
        for number in self._spool:
            if number not in self._flights and self._later.get(number, 0.0) <= now:
                return number
        return None

    def _until_next(self) -> float:
        """Return the seconds until a batch that was put off may be due."""
        waiting = (due for number, due in self._later.items() if number in self._spool and number not in self._flights)
        return min(60.0, max(0.1, min(waiting, default=math.inf) - _now()))

    async def _deliver(self, number: int, flight: "_Flight") -> None:
        """Publish a batch a few times, until it has left the spool."""
        attempts = 0
        while attempts < ATTEMPTS or len(self._later) >= MAX_LATER:
            try:
                batch = self._spool.read(number)
            except OSError as error:
                self._unreadable.warning("spool: a batch cannot be read now: %s", error.strerror or error)
                break
            self._unreadable.over()
            if batch is None:
                self._on_done()
                return
            self._numbers[batch.id] = number
            flight.event.clear()
            await self._link.wait_ready()
            sent = await self._publish(batch, number)
            if sent is None:
                self._oversized.add(number)
                break
            if sent:
                attempts += 1
                await flight.wait(self._ack_timeout)
            if flight.gone:
                return
            await _wait(flight.event, self._pause())
            if flight.gone:
                return
        self._put_off_now(number)

    def _put_off_now(self, number: int) -> None:
        times = self._put_off[number] = self._put_off.get(number, 0) + 1
        self._later[number] = _now() + min(LONGEST_LATER, LATER * 2 ** min(times - 1, 16))

    def _shorten_overtaken_waits(self, acknowledged: "_Flight") -> None:
        for flight in self._flights.values():
            if flight.sent < acknowledged.sent:
                flight.wait_no_longer_than(self._overtaken)

    async def _publish(self, batch: Batched, number: int) -> bool | None:
        """Publish a batch; return whether this succeeded, or ``None`` if it exceeds the current broker's limit."""
        try:
            await self._link.publish_batch(batch)
        except TooLarge as error:
            self._too_large.warning("%s; it waits in the spool for a broker that accepts it", error)
            return None
        except NotConnected:
            return False
        except PublishRefused as error:
            self._refusals.warning("%s", error)
            return False
        self._refusals.over()
        self._counters.batches_sent += 1
        self._flights[number].sent = _now()
        if self._unanswered_since is None:
            self._unanswered_since = _now()
        self._on_sent(number)
        return True

    def _pause(self) -> float:
        silent = 0.0 if self._unanswered_since is None else _now() - self._unanswered_since
        return min(LONGEST_REST, max(self._shortest_rest, silent / 4)) * random.uniform(0.5, 1.5)

    def _end_silence(self) -> None:
        if self._unanswered_since is not None and _now() - self._unanswered_since > LONG_SILENCE:
            self._later.clear()
            self._work.set()
        self._unanswered_since = None

    def _forget_dropped(self) -> None:
        """Forget batches that the spool has dropped."""
        self._numbers = {batch: number for batch, number in self._numbers.items() if number in self._spool}
        self._later = {number: due for number, due in self._later.items() if number in self._spool}
        self._put_off = {number: times for number, times in self._put_off.items() if number in self._spool}

    def _report_rejections(self, ack: BatchCommitted) -> None:
        if not ack.rejected:
            return
        self._counters.results_rejected += len(ack.rejected)
        first = ack.rejected[0]
        self._rejections.warning(
            "%d results of a batch were rejected, server %d: %s", len(ack.rejected), first.server_id, first.reason
        )


def _now() -> float:
    return asyncio.get_running_loop().time()


class _Flight:
    """A batch that is being published."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        """Set when it was acknowledged, or must be published again at once."""
        self.gone = False
        """The batch has left the spool."""
        self.sent = math.inf
        """Time of publishing, on the clock of the event loop."""
        self._waiting: asyncio.Timeout | None = None

    async def wait(self, seconds: float) -> None:
        """Wait for an event, or for ``seconds``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds) as self._waiting:
                try:
                    await self.event.wait()
                finally:
                    self._waiting = None

    def wait_no_longer_than(self, seconds: float) -> None:
        """Shorten the current wait, if there is one."""
        if self._waiting is not None and not self._waiting.expired():
            until = self._waiting.when() or math.inf
            self._waiting.reschedule(min(until, _now() + seconds))


async def _wait(event: asyncio.Event, timeout: float) -> None:
    """Wait until ``event`` is set, or for ``timeout`` seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await event.wait()
