"""The faults themselves: one small class each, that breaks something and makes it whole again."""

import asyncio
import secrets
import signal
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final, Protocol

from agent.state import write_token
from auth.tokens import Role, load_key, sign
from bench.faults import disks
from bench.faults.clock import ClockOffset
from bench.faults.launch import CLOCK
from bench.faults.plan import LINKS, Planned
from bench.faults.points import order_file, program_of
from bench.faults.rig import BROKER, DATABASE, WORKERS, Rig
from ops.demo.spools import is_empty
from ops.demo.world import ENV
from simulation.tcp_proxy import Direction, TcpProxy

_AT_THE_POINT_WITHIN: Final = 20.0
"""Seconds until a process must have come by the point where it is to die."""

_SHORT_TOKEN: Final = timedelta(seconds=10)
_HOUR: Final = 3600.0
_CUT_EVERY: Final = 1.0
_RETAINED: Final = "mosquitto.db*"
"""Where Mosquitto keeps sessions and retained messages."""


class Fault(Protocol):
    """Something that goes wrong for a while."""

    touches: frozenset[str]
    """What nothing else may break at the same time; names of processes and links."""

    async def begin(self) -> None:
        """Breaks it."""

    async def end(self) -> None:
        """Makes it whole again."""


class Kill:
    """A process is gone without a word, and comes back."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig, self._name = rig, planned.target
        self.touches = frozenset({planned.target})

    async def begin(self) -> None:
        await self._rig.kill(self._name)

    async def end(self) -> None:
        await self._rig.start_again(self._name)


class Restart(Kill):
    """A process ends in order, and comes back."""

    async def begin(self) -> None:
        await self._rig.stop(self._name)


class Wiped(Kill):
    """The broker comes back without sessions and retained messages."""

    async def end(self) -> None:
        for path in self._rig.site.site.broker.directory.glob(_RETAINED):
            path.unlink()
        await super().end()


class Stop:
    """A process is stopped, its connections stay open, and it goes on."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig, self._name = rig, planned.target
        self.touches = frozenset({planned.target})

    async def begin(self) -> None:
        self._rig.signal(self._name, signal.SIGSTOP)

    async def end(self) -> None:
        self._rig.signal(self._name, signal.SIGCONT)


class KillAtPoint:
    """A process kills itself at a point of its program, and comes back."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        program = program_of(planned.target)
        some = [name for name in (*rig.monitors, *WORKERS) if name.partition(" ")[0] == program]
        self._rig, self._name = rig, some[int(planned.luck * len(some))]
        self._order = order_file(rig.site.handles(self._name), planned.target)
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
        # Who did not come by is killed now: it must not die later, when nobody expects it.
        await self._rig.kill(self._name)
        await self._rig.start_again(self._name)


class ExpiredToken:
    """An agent's token runs out while it is connected, and for a while there is no new one."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig, self._name = rig, planned.target
        self.touches = frozenset({planned.target, LINKS[0]})

    async def begin(self) -> None:
        monitor = self._rig.monitors[self._name]
        token = sign(self._rig.site.key, Role.MONITOR, monitor.name, ENV, lifetime=_SHORT_TOKEN)
        write_token(self._rig.site.state(monitor), token)
        await self._rig.links[LINKS[0]].cut()  # so that it connects with this one

    async def end(self) -> None:
        self._rig.site.renew_token(self._rig.monitors[self._name])


class Rotation:
    """A new key, with the former one accepted for a while; those who sign with it are started anew, as operators do."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig = rig
        self.touches = frozenset({*rig.monitors, *WORKERS, BROKER})

    async def begin(self) -> None:
        site = self._rig.site
        former = site.key.verification_text()
        secret = secrets.token_urlsafe(48)
        site.key = load_key(secret)
        self._reload(former)
        replacement = site.key_file.with_suffix(".new")
        replacement.touch(mode=0o600)
        replacement.write_text(secret + "\n", encoding="utf-8")
        replacement.replace(site.key_file)
        for monitor in self._rig.monitors.values():
            site.renew_token(monitor)
        for name in WORKERS:
            await self._rig.stop(name)
            await self._rig.start_again(name)

    async def end(self) -> None:
        self._reload(None)

    def _reload(self, former: str | None) -> None:
        self._rig.site.site.broker.set_keys(self._rig.site.key.verification_text(), former)
        self._rig.signal(BROKER, signal.SIGHUP)


class Duplicate:
    """A second agent with the same identity, on another host: both want the session."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig, self._name = rig, planned.target
        self._copy = f"{planned.target} copy"
        self.touches = frozenset({planned.target, self._copy})

    async def begin(self) -> None:
        monitor = self._rig.monitors[self._name]
        await asyncio.to_thread(self._rig.site.provision, monitor, self._rig.links[LINKS[0]].port, True)
        await self._rig.supervisor.start(self._rig.site.agent(monitor, copy=True))

    async def end(self) -> None:
        """Takes the copy away. What it measured is delivered first, alone, as whoever moves an agent would have it."""
        await self._rig.stop(self._copy)
        state = self._rig.site.state(self._rig.monitors[self._name], copy=True)
        if is_empty(state):
            return
        await self._rig.stop(self._name)
        while not is_empty(state):
            await self._rig.start_again(self._copy)
            await self._deliver()
            await self._rig.stop(self._copy)
        await self._rig.start_again(self._name)

    async def _deliver(self) -> None:
        """Returns when the copy has sent what it had, or has tried for a while."""
        monitor = self._rig.monitors[self._name]
        state = self._rig.site.state(monitor, copy=True)
        quiet = 0
        for _ in range(120):
            paused = await self._rig.orders.agent(monitor.name, "pause")
            quiet = quiet + 1 if paused and is_empty(state) else 0
            if quiet > 6:  # longer than results are gathered before they become a batch
                return
            await asyncio.sleep(0.25)


