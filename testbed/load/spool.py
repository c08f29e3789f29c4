"""The spools of simulated monitors: in memory, so that no disk limits what is sent, or the agent's own."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from agent.delivery.sender import Waiting
from agent.delivery.spool import Batched, Spool
from schema.limits import SPOOL_AGE

_DISK_BYTES: Final = 256 * 1024 * 1024
"""Of one monitor's spool."""


class LoadSpool(Waiting, Protocol):
    """What a simulated monitor needs of its spool."""

    def __len__(self) -> int: ...

    async def put(self, batch: Batched) -> None:
        """Adds a batch; it is kept when this returns."""


class MemorySpool:
    """Batches that were not acknowledged yet, oldest first; lost with the process."""

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
        """Adds a batch."""
        self._batches[self._next] = batch
        self._next += 1

    def read(self, number: int) -> Batched | None:
        """A batch, or None when it is gone."""
        return self._batches.get(number)

    def remove(self, number: int) -> None:
        """Forgets a batch that was acknowledged."""
        self._batches.pop(number, None)

    def set_aside(self, number: int) -> None:
        """Forgets a batch that was refused."""
        self.remove(number)


class DiskSpool(Spool):
    """The agent's spool, as large as the disk allows."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, max_bytes=_DISK_BYTES, max_age=SPOOL_AGE.total_seconds())

    async def put(self, batch: Batched) -> None:
        """Writes a batch to the disk.

        Raises:
            OSError: it could not be written.
        """
        number = self.reserve()
        size = await asyncio.to_thread(self.store, number, batch)
        self.admit(number, size, time.time())
