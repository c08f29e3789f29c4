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
from importlib.metadata import version
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from runtime.clock import COMPARE_EVERY, Clock, Comparison
from runtime.control import Control
from runtime.db import migrate
from runtime.db.engine import open_database, reading
from runtime.db.retry import DatabaseUnavailable, Reaction, reaction_to
from runtime.db.system_settings import PoolSettingsReader
from runtime.health import Contact, Finding, LastWell, Report, Rounds
from runtime.jobs import Jobs
from runtime.mqtt.live_stream import LiveStream
from runtime.mqtt.session import BrokerSession, Identity, Incoming, Subscription
from runtime.mqtt.types import TokenSource
from runtime.retry import Delays, Judge, Setback, until_done
from runtime.settings import ConfigurationError, WorkerSettings
from runtime.telemetry import Health, Telemetry, metrics_server, telemetry
from schema.topics import Topics

log = logging.getLogger(__name__)
T = TypeVar("T")

_DATABASE_DELAYS: Final = Delays(first_seconds=1.0, longest_seconds=1.0)
"""Between two attempts to reach a database that is away."""


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
    clock: Clock = field(default_factory=Clock)
    contact: Contact = field(default_factory=Contact)
    rounds: Rounds = field(default_factory=Rounds)
    """For the loops that do the work: each says when it is at it."""
    jobs: Jobs = field(default_factory=Jobs)
    """Everything that is done every so many seconds."""

    async def in_database(self, work: Callable[[], T], judge_defect: Judge | None = None) -> T:
        """Runs blocking ``work`` in a thread, again and again while the database is away or others do not let go of it.

        What it does must be idempotent (see :func:`runtime.db.engine.transaction`). A cancellation waits for the
        transaction that is under way, so that a worker never stops in the middle of one.

        Args:
            judge_defect: decides on all other errors; without it, they are raised.
        """

        def judge(error: Exception) -> Setback | None:
            if isinstance(error, DatabaseUnavailable):
                self.doubts.count += 1
            elif reaction_to(error) is Reaction.DEFECT:
                return None if judge_defect is None else judge_defect(error)
            # Without the statement and its values, which may be long and private.
            return Setback(str(getattr(error, "orig", error)))

        return await until_done(partial(_to_its_end, work), judge, _DATABASE_DELAYS, self.contact)

    async def undisturbed(self) -> None:
        """Returns when the clock is trusted and nobody waits for the database: for jobs that may as well come later."""
        await self.clock.agreed()
        while self.contact.longest() is not None:  # a look now and then, as for the clock
            await asyncio.sleep(_DATABASE_DELAYS.longest_seconds)
            await self.clock.agreed()

    async def compare_clocks(self) -> None:
        """Has this host's clock compared with the database's, before something that depends on it."""
        self.clock.note(await self.in_database(self._compare))

    def _compare(self) -> Comparison | None:
        with reading(self.engine) as connection:
            connection.scalar(_ANYTHING)  # the connection may have to be made first, which is not the clock's fault
            return self.clock.compare(connection)


_ANYTHING: Final = sa.text("SELECT 1")

VITALS_EVERY: Final = 1.0
"""Seconds between two looks at what is well."""

_END_WITHIN: Final = 3.0
"""Seconds from the signal until a transaction under way is waited for no longer; the whole end takes less than 5."""


class Vitals:
    """When broker, clock and event loop were last well: noted every second, and asked for from another thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._connected, self._trusted, self._pulse = LastWell(), LastWell(), LastWell()
        meter = worker.telemetry.meter
        self._ahead = meter.create_gauge(
            "ntppool.clock.ahead", unit="s", description="this host's clock, ahead of the database's"
        )
        self._doubted = meter.create_gauge("ntppool.clock.doubted", description="1 while the clock is not trusted")

    async def note(self) -> None:
        """Notes what is well: a periodic job."""
        worker = self._worker
        self._pulse.note()
        if worker.broker.connected:
            self._connected.note()
        doubt = worker.clock.doubt
        if doubt is None:
            self._trusted.note()
        self._ahead.set(worker.clock.ahead)
        self._doubted.set(int(doubt is not None))
        worker.status["clock"] = doubt or "trusted"

    def report(self) -> Report:
        """For ``/healthz``."""
        worker = self._worker
        away = None if worker.broker.connected else f"not connected to {worker.broker.address}"
        findings = {
            "broker": Finding(0.0 if away is None else self._connected.age(), detail=away),
            "clock": Finding(self._trusted.age(), detail=worker.clock.doubt),
            "database": worker.contact.finding(),
            "loop": Finding(self._pulse.age()),
            "work": worker.rounds.finding(),
        }
        return Report(worker.service, findings)


def introduction(worker: Worker) -> str:
    """What a worker says of itself as it starts: which program, for whom, and where all that it uses is; no secret."""
    settings = worker.settings
    places = {
        "database": worker.engine.url.set(query={}).render_as_string(hide_password=True),
        "broker": str(worker.broker.address),
        "client": worker.broker.identity.client_id,
        "metrics": "none" if settings.metrics_port is None else f"{settings.metrics_address}:{settings.metrics_port}",
    }
    told = ", ".join(f"{name} {place}" for name, place in places.items())
    return f"{worker.service} {version('ntppool-monitor')} starts for {settings.deployment_mode}: {told}"


Start = Callable[[Worker, asyncio.TaskGroup], Awaitable[None]]
"""Adds subscriptions, commands and periodic jobs to the worker, and starts its tasks in the group."""


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
        await worker.compare_clocks()
        if worker.clock.doubt is not None:
            raise ConfigurationError(f"clock: {worker.clock.doubt}: it must be right")
        await work(worker)
    finally:
        for task in background:
            task.cancel()
        await asyncio.wait(background)
        worker.engine.dispose()


async def _run(service: str, settings: WorkerSettings, token: TokenSource, start: Start, numbers: Telemetry) -> None:
    worker = assemble(service, settings, token, numbers)
    vitals = Vitals(worker)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        with _listening(settings, vitals.report):
            log.info("%s", introduction(worker))
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(_work(worker, start, vitals), name=service)
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


async def _work(worker: Worker, start: Start, vitals: Vitals) -> None:
    async with asyncio.TaskGroup() as tasks:
        worker.jobs.add("vitals", VITALS_EVERY, vitals.note, at_once=True, vital=True)
        tasks.create_task(worker.jobs.run(), name="jobs")
        await worker.in_database(partial(require_migrated, worker.engine))
        await worker.compare_clocks()
        worker.jobs.add("clock", COMPARE_EVERY, worker.compare_clocks, vital=True)
        take_commands(worker, tasks)
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


def take_commands(worker: Worker, tasks: asyncio.TaskGroup) -> None:
    """Subscribes to what operators order, and has each order carried out in ``tasks``."""

    def take(message: Incoming) -> None:
        if not message.retain:  # an order is for now, not for whoever comes later
            tasks.create_task(worker.control.handle(worker.broker, message), name="control message")

    worker.broker.subscribe(Subscription(worker.topics.service_control(worker.service), take))


def require_migrated(engine: Engine) -> None:
    """Refuses a database that is not at this program's version.

    Raises:
        ConfigurationError: it is not.
    """
    found, needed = migrate.current(engine), migrate.newest()
    if found != needed:
        raise ConfigurationError(
            f"database: is at version {found or 'none'}, this program needs {needed}: run 'ntppool-monitor db upgrade'"
        )


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
