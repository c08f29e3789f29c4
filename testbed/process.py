"""One child process: started in a group of its own, its output in a file, ended for certain."""

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
"""Seconds that a process has to end in order; ours promise five."""

_LAST_LINES: Final = 12
_READ_BACK: Final = 8192
"""Bytes of a log that its last lines are looked for in."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. Secrets belong into the environment or a file: everybody sees the arguments."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    directory: Path


@dataclass(frozen=True, slots=True)
class Death:
    """A process that ended although nobody asked it to."""

    name: str
    how: str
    log: Path
    last_lines: str

    def __str__(self) -> str:
        lines = "".join(f"\n    {line}" for line in self.last_lines.splitlines())
        return f"{self.name} {self.how}; the end of {self.log}:{lines}"


class Process:
    """A child process that can be started again after its end."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._process: asyncio.subprocess.Process | None = None

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.command.name

    @property
    def pid(self) -> int | None:
        """Of the running process, else None."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Starts it; what it writes is appended to its log.

        It ends with us even when we are killed, and in a terminal it does not get the Ctrl-C that is meant for us, so
        that processes end in order.

        Raises:
            OSError: it cannot be started.
        """
        assert not self.running, f"{self.name} runs already"
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
        """Its exit status; negative: the signal that ended it."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self, within: float = TERM_WITHIN) -> bool:
        """Ends it in order, and after ``within`` seconds for certain. Returns whether it ended by itself."""
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
        """Ends it and what it started, at once and without asking."""
        if self.running:
            self.kill_now()
            await self.wait()

    def kill_now(self) -> None:
        """Like :meth:`kill`, but waits for nothing."""
        if self.running and self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            assert self._process is not None
            self._process.send_signal(number)

    def death(self) -> Death:
        """How it ended."""
        status = None if self._process is None else self._process.returncode
        return Death(self.name, describe(status), self.command.log, last_lines(self.command.log))


def ending_with_us() -> list[str]:
    """The kernel kills the process when we are gone (prctl(2), PR_SET_PDEATHSIG), if util-linux is here to ask it."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def describe(status: int | None) -> str:
    """An exit status in words."""
    if status is None:
        return "did not start"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with exit code {status}"


def last_lines(log: Path, count: int = _LAST_LINES) -> str:
    """The last lines of a log; what cannot be read is said instead."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _READ_BACK))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"({error})"
    return "\n".join(text.splitlines()[-count:]) or "(empty)"
