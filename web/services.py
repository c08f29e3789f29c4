"""Hold what the routes and pages use; made once per process."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import Final, TypeVar

from sqlalchemy.engine import Connection, Engine
from starlette.concurrency import run_in_threadpool

from runtime.db.engine import reading, utc_now
from runtime.http.answers import Declined
from schema.names import Environment
from web.metrics import WebMetrics
from web.store.pool import Pool, read_pool

T = TypeVar("T")

HEAVY_AT_ONCE: Final = 2
"""Requests for thousands of rows that run at once, so that they leave threads and connections for all others."""

HEAVY_WAITING: Final = 6
"""Maximum number of such requests that may wait; the next one is answered 503."""

POOL_SECONDS: Final = 10.0
"""Seconds for which the state of the pool is cached, since its query is expensive and the same for all visitors."""


class HeavyWork:
    """Limit what runs at once of the work that takes long. Used in the event loop only."""

    def __init__(self, at_once: int = HEAVY_AT_ONCE, waiting: int = HEAVY_WAITING) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._most = at_once + waiting
        self._count = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread.

        Raises:
            Declined: too many others wait.
        """
        if self._count >= self._most:
            words = "Too many requests for long histories at once; try again in some seconds."
            raise Declined(503, "heavy", words, {"Retry-After": "5"})
        self._count += 1
        try:
            async with self._places:
                return await run_in_threadpool(work)
        finally:
            self._count -= 1


class PoolState:
    """The state of the pool, read again after :data:`POOL_SECONDS` at the earliest. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = Lock()
        self._known: tuple[float, Pool] | None = None

    def get(self, connection: Connection, now: datetime) -> Pool:
        """Return the state; others wait while one thread reads it."""
        with self._lock:
            if self._known is None or self._monotonic() - self._known[0] >= POOL_SECONDS:
                self._known = self._monotonic(), read_pool(connection, now)
            return self._known[1]


@dataclass(frozen=True, slots=True)
class Services:
    """Dependencies of the routes and pages."""

    engine: Engine
    env: Environment
    metrics: WebMetrics
    now: Callable[[], datetime] = utc_now
    """Returns the current time, naive UTC."""
    heavy: HeavyWork = field(default_factory=HeavyWork)
    pool: PoolState = field(default_factory=PoolState)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Return the result of queries; blocks."""
        with reading(self.engine) as connection:
            return work(connection)
