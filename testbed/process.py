"""Run one child process in its own process group, with its output in a file, and make sure that it ends."""

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TERM_WITHIN: Final = 8.0
"""Seconds for a process to end in order; ours promise five."""

_LAST_LINES: Final = 12
_READ_BACK: Final = 8192
"""Maximum number of bytes to read from the end of a log."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command line to run. Put secrets into the environment or a file: all users can see the arguments."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    directory: Path


@dataclass(frozen=True, slots=True)
class Death:
    """A process that ended unexpectedly."""

    name: str
    how: str
    log: Path
    last_lines: str

    def __str__(self) -> str:
        lines = "".join(f"\n    {line}" for line in self.last_lines.splitlines())
        return f"{self.name} {self.how}; the end of {self.log}:{lines}"


class Process:
    """A child process, which can be started again after its end."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._process: asyncio.subprocess.Process | None = None

    @property
    def name(self) -> str:
        """The name in messages."""
        return self.command.name

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process; append its output to its log.

        It ends with this process even if that is killed. It does not receive Ctrl-C from a terminal, so that processes
        end in order.

        Raises:
            OSError: it cannot be started.
        """
        assert not self.running, f"{self.name} is already running"
        with self.command.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *ending_with_us(),
                *self.command.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.command.env),
                cwd=self.command.directory,
                start_new_session=True,
            )

    async def wait(self) -> int:
        """Return the exit status; negative: the signal that ended the process."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self, within: float = TERM_WITHIN) -> bool:
        """End the process in order, or kill it after ``within`` seconds. Return whether it ended in order."""
        if not self.running:
            return True
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within):
                await self.wait()
        except TimeoutError:
            await self.kill()
            return False
        return True

    async def kill(self) -> None:
        """Kill the process and its children."""
        if self.running:
            self.kill_now()
            await self.wait()

    def kill_now(self) -> None:
        """Do the same as :meth:`kill`, but without waiting."""
        if self.running and self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            assert self._process is not None
            self._process.send_signal(number)

    def death(self) -> Death:
        """Return how the process ended."""
        status = None if self._process is None else self._process.returncode
        return Death(self.name, describe(status), self.command.log, last_lines(self.command.log))


def ending_with_us() -> list[str]:
    """Make the kernel kill the process when we end (prctl(2), PR_SET_PDEATHSIG), if util-linux is installed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def describe(status: int | None) -> str:
    """Describe an exit status in words."""
    if status is None:
        return "did not start"
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit code {status}"


def last_lines(log: Path, count: int = _LAST_LINES) -> str:
    """Return the last lines of a log, or the error that prevented reading it."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _READ_BACK))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"({error})"
    return "\n".join(text.splitlines()[-count:]) or "(empty)"
