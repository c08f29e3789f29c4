"""Run many simulated monitors in one process, which send at a given rate or as much as is acknowledged."""

import asyncio
import heapq
import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import count, cycle
from typing import Final

from auth.tokens import SigningKey
from testbed.load.monitor import SimulatedMonitor
from testbed.load.record import Record
from testbed.load.spec import LoadSpec, Member
from testbed.load.spool import DiskSpool, LoadSpool, MemorySpool

log = logging.getLogger(__name__)

READY: Final = "all monitors are connected"
"""The log message at the start of the load."""

_CONNECT_TOGETHER: Final = 25
"""Number of monitors that connect at the same time."""

_CONNECT_WITHIN: Final = 60.0
_LOOK_AGAIN: Final = 0.5
"""Seconds before a monitor without a due measurement is checked again."""

_LOOK_WHETHER_EMPTY: Final = 0.05


class NotReady(Exception):
    """Not all monitors connected in time."""


class Generator:
    """Run a :class:`LoadSpec`."""

    def __init__(self, spec: LoadSpec, key: SigningKey, record: Record) -> None:
        self._spec = spec
        self._room = asyncio.Semaphore(spec.outstanding or 1)
        self.late = 0.0
        """Maximum seconds by which a batch was late: more than a little means that the generator is too slow."""
        self.monitors = [
            SimulatedMonitor(member, spec, key, _spool(spec, member), record, self._batch_left)
            for member in spec.members
        ]

    @property
    def left(self) -> int:
        """Number of unacknowledged batches."""
        return sum(len(monitor.spool) for monitor in self.monitors)

    async def run(self, stop: asyncio.Event) -> bool:
        """Send until the time is over or ``stop`` is set; return whether everything was acknowledged in the end.

        Raises:
            NotReady: not all monitors connected in time.
        """
        async with AsyncExitStack() as stack:
            for monitor in self.monitors:
                monitor.make_ahead(self._spec.ahead)
            running: list[asyncio.Task[None]] = []
            stack.push_async_callback(_end, running)
            await self._connect(running)
            log.info(READY)
            sending = asyncio.create_task(self._send_closed() if self._spec.outstanding else self._send_paced())
            stack.push_async_callback(_end, [sending])
            await _until(stop, self._spec.seconds, [sending, *running])
            await _end([sending])
            return await self._drain()

    async def _connect(self, running: list[asyncio.Task[None]]) -> None:
        try:
            async with asyncio.timeout(_CONNECT_WITHIN):
                for first in range(0, len(self.monitors), _CONNECT_TOGETHER):
                    some = self.monitors[first : first + _CONNECT_TOGETHER]
                    running += [asyncio.create_task(monitor.run(), name=monitor.member.name) for monitor in some]
                    await asyncio.gather(*(monitor.wait_ready() for monitor in some))
        except TimeoutError:
            connected = sum(monitor.session.connected for monitor in self.monitors)
            raise NotReady(f"only {connected} of {len(self.monitors)} monitors could connect") from None

    async def _send_closed(self) -> None:
        """Keep a constant number of batches unacknowledged."""
        for monitor in cycle(self.monitors):
            await self._room.acquire()
            if not await monitor.submit():
                self._room.release()
                await asyncio.sleep(_LOOK_AGAIN / len(self.monitors))

    def _batch_left(self) -> None:
        self._room.release()

    async def _send_paced(self) -> None:
        """Make each monitor's batches when enough results are due, whatever happened to earlier batches."""
        began = time.monotonic()
        order = count()
        queue = [
            (began + self._spec.batch / rate * fraction if rate else began, next(order), monitor)
            for monitor, rate, fraction in zip(self.monitors, self._rates(), _spread(self.monitors), strict=True)
        ]
        heapq.heapify(queue)
        while True:
            due, _, monitor = queue[0]
            wait = due - time.monotonic()
            # Also when late: the other tasks need their turn.
            await asyncio.sleep(max(0.0, wait))
            rate = self._rate(monitor)
            sent = rate > 0 and await monitor.submit()
            self.late = max(self.late, -wait) if sent else self.late
            heapq.heapreplace(queue, (due + (self._spec.batch / rate if sent else _LOOK_AGAIN), next(order), monitor))

    def _rates(self) -> list[float]:
        return [self._rate(monitor) for monitor in self.monitors]

    def _rate(self, monitor: SimulatedMonitor) -> float:
        """Return this monitor's rate in results per second."""
        if self._spec.rate is not None:
            return self._spec.rate / len(self.monitors)
        return monitor.rota.pace

    async def _drain(self) -> bool:
        deadline = time.monotonic() + self._spec.drain
        while not all(monitor.idle for monitor in self.monitors):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_LOOK_WHETHER_EMPTY)
        return True


def _spool(spec: LoadSpec, member: Member) -> LoadSpool:
    return MemorySpool() if spec.spools is None else DiskSpool(spec.spools / member.name / member.ipv)


def _spread(monitors: Sequence[SimulatedMonitor]) -> list[float]:
    """Return where in its first interval each monitor begins, so that they do not send at the same moment."""
    return [index / len(monitors) for index in range(len(monitors))]


async def _until(stop: asyncio.Event, seconds: float | None, endless: Sequence[asyncio.Task[None]]) -> None:
    """Wait until the time is over. Endless tasks end only with an error, which is raised."""
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait({stopping, *endless}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for task in endless:
        if task in done:
            await task


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
