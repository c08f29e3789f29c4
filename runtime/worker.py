"""Run a worker with its database, broker session, control commands and metrics, and stop it within five seconds.

A worker is a function that receives a :class:`Worker` with these parts, adds its subscriptions and commands, and starts
its tasks. All of its tasks end with this module's run.
"""

import asyncio
import gc
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from opentelemetry.metrics import CallbackOptions, NoOpMeter, Observation
from sqlalchemy.engine import Engine

from runtime.clock import COMPARE_EVERY, Clock, Comparison
from runtime.control import Control
from runtime.db.dsn import dsn_text
from runtime.db.engine import open_database, reading
from runtime.db.metrics import DatabaseMetrics
from runtime.db.retry import DatabaseUnavailable, Reaction, reaction_to
from runtime.db.system_settings import PoolSettingsReader
from runtime.health import READY_BOUND, Contact, Finding, LastWell, Life, Phase, Readiness, Report, Rounds
from runtime.jobs import Jobs
from runtime.mqtt.live_stream import LiveStream
from runtime.mqtt.plugin import BrokerPlugin
from runtime.mqtt.session import BrokerSession, Identity, Incoming, Subscription
from runtime.mqtt.types import TokenSource
from runtime.process import (
    DATABASE_DELAYS,
    VITALS_EVERY,
    leaf_of,
    listening,
    require_migrated,
    to_its_end,
    until_signal,
)
from runtime.retry import Judge, Setback, until_done
from runtime.settings import ConfigurationError, WorkerSettings
from runtime.telemetry import Telemetry, telemetry
from schema.topics import Topics

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class Doubts:
    """Number of transactions whose outcome was unknown after a failure."""

    count: int = 0


@dataclass(frozen=True, slots=True)
class Worker:
    """Dependencies of a worker."""

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
    """Details of the worker's answer to ``status``."""
    doubts: Doubts = field(default_factory=Doubts)
    """For parts that publish after a commit: a transaction may have been committed without being published."""
    clock: Clock = field(default_factory=Clock)
    contact: Contact = field(default_factory=Contact)
    rounds: Rounds = field(default_factory=Rounds)
    """Running rounds of the worker's loops, for the health."""
    jobs: Jobs = field(default_factory=Jobs)
    """The worker's periodic jobs."""
    life: Life = field(default_factory=Life)
    database: DatabaseMetrics = field(default_factory=lambda: DatabaseMetrics(NoOpMeter("none")))
    plugin: BrokerPlugin = field(default_factory=BrokerPlugin)
    """Whether the broker has our plugin."""

    async def in_database(self, work: Callable[[], T], judge_defect: Judge | None = None) -> T:
        """Run blocking ``work`` in a thread, with retries while the database is unavailable or locked.

        ``work`` must be idempotent (see :func:`runtime.db.engine.transaction`). A cancellation waits for the running
        transaction, so that a worker never stops within one.

        Args:
            judge_defect: classifies all other errors; without it, they are raised.
        """

        def judge(error: Exception) -> Setback | None:
            # Without the statement and its values, which may be long and private.
            setback: Setback | None = Setback(str(getattr(error, "orig", error)))
            if isinstance(error, DatabaseUnavailable):
                self.doubts.count += 1
            elif reaction_to(error) is Reaction.DEFECT:
                setback = None if judge_defect is None else judge_defect(error)
            if setback is not None:
                self.database.retried(error)
            return setback

        return await until_done(partial(to_its_end, work), judge, DATABASE_DELAYS, self.contact)

    async def undisturbed(self) -> None:
        """Wait until the clock is trusted and the database is available, for jobs that may be delayed."""
        await self.clock.agreed()
        while self.contact.longest() is not None:  # polled, as for the clock
            await asyncio.sleep(DATABASE_DELAYS.longest_seconds)
            await self.clock.agreed()

    async def compare_clocks(self) -> None:
        """Compare this host's clock with the database's, before work that depends on it."""
        self.clock.note(await self.in_database(self._compare))

    def _compare(self) -> Comparison | None:
        with reading(self.engine) as connection:
            connection.scalar(_ANYTHING)  # may have to connect first, which must not count as round trip
            return self.clock.compare(connection)


_ANYTHING: Final = sa.text("SELECT 1")


