"""Collect results into batches and store them in the spool.

A batch waits for a moment, so that results of the same time share it. Until the local clock has been checked again, a
batch that has not been sent can still be withdrawn: if the clock is set in between, there is no telling since when it
was wrong.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

import msgspec

from agent.delivery.spool import Batched, Spool
from agent.delivery.ulid import new_ulid
from agent.metrics import AgentCounters
from runtime.log import OngoingWarning
from runtime.threads import NoThread, in_thread
from schema.limits import MAX_BATCH_RESULTS
from schema.messages import Batch, Result, encode

log = logging.getLogger(__name__)

WINDOW: Final = 1.0
"""Seconds for which the first result of a batch waits for others."""

BACKLOG: Final = 50
"""Number of batches in the spool from which a quick delivery no longer matters."""

BACKLOG_WINDOW: Final = 30.0
"""Seconds for which a batch is collected while there is a backlog: fewer files, each with more results."""

RETRY: Final = 5.0
"""Seconds before a failed write is retried."""

CLOSE_WITHIN: Final = 2.0
"""Maximum seconds for the last batches: an agent ends within five, whatever its disk does."""

AROUND_PAYLOAD: Final = 512
"""Maximum bytes of a packet in addition to its batch: a topic with a name of 253 characters, the batch's id, and
a trace context."""

MAX_GATHERED: Final = 5 * MAX_BATCH_RESULTS
"""Maximum number of results in memory if the disk accepts no more."""


class _Gathered(msgspec.Struct, frozen=True, gc=False):
    at: float
    """Monotonic time of acceptance."""
    result: Result


class _Unsent(msgspec.Struct, frozen=True, gc=False):
    """A batch in the spool that has never been published."""

    newest: float
    """Monotonic time at which its last result was accepted."""
    results: int


class Batcher:
    """Batch the results of one protocol. Run :meth:`run` as a task, and call :meth:`close` after it has ended.

    Args:
        version: the agent's version, for the batches.
        on_batch: called when a batch was added to the spool.
        room: returns the maximum packet size that the broker accepts, in bytes; ``None`` if unlimited.
        on_trouble: called when :attr:`trouble` has changed.
    """

    def __init__(
        self,
        spool: Spool,
        version: str,
        counters: AgentCounters,
        on_batch: Callable[[], None],
        room: Callable[[], int | None] = lambda: None,
        on_trouble: Callable[[], None] = lambda: None,
    ) -> None:
        self._spool = spool
        self._version = version
        self._counters = counters
        self._on_batch = on_batch
        self._room = room
        self._on_trouble = on_trouble
        self.trouble: str | None = None
        """The reason why results cannot be stored; ``None`` when they can."""
        self._gathered: deque[_Gathered] = deque()
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._unsent: dict[int, _Unsent] = {}
        self._withdrawn_at = -1.0
        self._writing: asyncio.Task[bool] | None = None
        self._warning = OngoingWarning(log)

    def add(self, result: Result, now: float) -> None:
        """Add a result that was accepted at ``now`` (monotonic seconds)."""
        if len(self._gathered) >= MAX_GATHERED:
            self._gathered.popleft()
            self._spool.drop_results(1)
        self._gathered.append(_Gathered(now, result))
        self._some.set()
        if len(self._gathered) >= MAX_BATCH_RESULTS:
            self._full.set()

    def sent(self, number: int) -> None:
        """Mark a batch as published; it can no longer be withdrawn."""
        self._unsent.pop(number, None)

    def vouch(self, until: float) -> None:
        """Confirm that the clock was good at ``until`` (monotonic seconds): results from before are final."""
        for number in [number for number, batch in self._unsent.items() if batch.newest <= until]:
            del self._unsent[number]
        self._full.set()  # so that no batch holds results from before and after

    def withdraw(self, since: float, now: float) -> int:
        """Discard results that were collected after ``since`` and not sent yet; return their number."""
        self._withdrawn_at = now
        kept = [gathered for gathered in self._gathered if gathered.at <= since]
        withdrawn = len(self._gathered) - len(kept)
        self._gathered = deque(kept)
        for number in [number for number, batch in self._unsent.items() if batch.newest > since]:
            batch = self._unsent.pop(number)
            withdrawn += batch.results if number in self._spool else 0
            self._spool.remove(number)
        return withdrawn

    async def run(self) -> None:
        """Create batches until cancelled."""
        while True:
            await self._some.wait()
            window = WINDOW if len(self._spool) < BACKLOG else BACKLOG_WINDOW
            try:
                async with asyncio.timeout(window):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            if not await self.flush():
                await asyncio.sleep(RETRY)

    async def close(self, within: float = CLOSE_WITHIN) -> None:
        """Store all collected results in the spool; those that the disk does not accept are counted as dropped."""
        closing = asyncio.create_task(self._finish())
        await asyncio.wait({closing}, timeout=within)
        closing.cancel()
        if self._writing is not None and not self._writing.done():
            log.error("the disk does not answer")
        if left := len(self._gathered):
            log.error("%d results are lost: %s", left, self.trouble or "the disk does not answer")
            self._gathered.clear()
            self._spool.drop_results(left)

    async def _finish(self) -> None:
        if self._writing is not None:
            await asyncio.shield(self._writing)  # even if it takes longer, it belongs to the spool
        await self.flush()

    async def flush(self) -> bool:
        """Create batches from all collected results; return ``False`` if the disk did not accept them."""
        self._some.clear()
        while self._gathered:
            taken, batch = self._take()
            # Writing continues when the task that waits for it is cancelled.
            self._writing = asyncio.create_task(self._write(taken, batch))
            if not await asyncio.shield(self._writing):
                return False
        return True

    def _take(self) -> tuple[list[_Gathered], Batched]:
        """Remove and return the next results, with a batch of them that fits the broker's limit, if a single result
        does."""
        room, count = self._room(), min(len(self._gathered), MAX_BATCH_RESULTS)
        while True:
            taken = list(islice(self._gathered, count))
            batch = self._batch(taken)
            if room is None or len(batch.payload) + AROUND_PAYLOAD <= room or count == 1:
                break
            count //= 2
        for _ in taken:
            self._gathered.popleft()
        return taken, batch

    async def _write(self, taken: list[_Gathered], batch: Batched) -> bool:
        number = self._spool.reserve()
        began = time.monotonic()
        try:
            size = await self._store(number, batch)
        except OSError as error:
            self._warning.warning("spool: cannot write a batch: %s", error.strerror or error)
            self._gathered.extendleft(reversed(taken))
            self._some.set()
            self._set_trouble(f"results cannot be written to disk: {error.strerror or error}")
            return False
        self._warning.over()
        self._set_trouble(None)
        self._spool.admit(number, size, time.time())
        if self._withdrawn_at >= began:
            self._spool.remove(number)
            self._counters.probes_discarded += len(taken)
            return True
        self._counters.batches_made += 1
        self._unsent[number] = _Unsent(taken[-1].at, len(taken))
        self._on_batch()
        return True

    async def _store(self, number: int, batch: Batched) -> int:
        try:
            # In a thread: a slow disk may take seconds to confirm, and probes continue meanwhile.
            return await in_thread(lambda: self._spool.store(number, batch), "spool")
        except NoThread:
            return self._spool.store(number, batch)

    def _set_trouble(self, trouble: str | None) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            self._on_trouble()

    def _batch(self, taken: list[_Gathered]) -> Batched:
        now = time.time_ns()
        batch = Batch(id=new_ulid(now), version=self._version, results=[gathered.result for gathered in taken])
        return Batched(id=batch.id, results=len(taken), created=now // 1_000_000_000, payload=encode(batch))
