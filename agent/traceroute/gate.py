"""Decide whether this agent may trace a route now: the host needs a program, and limits apply to all requests."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PROGRAM: Final = "traceroute"

SPACING: Final = 10.0
"""Least seconds between the beginnings of two traceroutes."""

MAX_PER_HOUR: Final = 60
"""Maximum traceroutes within an hour."""

_HOUR: Final = 3600.0
_MORE_DIRECTORIES: Final = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/local/bin")
"""Where the program may be, although an unprivileged user's PATH does not say so."""


class Busy(Exception):
    """There are too many traceroutes; the message says so."""


def find_program(name: str) -> str | None:
    """Return the path of a program; ``None`` if the host does not have it."""
    for directory in (*os.get_exec_path(), *_MORE_DIRECTORIES):
        path = Path(directory, name)
        if path.is_absolute() and _is_executable(path):
            return str(path)
    return None


def _is_executable(path: Path) -> bool:
    try:
        return path.is_file() and os.access(path, os.X_OK)
    except OSError:
        return False


class Gate:
    """Admit one traceroute at a time, and not too many.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: list[float] = []
        self._running = False
        self._useless: tuple[str, int] | None = None

    def able(self) -> bool:
        """Return whether the host has a program that may work."""
        path = find_program(PROGRAM)
        return path is not None and self._stamp(path) != self._useless

    def useless(self) -> None:
        """Record that the program lacks all rights; it is not offered again until another one is installed."""
        path = find_program(PROGRAM)
        self._useless = None if path is None else self._stamp(path)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Admit a traceroute, which lasts as long as the block.

        Raises:
            Busy: another one is running, or there were too many.
        """
        now = self._clock()
        self._begun = [at for at in self._begun if now - at < _HOUR]
        if self._running:
            raise Busy("another traceroute is running")
        if self._begun and now - self._begun[-1] < SPACING:
            raise Busy(f"a traceroute began less than {SPACING:g} seconds ago")
        if len(self._begun) >= MAX_PER_HOUR:
            raise Busy(f"more than {MAX_PER_HOUR} traceroutes in an hour")
        self._begun.append(now)
        self._running = True
        try:
            yield
        finally:
            self._running = False

    def _stamp(self, path: str) -> tuple[str, int]:
        try:
            return path, Path(path).stat().st_mtime_ns
        except OSError:
            return path, 0
