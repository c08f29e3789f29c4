"""Start, watch, restart and end processes: its own, and no others."""

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from testbed.process import TERM_WITHIN, Command, Death, Process


class Supervisor:
    """Hold processes by name, in the order of their start; they end in reverse order.

    A context manager: at its end, whatever the reason, none of the processes is left.
    """

    def __init__(self) -> None:
        self._processes: dict[str, Process] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._wanted: set[str] = set()
        self.deaths: list[Death] = []
        self.died = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(reversed(list(self._processes)))
        for watcher in self._watchers.values():
            watcher.cancel()

    @property
    def running(self) -> Sequence[str]:
        """Names of the processes that run."""
        return [name for name, process in self._processes.items() if process.running]

    def pid(self, name: str) -> int | None:
        """Return the process id of a running process, else None."""
        return self._processes[name].pid

    async def start(self, command: Command) -> None:
        """Start a process that runs until it is stopped.

        Raises:
            OSError: it cannot be started.
        """
        self._processes[command.name] = Process(command)
        await self.restart(command.name)

    async def restart(self, name: str) -> None:
        """Start a stopped or killed process again."""
        process = self._processes[name]
        await process.start()
        self._wanted.add(name)
        self._watchers[name] = asyncio.create_task(self._watch(process), name=f"watch {name}")

    async def stop(self, names: Iterable[str], within: float = TERM_WITHIN) -> list[str]:
        """End these processes together and in order; return the names of those killed after ``within`` seconds."""
        stopping = list(names)
        self._wanted.difference_update(stopping)
        in_order = await asyncio.gather(*(self._processes[name].stop(within) for name in stopping))
        return [name for name, orderly in zip(stopping, in_order, strict=True) if not orderly]

    async def wait(self, name: str) -> int:
        """Return the exit status of a process that ends by itself."""
        self._wanted.discard(name)
        return await self._processes[name].wait()

    async def kill(self, name: str) -> None:
        """Kill a process deliberately; its death is not reported."""
        self._wanted.discard(name)
        await self._processes[name].kill()

    def kill_all(self) -> None:
        """Kill all processes; tasks that wait for the end of one notice."""
        self._wanted.clear()
        for process in self._processes.values():
            process.kill_now()

    async def _watch(self, process: Process) -> None:
        await process.wait()
        if process.name in self._wanted:
            self._wanted.discard(process.name)
            self.deaths.append(process.death())
            self.died.set()
