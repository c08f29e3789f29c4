"""Run the public pages: an HTTP server, the check of the database, and metrics. There is no broker, and no secret.

Any number of these processes may run, behind a cache: none keeps anything that the ledger does not have.
"""

import asyncio
import gc
import logging
import socket
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from runtime.db.dsn import dsn_text
from runtime.db.engine import open_database, reading
from runtime.db.retry import Reaction, reaction_to
from runtime.health import READY_BOUND, Contact, Finding, LastWell, Life, Phase, Readiness, Report
from runtime.http.server import Server, open_sockets
from runtime.jobs import Jobs
from runtime.process import (
    DATABASE_DELAYS,
    VITALS_EVERY,
    leaf_of,
    listening,
    require_migrated,
    to_its_end,
    until_signal,
)
from runtime.retry import Setback, until_done
from runtime.settings import ConfigurationError, WorkerSettings
from runtime.telemetry import Telemetry, telemetry
from web.app import build_web, guarded
from web.metrics import WebMetrics
from web.services import Services

log = logging.getLogger(__name__)

SERVICE: Final = "web"

DATABASE_EVERY: Final = 5.0
"""Seconds between two checks whether the database answers."""

_ANYTHING: Final = sa.text("SELECT 1")


class Vitals:
    """Times at which database and event loop were last healthy. Any thread may read them."""

    def __init__(self) -> None:
        self.contact = Contact()
        self.life = Life(needs_broker=False)
        self._pulse = LastWell()

    async def note(self) -> None:
        """Record that the event loop runs. A periodic job."""
        self._pulse.note()

    def report(self) -> Report:
        """Return the report for ``/healthz``."""
        return Report(SERVICE, {"database": self.contact.finding(), "loop": Finding(self._pulse.age())})

    def readiness(self) -> Readiness:
        """Return the answer to ``/readyz``."""
        hangs = self._pulse.age() > READY_BOUND
        missing = {
            "phase": None if self.life.phase is Phase.RUNNING else self.life.phase.value,
            "database": self.contact.why_unavailable(),
            "loop": f"the event loop hangs for {self._pulse.age():.0f} s" if hangs else None,
        }
        return Readiness(SERVICE, missing)


def run_web(settings: WorkerSettings) -> None:
    """Serve the public pages until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: a setting is invalid, or the database lacks migrations.
    """
    wrong: ConfigurationError | None = None
    with telemetry(SERVICE, settings.deployment_mode) as numbers:
        try:
            asyncio.run(_run(settings, numbers))
        except* ConfigurationError as group:
            wrong = leaf_of(group)
    if wrong is not None:
        raise wrong


async def _run(settings: WorkerSettings, numbers: Telemetry) -> None:
    engine = open_database(settings.database_url(), reread=settings.database_url)
    vitals = Vitals()
    services = Services(engine, settings.deployment_mode, WebMetrics(numbers.meter))
    edge = guarded(build_web(services), services, settings.web_proxies())
    server = Server(edge, _sockets(settings), None)
    try:
        with listening(settings, {"/healthz": vitals.report, "/readyz": vitals.readiness}):
            place = dsn_text(engine.url, parameters=False)
            log.info("web %s starts for %s: database %s", version("ntppool-monitor"), services.env, place)
            await until_signal(_work(engine, server, vitals), SERVICE, vitals.life)
    finally:
        engine.dispose()
        gc.freeze()  # see runtime.worker
    log.info("web: stopped")


async def _work(engine: Engine, server: Server, vitals: Vitals) -> None:
    jobs = Jobs()
    async with asyncio.TaskGroup() as tasks:
        jobs.add("vitals", VITALS_EVERY, vitals.note, at_once=True, vital=True)
        tasks.create_task(jobs.run(), name="jobs")
        # At once: while the database is unavailable, the pages say so.
        tasks.create_task(server.run(), name="http server")
        await _in_database(engine, vitals.contact, require_migrated)
        jobs.add("database", DATABASE_EVERY, partial(_in_database, engine, vitals.contact, _ask), at_once=True)
        await server.listening.wait()
        gc.freeze()  # see runtime.worker
        vitals.life.phase = Phase.RUNNING


async def _in_database(engine: Engine, contact: Contact, work: Callable[[Engine], None]) -> None:
    """Run ``work`` in a thread, again and again while the database is unavailable."""

    def judge(error: Exception) -> Setback | None:
        if isinstance(error, ConfigurationError) or reaction_to(error) is Reaction.DEFECT:
            return None
        return Setback(str(getattr(error, "orig", error)))

    await until_done(partial(to_its_end, partial(work, engine)), judge, DATABASE_DELAYS, contact)


def _ask(engine: Engine) -> None:
    with reading(engine) as connection:
        connection.execute(_ANYTHING)


def _sockets(settings: WorkerSettings) -> list[socket.socket]:
    try:
        return open_sockets(settings.web_addresses(), settings.web_port)
    except OSError as error:
        raise ConfigurationError(
            f"WEB_ADDRESS={settings.web_address}, WEB_PORT={settings.web_port}: "
            f"must be local addresses and a free port: {error}"
        ) from None
