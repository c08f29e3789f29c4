"""Run the work of a process until a signal ends it, with its metrics and health beside it."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from sqlalchemy.engine import Engine

from runtime.db import migrate
from runtime.health import Life, Phase
from runtime.retry import Delays
from runtime.settings import ConfigurationError, WorkerSettings
from runtime.telemetry import State, metrics_server

T = TypeVar("T")
log = logging.getLogger(__name__)

DATABASE_DELAYS: Final = Delays(first_seconds=1.0, longest_seconds=1.0)
"""Delay between two attempts to reach an unavailable database."""

VITALS_EVERY: Final = 1.0
"""Seconds between two checks of the health."""

_END_WITHIN: Final = 3.0
"""Maximum seconds to wait for a running transaction after the signal; the whole shutdown takes less than 5."""


async def until_signal(work: Coroutine[Any, Any, None], name: str, life: Life) -> None:
    """Run ``work`` until it ends, or until SIGTERM or SIGINT, which cancel it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(work, name=name)
        await _first(stop, running)
        life.phase = Phase.STOPPING
        await _end(running)


@contextmanager
def listening(settings: WorkerSettings, states: Mapping[str, State]) -> Iterator[None]:
    """Serve ``/metrics`` and ``states`` within the ``with`` block.

    Raises:
        ConfigurationError: the address or port cannot be used.
    """
    address, port = settings.metrics_address, settings.metrics_port
    server = metrics_server(address, port, states)
    try:
        server.__enter__()
    except OSError as error:
        raise ConfigurationError(
            f"METRICS_ADDRESS={address}, METRICS_PORT={port}: must be a local address and a free port: {error}"
        ) from None
    try:
        yield
    finally:
        server.__exit__(None, None, None)


def leaf_of(group: BaseExceptionGroup[ConfigurationError]) -> ConfigurationError:
    """Return the first error in nested groups."""
    inner = group.exceptions[0]
    return leaf_of(inner) if isinstance(inner, BaseExceptionGroup) else inner


async def _first(stop: asyncio.Event, running: asyncio.Task[None]) -> None:
    waiting = asyncio.create_task(stop.wait(), name="signal")
    await asyncio.wait({waiting, running}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


async def _end(running: asyncio.Task[None]) -> None:
    running.cancel()
    if not (await asyncio.wait({running}, timeout=_END_WITHIN))[0]:
        # A thread that waits for a silent database cannot be stopped. The server rolls back its transaction; if it was
        # committed, a retry changes nothing.
        log.warning("the database does not answer: ended without waiting for it")
        logging.shutdown()
        os._exit(1)


async def to_its_end(work: Callable[[], T]) -> T:
    """Run blocking ``work`` in a thread; a cancellation waits for its end."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # marked as retrieved, since the caller is being cancelled
        raise


def require_migrated(engine: Engine) -> None:
    """Check that the database is at this program's version.

    Raises:
        ConfigurationError: it is at another version.
    """
    mismatch = migrate.mismatch(engine)
    if mismatch is not None:
        raise ConfigurationError(f"database: {mismatch}")
