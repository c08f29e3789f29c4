"""The frame of every worker: database, broker, control messages, numbers, and an end within five seconds.

A worker is a function that is given a :class:`Worker` with all of that, adds its subscriptions and commands, and
starts its tasks. This module runs it; nothing of a worker lives longer than that.
"""

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy.engine import Engine

from runtime import migrations
from runtime.broker import BrokerSession, Identity, Incoming, Subscription
from runtime.broker_types import TokenSource
from runtime.control import Control
from runtime.database import DatabaseUnavailable, open_database
from runtime.database_errors import Reaction, reaction_to
from runtime.live_stream import LiveStream
from runtime.log import Repeating
from runtime.pool_settings import PoolSettingsReader
from runtime.settings import ConfigurationError, WorkerSettings
from runtime.telemetry import Health, Telemetry, metrics_server, telemetry
from schema.topics import Topics

log = logging.getLogger(__name__)
T = TypeVar("T")

_DATABASE_RETRY: Final = 1.0
"""Seconds between two attempts to reach a database that is away."""


@dataclass(slots=True)
class Doubts:
    """How often a transaction failed such that it may have been committed all the same."""

    count: int = 0


@dataclass(frozen=True, slots=True)
class Worker:
    """All that a worker needs of the outside."""

    service: str
    settings: WorkerSettings
    topics: Topics
    engine: Engine
    broker: BrokerSession
    control: Control
    live: LiveStream
    pool: PoolSettingsReader
    telemetry: Telemetry
    status: dict[str, Any] = field(default_factory=dict)
    """What the worker tells about itself in its answer to ``status``."""
    doubts: Doubts = field(default_factory=Doubts)
    """For those who tell others after the commit: what was committed may be something that nobody was told of."""

    async def in_database(self, work: Callable[[], T]) -> T:
        """Runs blocking ``work`` in a thread, again and again while the database is away or others do not let go of it.

        What it does must be idempotent (see :func:`runtime.database.transaction`). A cancellation waits for the
        transaction that is under way, so that a worker never stops in the middle of one.
        """
        complaint = Repeating(log)
        while True:
            try:
                return await _to_its_end(work)
            except Exception as error:
                if isinstance(error, DatabaseUnavailable):
                    self.doubts.count += 1
                elif reaction_to(error) is Reaction.DEFECT:
                    raise
                # Without the statement and its values, which may be long and private.
                complaint.warning("database: %s; waiting for it", getattr(error, "orig", error))
                await asyncio.sleep(_DATABASE_RETRY)


_END_WITHIN: Final = 3.0
"""Seconds from the signal until a transaction under way is waited for no longer; the whole end takes less than 5."""

Start = Callable[[Worker, asyncio.TaskGroup], Awaitable[None]]
"""Adds subscriptions and commands to the worker, and starts its tasks in the group."""


def run_worker(service: str, settings: WorkerSettings, token: TokenSource, start: Start) -> None:
    """Runs a worker until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: a setting is wrong, or the database lacks migrations.
    """
    wrong: ConfigurationError | None = None
    with telemetry(service, settings.deployment_mode) as numbers:
        try:
            asyncio.run(_run(service, settings, token, start, numbers))
        except* ConfigurationError as group:
            wrong = _leaf(group)
    if wrong is not None:
        raise wrong


def run_task(
    service: str, settings: WorkerSettings, token: TokenSource, work: Callable[[Worker], Awaitable[None]]
) -> None:
    """Runs ``work`` with all that a worker has, but takes no orders; ends with it.

    Raises:
        ConfigurationError: a setting is wrong, or the database lacks migrations.
    """
    with telemetry(service, settings.deployment_mode) as numbers:
        asyncio.run(_run_task(assemble(service, settings, token, numbers), work))


async def _run_task(worker: Worker, work: Callable[[Worker], Awaitable[None]]) -> None:
    background = [
        asyncio.create_task(worker.live.run(), name="live stream"),
        asyncio.create_task(worker.broker.run(), name="broker session"),
    ]
    try:
        await worker.in_database(partial(require_migrated, worker.engine))
        await work(worker)
    finally:
        for task in background:
            task.cancel()
        await asyncio.wait(background)
        worker.engine.dispose()


