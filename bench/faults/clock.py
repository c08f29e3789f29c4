"""Set one process's wall clock forward and back from another process, as if its host's clock had been set.

The real clock cannot be set for one process alone. So an offset, in a file that both processes map into memory, is
added to each time that the agent reads: Python's clock, and the kernel's timestamps on packets.
"""

import mmap
import struct
import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Final

_NUMBER: Final = struct.Struct("=q")


class ClockOffset:
    """Nanoseconds by which a process's wall clock is ahead of the real one."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_NUMBER.pack(0))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _NUMBER.size)

    def set(self, seconds: float) -> None:
        """Set the clock this far ahead of the real one."""
        self._map[: _NUMBER.size] = _NUMBER.pack(round(seconds * 1e9))

    def nanoseconds(self) -> int:
        """The current offset."""
        return int(_NUMBER.unpack_from(self._map)[0])


def follow(offset: ClockOffset) -> None:
    """Add ``offset`` to the agent's wall clock from now on, in this process."""
    import agent.pipeline
    import agent.status
    from agent.ntp.kernel_stamps import STAMPS

    real_ns = time.time_ns
    received = STAMPS.received

    def time_ns() -> int:
        return real_ns() + offset.nanoseconds()

    def moved(control: Any) -> int | None:
        at = received(control)
        return None if at is None else at + offset.nanoseconds()

    class MovedDatetime(datetime):
        """A datetime whose ``now`` follows the moved clock."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.fromtimestamp(0, tz or UTC) + timedelta(microseconds=time_ns() // 1000)

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9
    STAMPS.received = moved  # type: ignore[method-assign]  # its other methods use it, too
    for module in (agent.pipeline, agent.status):
        module.datetime = MovedDatetime  # type: ignore[attr-defined]
