"""Inject process faults: killed, stopped, restarted, dead at a point, and additional ones."""

import asyncio
import signal
from contextlib import suppress
from typing import Final

from bench.faults.plan import Planned
from bench.faults.points import order_file, program_of
from bench.faults.rig import WORKERS, Rig

_AT_THE_POINT_WITHIN: Final = 20.0
"""Seconds for a process to reach the point at which it must die."""

_RETAINED: Final = "mosquitto.db*"
"""Mosquitto's file of sessions and retained messages."""


class Kill:
    """A process is killed, and starts again."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig, self._name = rig, planned.target
        self.touches = frozenset({planned.target})

    async def begin(self) -> None:
        await self._rig.kill(self._name)

    async def end(self) -> None:
        await self._rig.start_again(self._name)


class Restart(Kill):
    """A process ends in order, and starts again."""

    async def begin(self) -> None:
        await self._rig.stop(self._name)


class Wiped(Kill):
    """The broker restarts without sessions and retained messages."""

    async def end(self) -> None:
        for path in self._rig.site.broker.directory.glob(_RETAINED):
            path.unlink()
        await super().end()


class Stop:
    """A process is stopped (SIGSTOP), with its connections open, and continues later."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig, self._name = rig, planned.target
        self.touches = frozenset({planned.target})

    async def begin(self) -> None:
        self._rig.signal(self._name, signal.SIGSTOP)

    async def end(self) -> None:
        self._rig.signal(self._name, signal.SIGCONT)


class KillAtPoint:
    """A process kills itself at a point of its program, and starts again."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        program = program_of(planned.target)
        some = [name for name in (*rig.monitors, *WORKERS) if name.partition(" ")[0] == program]
        self._rig, self._name = rig, some[int(planned.luck * len(some))]
        self._order = order_file(rig.fault_site.handles(self._name), planned.target)
        self.reached = False
        self.touches = frozenset({self._name})

    async def begin(self) -> None:
        self._order.touch()
        with suppress(TimeoutError):
            async with asyncio.timeout(_AT_THE_POINT_WITHIN):
                await self._rig.supervisor.wait(self._name)
                self.reached = True
        self._order.unlink(missing_ok=True)

    async def end(self) -> None:
        # A process that has not reached the point is killed now: it must not die later, unexpectedly.
        await self._rig.kill(self._name)
        await self._rig.start_again(self._name)


class Arrival:
    """An additional ingest worker, for a while."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig, self._name = rig, planned.target
        # A rotation restarts the permanent workers only; an additional one would be left with the previous key.
        self.touches = frozenset({planned.target, WORKERS[0]})

    async def begin(self) -> None:
        await self._rig.start_worker(self._name)

    async def end(self) -> None:
        await self._rig.stop(self._name)