class Vitals:
    """Times at which broker, clock and event loop were last healthy, updated every second. Any thread may read them."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._connected, self._trusted, self._pulse = LastWell(), LastWell(), LastWell()
        meter = worker.telemetry.meter
        self._ahead = meter.create_gauge(
            "ntppool.clock.ahead", unit="s", description="seconds by which this host's clock is ahead of the database's"
        )
        self._doubted = meter.create_gauge("ntppool.clock.doubted", description="1 while the clock is not trusted")
        broker = worker.broker

        def connected(options: CallbackOptions) -> list[Observation]:
            return [Observation(int(broker.connected))]

        def connections(options: CallbackOptions) -> list[Observation]:
            return [Observation(broker.connections)]

        # Read at each scrape, so that they are true even while the event loop hangs.
        meter.create_observable_gauge("ntppool.broker.connected", [connected], description="1 while it is connected")
        meter.create_observable_counter(
            "ntppool.broker.connections", [connections], description="connections to the broker so far"
        )

    async def note(self) -> None:
        """Record the healthy dependencies. A periodic job."""
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
        """Return the report for ``/healthz``."""
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

    def readiness(self) -> Readiness:
        """Return the answer to ``/readyz``."""
        worker, life = self._worker, self._worker.life
        hangs, running = self._pulse.age() > READY_BOUND, life.phase is Phase.RUNNING
        missing = {
            "phase": None if running else life.phase.value,
            "database": worker.contact.why_unavailable(),
            "clock": worker.clock.doubt,
            "loop": f"the event loop hangs for {self._pulse.age():.0f} s" if hangs else None,
        }
        if life.needs_broker:
            missing["broker"] = None if worker.broker.connected else f"not connected to {worker.broker.address}"
        return Readiness(worker.service, missing)


def introduction(worker: Worker) -> str:
    """Return the line that a worker logs at its start: program, environment and addresses, without secrets."""
    settings = worker.settings
    places = {
        "database": dsn_text(worker.engine.url, parameters=False),
        "broker": str(worker.broker.address),
        "client": worker.broker.identity.client_id,
        "metrics": "none" if settings.metrics_port is None else f"{settings.metrics_address}:{settings.metrics_port}",
    }
    used = ", ".join(f"{name} {place}" for name, place in places.items())
    return f"{worker.service} {version('ntppool-monitor')} starts for {settings.deployment_mode}: {used}"


Start = Callable[[Worker, asyncio.TaskGroup], Awaitable[None]]
"""Function that adds subscriptions, commands and periodic jobs to the worker, and starts its tasks in the group."""


def run_worker(
    service: str, settings: WorkerSettings, token: TokenSource, start: Start, begin: Start | None = None
) -> None:
    """Run a worker until SIGTERM or SIGINT.

    Args:
        begin: called before ``start``, to start what must not wait for the database.

    Raises:
        ConfigurationError: a setting is invalid, or the database lacks migrations.
    """
    wrong: ConfigurationError | None = None
    with telemetry(service, settings.deployment_mode) as numbers:
        try:
            asyncio.run(_run(service, settings, token, (begin, start), numbers))
        except* ConfigurationError as group:
            wrong = leaf_of(group)
    if wrong is not None:
        raise wrong


def run_task(
    service: str, settings: WorkerSettings, token: TokenSource, work: Callable[[Worker], Awaitable[None]]
) -> None:
    """Run ``work`` once with the parts of a worker, but without control commands.

    Raises:
        ConfigurationError: a setting is invalid, or the database lacks migrations.
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


async def _run(
    service: str,
    settings: WorkerSettings,
    token: TokenSource,
    starts: tuple[Start | None, Start],
    numbers: Telemetry,
) -> None:
    worker = assemble(service, settings, token, numbers)
    vitals = Vitals(worker)
    try:
        with listening(settings, {"/healthz": vitals.report, "/readyz": vitals.readiness}):
            log.info("%s", introduction(worker))
            await until_signal(_work(worker, *starts, vitals), service, worker.life)
    finally:
        worker.engine.dispose()
        # The process ends now, and a last garbage collection would take most of the time of the shutdown.
        gc.freeze()
    log.info("%s: stopped", service)


async def _work(worker: Worker, begin: Start | None, start: Start, vitals: Vitals) -> None:
    async with asyncio.TaskGroup() as tasks:
        worker.jobs.add("vitals", VITALS_EVERY, vitals.note, at_once=True, vital=True)
        tasks.create_task(worker.jobs.run(), name="jobs")
        if begin is not None:
            await begin(worker, tasks)
        await worker.in_database(partial(require_migrated, worker.engine))
        await worker.compare_clocks()
        worker.jobs.add("clock", COMPARE_EVERY, worker.compare_clocks, vital=True)
        handle_commands(worker, tasks)
        await start(worker, tasks)
        tasks.create_task(worker.live.run(), name="live stream")
        tasks.create_task(worker.broker.run(), name="broker session")
        check = worker.topics.plugin_check(worker.broker.identity.client_id)
        tasks.create_task(worker.plugin.run(worker.broker, check), name="broker's plugin")
        # The modules have a hundred thousand objects that stay; repeated garbage collections of them would block the
        # event loop for 50 ms at a time.
        gc.freeze()
        worker.life.phase = Phase.RUNNING


def assemble(service: str, settings: WorkerSettings, token: TokenSource, numbers: Telemetry) -> Worker:
    """Create the parts of a worker; they do not connect yet.

    Raises:
        ConfigurationError: a setting is invalid.
    """
    # Several workers of a kind may run, so the process id makes the client id unique.
    identity = Identity(service, f"{service}/{os.getpid()}-{time.time_ns() % 1_000_000:06d}")
    plugin = BrokerPlugin()
    broker = BrokerSession(settings.broker_address(), identity, token, on_ready=plugin.on_ready)
    engine = open_database(settings.database_url(), reread=settings.database_url)
    database = DatabaseMetrics(numbers.meter)
    database.attach(engine)
    status: dict[str, Any] = {}
    control = Control(service, lambda: {"client_id": identity.client_id, "broker": plugin.describe(), **status}, plugin)
    return Worker(
        service=service,
        settings=settings,
        topics=Topics(settings.deployment_mode),
        engine=engine,
        broker=broker,
        control=control,
        live=LiveStream(broker, numbers.tracer),
        pool=PoolSettingsReader(engine),
        telemetry=numbers,
        status=status,
        database=database,
        plugin=plugin,
    )


def handle_commands(worker: Worker, tasks: asyncio.TaskGroup) -> None:
    """Subscribe to operators' control commands, and execute each in ``tasks``."""

    def on_command(message: Incoming) -> None:
        if not message.retain:  # a retained command would also reach workers that start later
            tasks.create_task(worker.control.handle(worker.broker, message), name="control message")

    worker.broker.subscribe(Subscription(worker.topics.service_control(worker.service), on_command))
