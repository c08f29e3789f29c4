"""Define the spools of simulated monitors: in memory, so that the disk does not limit the rate, or the agent's own."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from agent.delivery.sender import Waiting
from agent.delivery.spool import Batched, Spool
from schema.limits import SPOOL_AGE

_DISK_BYTES: Final = 256 * 1024 * 1024
"""Size limit of one monitor's spool."""


class LoadSpool(Waiting, Protocol):
    """The interface of a simulated monitor's spool."""

    def __len__(self) -> int: ...

    async def put(self, batch: Batched) -> None:
        """Add a batch; when this returns, it is stored."""


class MemorySpool:
    """Unacknowledged batches, oldest first; lost with the process."""

    def __init__(self) -> None:
        self._batches: dict[int, Batched] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._batches)

    def __contains__(self, number: object) -> bool:
        return number in self._batches

    def __iter__(self) -> Iterator[int]:
        return iter(self._batches)

    async def put(self, batch: Batched) -> None:
        """Add a batch."""
        self._batches[self._next] = batch
        self._next += 1

    def read(self, number: int) -> Batched | None:
        """Return a batch, or None if it was removed."""
        return self._batches.get(number)

    def remove(self, number: int) -> None:
        """Remove an acknowledged batch."""
        self._batches.pop(number, None)

    def set_aside(self, number: int) -> None:
        """Remove a refused batch."""
        self.remove(number)


class DiskSpool(Spool):
    """The agent's spool, limited by the disk only."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, max_bytes=_DISK_BYTES, max_age=SPOOL_AGE.total_seconds())

    async def put(self, batch: Batched) -> None:
        """Write a batch to the disk.

        Raises:
            OSError: it could not be written.
        """
        number = self.reserve()
        size = await asyncio.to_thread(self.store, number, batch)
        self.admit(number, size, time.time())
