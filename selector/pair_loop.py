"""The loop that has missing pairs made when a monitor goes live or a server is added, and tells the agents of them."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final

from runtime.worker import Worker
from selector.metrics import Numbers
from selector.monitors import MonitorRow
from selector.pairs import Population, make_pairs, queue_servers, read_population
from selector.publisher import Publisher
from selector.review_loop import Reviewing

SWEEP: Final = 600.0
"""Seconds after which missing pairs are looked for although nobody came."""


class Populating:
    """Looks whenever it is shown the monitors. A new pool's pairs take minutes, which is why nobody waits for it."""

    def __init__(self, worker: Worker, reviewing: Reviewing, publisher: Publisher, numbers: Numbers) -> None:
        self._worker = worker
        self._reviewing = reviewing
        self._publisher = publisher
        self._numbers = numbers
        self._rows: Sequence[MonitorRow] = ()
        self._shown = asyncio.Event()
        self._population: Population | None = None
        self._swept = float("-inf")

    def see(self, rows: Sequence[MonitorRow]) -> None:
        """These are the monitors now."""
        self._rows = rows
        self._shown.set()

    async def run(self) -> None:
        """Makes what is missing, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP):
                    await self._shown.wait()
            self._shown.clear()
            await self._look(self._rows)

    async def _look(self, rows: Sequence[MonitorRow]) -> None:
        worker, now = self._worker, datetime.now(UTC)
        population = await worker.in_database(partial(read_population, worker.engine, rows, now))
        if population == self._population and time.monotonic() - self._swept < SWEEP:
            return
        for row in rows:
            await self._make_pairs(row, now)
        # Only now: the first review of a server is to see its pairs.
        if await worker.in_database(partial(queue_servers, worker.engine, now)):
            self._reviewing.wake()
        self._population, self._swept = population, time.monotonic()

    async def _make_pairs(self, row: MonitorRow, now: datetime) -> None:
        while pairs := await self._worker.in_database(partial(make_pairs, self._worker.engine, row, now)):
            self._numbers.made_pairs(len(pairs))
            await self._publisher.publish_pairs(pairs)
