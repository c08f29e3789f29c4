"""Run the processes that send messages, and end those that hang."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec

from notifier.jobs import Job, Outcome
from notifier.sender import SenderSettings, argv, environment

log = logging.getLogger(__name__)

AT_ONCE: Final = 4
"""Messages that are sent at the same time, so that a few channels that hang do not hold up the others."""

ENDS_WITHIN: Final = 30.0
"""Seconds for one message, whatever its channel does; then its process is killed."""

STARTS_WITHIN: Final = 30.0
"""Further seconds for the first message of a process, which loads its libraries."""

_MOST_ANSWER: Final = 64 * 1024


class Senders:
    """A few processes, started when they are needed."""

    def __init__(self, settings: SenderSettings, *, ends_within: float = ENDS_WITHIN) -> None:
        self._settings = settings
        self._ends_within = ends_within
        self._free = asyncio.Semaphore(AT_ONCE)
        self._idle: list[asyncio.subprocess.Process] = []
        self._running: set[asyncio.subprocess.Process] = set()
        self._warm: set[asyncio.subprocess.Process] = set()
        """Processes that have loaded their libraries."""

    async def send(self, job: Job) -> Outcome:
        """Send one message. A cancellation ends its process."""
        async with self._free, self._process() as process:
            within = self._ends_within + (0.0 if process in self._warm else STARTS_WITHIN)
            try:
                async with asyncio.timeout(within):
                    outcome = await _ask(process, job)
            except TimeoutError:
                return Outcome(failure=f"the channel did not answer within {within:g} s")
            except (OSError, EOFError, ValueError, msgspec.MsgspecError) as error:
                return Outcome(failure=f"the sender's process failed ({type(error).__name__})")
            self._warm.add(process)
            self._idle.append(process)
            return outcome

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """End all processes after the block."""
        try:
            yield
        finally:
            await self.close()

    async def close(self) -> None:
        """End the idle processes, for example when nothing is left to send."""
        while self._idle:
            await self._end(self._idle.pop())

    @property
    def idle(self) -> int:
        """Number of processes that wait for a message."""
        return len(self._idle)

    @property
    def running_now(self) -> int:
        """Number of all processes."""
        return len(self._running)

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Yield a process, which ends after the block unless it is idle again."""
        process = self._idle.pop() if self._idle else await self._start()
        try:
            yield process
        finally:
            if process not in self._idle:
                await self._end(process)

    async def _start(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *argv(), stdin=pipe, stdout=pipe, env=environment(), limit=_MOST_ANSWER
        )
        self._running.add(process)
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(self._settings) + b"\n")
        return process

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        self._warm.discard(process)
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        self._running.discard(process)


async def _ask(process: asyncio.subprocess.Process, job: Job) -> Outcome:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(job) + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise EOFError
    return msgspec.json.decode(line, type=Outcome)
