"""Inject faults of the environment: the clock, the disk, the network."""

import asyncio
from typing import Final

from bench.faults import disks
from bench.faults.clock import ClockOffset
from bench.faults.launch import CLOCK
from bench.faults.plan import Planned
from bench.faults.rig import Rig
from testbed.database import DatabaseServer
from testbed.tcp_proxy import Direction, TcpProxy

_HOUR: Final = 3600.0
_CUT_EVERY: Final = 1.0
_HANDSHAKE: Final = 400
"""Minimum octets in each direction of a TLS handshake."""

_GIVES_UP_WITHIN: Final = 10.0
"""Seconds in which a server that could not write may still exit: it saves its position first."""

_LOOK_EVERY: Final = 0.1


class Clock:
    """An agent's clock is set by an hour, and back."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._offset = ClockOffset(rig.fault_site.handles(planned.target) / CLOCK)
        self._seconds = _HOUR if planned.kind.endswith("ahead") else -_HOUR
        self.touches = frozenset({planned.target})

    async def begin(self) -> None:
        self._offset.set(self._seconds)

    async def end(self) -> None:
        self._offset.set(0.0)


class FullDisk:
    """No space is left for an agent's state and spool, or for the database."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig, self._name = rig, planned.target
        database = rig.databases.get(self._name)
        self._database = database
        self._path = rig.agent_state(self._name).path.parent if database is None else database.directory
        self.touches = frozenset({planned.target})

    async def begin(self) -> None:
        await asyncio.to_thread(disks.fill, self._path)

    async def end(self) -> None:
        await asyncio.to_thread(disks.free, self._path)
        if self._database is not None and await self._gave_up(self._database):
            # A server that cannot write gives up; its operator frees space and starts it again.
            await self._rig.kill(self._name)
            await self._rig.start_again(self._name)

    async def _gave_up(self, database: DatabaseServer) -> bool:
        for _ in range(round(_GIVES_UP_WITHIN / _LOOK_EVERY)):
            if not database.running:
                return True
            await asyncio.sleep(_LOOK_EVERY)
        # A node that could not apply a change leaves its cluster, and stays.
        return not await asyncio.to_thread(database.answers)


class Network:
    """The connections between two kinds of processes are disturbed."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._link = rig.links[planned.target]
        self._luck = planned.luck
        self._cutting: asyncio.Task[None] | None = None
        self._manner = planned.kind.partition(" ")[0]
        self._in_handshake = planned.kind == "cut TLS handshakes"
        self.touches = frozenset({planned.target})

    async def begin(self) -> None:
        match self._manner:
            case "delayed":
                self._link.delay(0.02 + self._luck * 0.5)
            case "sliced":
                self._link.slice(20 + int(self._luck * 500))
            case "hanging":
                self._link.pause(*[(), (Direction.TO_CLIENT,), (Direction.TO_TARGET,)][int(self._luck * 3)])
            case "refused":
                self._link.refuse()
                await self._link.cut()
            case "silent":
                # Connections are accepted, but receive nothing.
                self._link.pause()
                await self._link.cut()
            case "cut" if self._in_handshake:
                direction = list(Direction)[int(self._luck * 2)]
                self._link.cut_new_after(1 + int(self._luck * 2 % 1 * _HANDSHAKE), direction)
                await self._link.cut()
            case "cut":
                self._cutting = asyncio.create_task(_keep_cutting(self._link, self._luck))

    async def end(self) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
            await asyncio.wait({self._cutting})
        self._link.delay(0.0)
        self._link.slice(0)
        for direction in Direction:
            self._link.cut_new_after(None, direction)
        self._link.resume()
        await self._link.accept()


async def _keep_cutting(link: TcpProxy, luck: float) -> None:
    """Cut connections in the middle of data, in alternating directions."""
    directions = list(Direction)
    for turn in range(1_000):
        link.cut_after(1 + int(luck * 5_000), directions[turn % 2])
        await asyncio.sleep(_CUT_EVERY * (1 + 3 * luck))
        if turn % 3 == 2:
            await link.cut()