async def _run(service: str, settings: WorkerSettings, token: TokenSource, start: Start, numbers: Telemetry) -> None:
    worker = assemble(service, settings, token, numbers)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        with _listening(settings, partial(_health, worker)):
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(_work(worker, start), name=service)
                await _first(stop, running)
                await _end(running)
    finally:
        worker.engine.dispose()
        # The process ends now: to look through all that it has for garbage first takes most of the time of its end.
        gc.freeze()
    log.info("%s: stopped", service)


@contextmanager
def _listening(settings: WorkerSettings, health: Health) -> Iterator[None]:
    with ExitStack() as stack:
        address, port = settings.metrics_address, settings.metrics_port
        try:
            stack.enter_context(metrics_server(address, port, health))
        except OSError as error:
            raise ConfigurationError(
                f"METRICS_ADDRESS={address}, METRICS_PORT={port}: must be an address of ours and a free port: {error}"
            ) from None
        yield


async def _work(worker: Worker, start: Start) -> None:
    await worker.in_database(partial(require_migrated, worker.engine))
    async with asyncio.TaskGroup() as tasks:
        _take_orders(worker, tasks)
        await start(worker, tasks)
        tasks.create_task(worker.live.run(), name="live stream")
        tasks.create_task(worker.broker.run(), name="broker session")
        # A hundred thousand objects of modules that stay: to look through them again and again for garbage would stop
        # everything for 50 ms at a time.
        gc.freeze()


async def _first(stop: asyncio.Event, running: asyncio.Task[None]) -> None:
    waiting = asyncio.create_task(stop.wait(), name="signal")
    await asyncio.wait({waiting, running}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


async def _end(running: asyncio.Task[None]) -> None:
    running.cancel()
    if not (await asyncio.wait({running}, timeout=_END_WITHIN))[0]:
        # A thread that waits for a database that is silent, but not gone, cannot be told to stop. The server rolls
        # back what it was in; had it been committed, doing it again changes nothing.
        log.warning("the database does not answer: ended without waiting for it")
        logging.shutdown()
        os._exit(1)


def assemble(service: str, settings: WorkerSettings, token: TokenSource, numbers: Telemetry) -> Worker:
    """All that a worker needs; connects to nothing yet.

    Raises:
        ConfigurationError: a setting is wrong.
    """
    # Several workers of a kind run side by side: the process makes the client id its own.
    identity = Identity(service, f"{service}/{os.getpid()}-{time.time_ns() % 1_000_000:06d}")
    broker = BrokerSession(settings.broker_address(), identity, token)
    engine = open_database(settings.database_url(), reread=settings.database_url)
    status: dict[str, Any] = {}
    control = Control(service, lambda: {"client_id": identity.client_id, **status})
    return Worker(
        service=service,
        settings=settings,
        topics=Topics(settings.deployment_mode),
        engine=engine,
        broker=broker,
        control=control,
        live=LiveStream(broker),
        pool=PoolSettingsReader(engine),
        telemetry=numbers,
        status=status,
    )


def _take_orders(worker: Worker, tasks: asyncio.TaskGroup) -> None:
    def take(message: Incoming) -> None:
        if not message.retain:  # an order is for now, not for whoever comes later
            tasks.create_task(worker.control.handle(worker.broker, message), name="control message")

    worker.broker.subscribe(Subscription(worker.topics.service_control(worker.service), take))


def require_migrated(engine: Engine) -> None:
    """Refuses a database that is not at this program's version.

    Raises:
        ConfigurationError: it is not.
    """
    found, needed = migrations.current(engine), migrations.newest()
    if found != needed:
        raise ConfigurationError(
            f"database: is at version {found or 'none'}, this program needs {needed}: run 'ntppool-monitor db upgrade'"
        )


def _health(worker: Worker) -> str | None:
    return None if worker.broker.connected else f"not connected to {worker.broker.address}"


async def _to_its_end(work: Callable[[], T]) -> T:
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # looked at: who is told to end has no use for it
        raise


def _leaf(group: BaseExceptionGroup[ConfigurationError]) -> ConfigurationError:
    inner = group.exceptions[0]
    return _leaf(inner) if isinstance(inner, BaseExceptionGroup) else inner