class Clock:
    """An agent's clock is set by an hour, and back."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._offset = ClockOffset(rig.site.handles(planned.target) / CLOCK)
        self._seconds = _HOUR if planned.kind.endswith("ahead") else -_HOUR
        self.touches = frozenset({planned.target})

    async def begin(self) -> None:
        self._offset.set(self._seconds)

    async def end(self) -> None:
        self._offset.set(0.0)


class FullDisk:
    """No space is left under an agent's state and spool, or under the database."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig, self._name = rig, planned.target
        self._path = (
            rig.database.directory if self._name == DATABASE else rig.site.state(rig.monitors[self._name]).path.parent
        )
        self.touches = frozenset({planned.target})

    async def begin(self) -> None:
        await asyncio.to_thread(disks.fill, self._path)

    async def end(self) -> None:
        await asyncio.to_thread(disks.free, self._path)
        if self._name == DATABASE and not self._rig.database.running:
            # A MariaDB that cannot write gives up; its operator makes room and starts it again.
            await self._rig.kill(DATABASE)
            await self._rig.start_again(DATABASE)


class Network:
    """The connections between two kinds of processes suffer."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._link = rig.links[planned.target]
        self._luck = planned.luck
        self._cutting: asyncio.Task[None] | None = None
        self._manner = planned.kind.partition(" ")[0]
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
            case "cut":
                self._cutting = asyncio.create_task(_keep_cutting(self._link, self._luck))

    async def end(self) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
            await asyncio.wait({self._cutting})
        self._link.delay(0.0)
        self._link.slice(0)
        self._link.resume()
        await self._link.accept()


async def _keep_cutting(link: TcpProxy, luck: float) -> None:
    """In the middle of what is on its way, now in one direction, now in the other."""
    directions = list(Direction)
    for turn in range(1_000):
        link.cut_after(1 + int(luck * 5_000), directions[turn % 2])
        await asyncio.sleep(_CUT_EVERY * (1 + 3 * luck))
        if turn % 3 == 2:
            await link.cut()


class Arrival:
    """One more ingest worker, for a while."""

    def __init__(self, rig: Rig, planned: Planned) -> None:
        self._rig, self._name = rig, planned.target
        # A rotation restarts those that it knows of; who comes for a while would be left with the former key.
        self.touches = frozenset({planned.target, WORKERS[0]})

    async def begin(self) -> None:
        await self._rig.start_worker(self._name)

    async def end(self) -> None:
        await self._rig.stop(self._name)


Maker = Callable[[Rig, Planned], Fault]

MAKERS: Final[dict[str, Maker]] = {
    "kill": Kill,
    "stop": Stop,
    "kill at a point": KillAtPoint,
    "kill at another point": KillAtPoint,
    "restart of the broker": Restart,
    "restart of the broker without its files": Wiped,
    "restart of the database": Restart,
    "expired token": ExpiredToken,
    "rotation of the key": Rotation,
    "second agent with the same name": Duplicate,
    "clock an hour ahead": Clock,
    "clock an hour behind": Clock,
    "full disk under the spool": FullDisk,
    "full disk under the database": FullDisk,
    "delayed TCP": Network,
    "cut TCP": Network,
    "sliced TCP": Network,
    "hanging TCP": Network,
    "refused TCP": Network,
    "worker leaves in order": Restart,
    "worker comes": Arrival,
}
"""How each kind of the plan is made."""


def make_fault(rig: Rig, planned: Planned) -> Fault:
    """The fault that was planned."""
    return MAKERS[planned.kind](rig, planned)


__all__ = ["MAKERS", "Fault", "make_fault"]
