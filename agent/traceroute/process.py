"""Run a program for a limited time, and read a limited part of what it writes; nothing of it is left behind."""

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

MAX_OUTPUT: Final = 16 * 1024
"""Maximum bytes of each stream. A route of 30 hops has fewer than four thousand."""

_END_WITHIN: Final = 1.0
"""Seconds to wait for the end of a program that was killed."""


class Output(msgspec.Struct, frozen=True):
    """What a program wrote. Bytes that are not ASCII are replaced."""

    out: str
    error: str
    ended: bool
    """It ended by itself; otherwise it was killed when its time was over, or when it wrote too much."""
    too_much: bool
    """It wrote too much."""


class _Pipe:
    """One stream of a program: read as it is written, without ever waiting for the writer."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self.data = bytearray()
        self.done: asyncio.Future[bool] = self._loop.create_future()
        """Future that is done when the output ends (False) or exceeds its limit (True)."""
        self._loop.add_reader(self._read_end, self._readable)

    def _readable(self) -> None:
        try:
            part = os.read(self._read_end, MAX_OUTPUT + 1 - len(self.data))
        except BlockingIOError:
            return
        self.data += part
        if not part or len(self.data) > MAX_OUTPUT:
            self._loop.remove_reader(self._read_end)
            if not self.done.done():
                self.done.set_result(bool(part))

    def text(self) -> str:
        """Return what was written so far."""
        return self.data[:MAX_OUTPUT].decode("ascii", "replace")

    def close_write_end(self) -> None:
        """Leave writing to the program."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def close(self) -> None:
        """Close both ends."""
        self._loop.remove_reader(self._read_end)
        self.done.cancel()
        os.close(self._read_end)
        self.close_write_end()


async def run(program: str, arguments: Sequence[str], within: float) -> Output:
    """Run a program without a shell, in a session of its own and with hardly any environment.

    Its whole process group is killed at the end, also if this is cancelled.

    Args:
        within: seconds.

    Raises:
        OSError: it cannot be started.
    """
    pipes: list[_Pipe] = []
    try:
        pipes += [_Pipe(), _Pipe()]
        out, error = pipes
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out.write_end,
            stderr=error.write_end,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            start_new_session=True,
        )
        try:
            out.close_write_end()
            error.close_write_end()
            too_much, ended = await _wait(process, out, error, within)
        finally:
            await _kill(process)
        return Output(out.text(), error.text(), ended=ended, too_much=too_much)
    finally:
        for pipe in pipes:
            pipe.close()


async def _wait(process: asyncio.subprocess.Process, out: _Pipe, error: _Pipe, within: float) -> tuple[bool, bool]:
    """Return whether it wrote too much, and whether it ended by itself."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            for written in asyncio.as_completed([out.done, error.done]):
                if await written:
                    return True, False
            await process.wait()
            return False, True
    return False, False


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill the process group, which the program leads, and wait for the program's end."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # Killed, it ends at once, unless it has more rights than we have; then it ends by itself.
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_WITHIN):
            await asyncio.shield(process.wait())
