"""The system on this machine, as processes: started, waited for, read and ended in one way.

The demo, benchmarks and fault runs build on it. Each says itself what it starts in which order, and whether the death
of a process ends it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final, Self, TypeVar

from sqlalchemy.engine import Connection

from runtime.db.engine import open_database, reading
from runtime.mqtt.session import BrokerSession
from testbed.broker import RUNNING
from testbed.process import Command
from testbed.site import Site, broker_command
from testbed.supervisor import Supervisor

_LOOK_EVERY: Final = 0.05
T = TypeVar("T")


class CannotRun(Exception):
    """Something that is needed is missing or does not work; the message says what and why."""


class Stack:
    """Processes by name, sessions and the ledger. As a context manager it leaves nothing behind."""

    start_within_seconds: float = 90.0
    """The time that a process has to get ready."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.supervisor = Supervisor()
        self.engine = open_database(site.database)
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._exit.callback(self.engine.dispose)
        await self._exit.enter_async_context(self.supervisor)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._exit.aclose()

    async def start_process(self, command: Command, ready: str) -> None:
        """Starts a process, and returns when it has written ``ready`` into its log.

        Raises:
            CannotRun: it does not get ready.
        """
        before = command.log.stat().st_size if command.log.exists() else 0
        await self.supervisor.start(command)
        sign = ready.encode()
        await self.until(lambda: sign in command.log.read_bytes()[before:], f"start of {command.name}")

    async def start_broker(self) -> None:
        """Starts the broker, and returns when it listens: a port that answers may be somebody else's."""
        await self.start_process(broker_command(self.site), RUNNING)

    async def connect(self, session: BrokerSession) -> None:
        """Runs a session until the end, and returns when it is connected."""
        task: asyncio.Future[None] = asyncio.ensure_future(session.run())
        self._exit.push_async_callback(_cancelled, task)
        await self.until(lambda: session.connected, "a session with the broker")

    async def until(
        self,
        condition: Callable[[], bool | Awaitable[bool]],
        what: str,
        within: float | None = None,
        every: float = _LOOK_EVERY,
    ) -> None:
        """Returns when ``condition`` is true.

        Args:
            within, every: seconds; by default it may take :attr:`start_within_seconds`.

        Raises:
            CannotRun: it does not become true in time, or :meth:`check` raises.
        """
        within = self.start_within_seconds if within is None else within
        deadline = time.monotonic() + within
        while not await _value(condition()):
            self.check()
            if time.monotonic() > deadline:
                raise CannotRun(f"{what} did not come about within {within:g} s; see {self.site.logs}")
            await asyncio.sleep(every)

    def check(self) -> None:
        """Makes sure that it is worth waiting.

        Raises:
            CannotRun: a process has died.
        """
        if self.supervisor.deaths:
            raise CannotRun(str(self.supervisor.deaths[0]))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` reads from the ledger."""
        return await asyncio.to_thread(self._read, work)

    def _read(self, work: Callable[[Connection], T]) -> T:
        with reading(self.engine) as connection:
            return work(connection)


async def _value(value: bool | Awaitable[bool]) -> bool:
    return value if isinstance(value, bool) else await value


async def _cancelled(task: "asyncio.Future[None]") -> None:
    task.cancel()
    await asyncio.wait({task})
