"""Start, observe and stop the system on this machine, as processes.

The demo, benchmarks and fault runs build on it. Each of them decides which processes it starts in which order, and
whether the death of a process ends the run.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final, Self, TypeVar

from sqlalchemy.engine import Connection

from runtime.db.engine import open_database, reading
from runtime.mqtt.session import BrokerSession
from testbed.process import Command
from testbed.site import Site, broker_commands
from testbed.supervisor import Supervisor

_LOOK_EVERY: Final = 0.05
T = TypeVar("T")


class CannotRun(Exception):
    """A requirement is missing or does not work; the message names it, and the reason."""


class Stack:
    """Hold processes by name, sessions and the ledger; a context manager that leaves nothing behind."""

    start_within_seconds: float = 90.0
    """Maximum time for a process to become ready."""

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
        """Start a process; return when it has written ``ready`` into its log.

        Raises:
            CannotRun: it does not become ready.
        """
        before = command.log.stat().st_size if command.log.exists() else 0
        await self.supervisor.start(command)
        sign = ready.encode()
        await self.until(lambda: sign in command.log.read_bytes()[before:], f"start of {command.name}")

    async def start_broker(self) -> None:
        """Start the broker, one node after the other; return when its log says that it listens: another process may
        answer on the port."""
        for command in broker_commands(self.site):
            await self.start_process(command, self.site.broker.ready)

    async def connect(self, session: BrokerSession) -> None:
        """Run a session until the end; return when it is connected."""
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
        """Wait until ``condition`` is true.

        Args:
            within, every: seconds; ``within`` defaults to :attr:`start_within_seconds`.

        Raises:
            CannotRun: it does not become true in time, or :meth:`check` raises.
        """
        within = self.start_within_seconds if within is None else within
        deadline = time.monotonic() + within
        while not await _value(condition()):
            self.check()
            if time.monotonic() > deadline:
                raise CannotRun(f"{what} did not happen within {within:g} s; see {self.site.logs}")
            await asyncio.sleep(every)

    def check(self) -> None:
        """Check that it is worth waiting.

        Raises:
            CannotRun: a process has died.
        """
        if self.supervisor.deaths:
            raise CannotRun(str(self.supervisor.deaths[0]))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` on the ledger, and return its result."""
        return await asyncio.to_thread(self._read, work)

    def _read(self, work: Callable[[Connection], T]) -> T:
        with reading(self.engine) as connection:
            return work(connection)


async def _value(value: bool | Awaitable[bool]) -> bool:
    return value if isinstance(value, bool) else await value


async def _cancelled(task: "asyncio.Future[None]") -> None:
    task.cancel()
    await asyncio.wait({task})
