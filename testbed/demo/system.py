"""Run the system of a demo: start it in order, observe it, bring it to rest, stop it, and collect the evidence."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from auth.tokens import Role, token_source
from runtime.db.engine import reading, transaction, utc_now
from runtime.db.migrate import upgrade
from runtime.db.queue import SCORING
from runtime.db.retry import DatabaseUnavailable, Reaction, reaction_to
from testbed.checker import ledger as checked
from testbed.checker.replay import Replay
from testbed.demo import ledger
from testbed.demo.accounting import Evidence
from testbed.demo.store import require_empty, store_world
from testbed.demo.witness import Witness
from testbed.operator import Operator
from testbed.registrar import Registrar
from testbed.site import (
    API,
    API_READY,
    BROKER,
    FLEET,
    FLEET_READY,
    WEB,
    WORKERS,
    Site,
    agent_command,
    agent_name,
    api_command,
    fleet_command,
    web_command,
    worker_command,
)
from testbed.spools import is_empty, read_spools
from testbed.stack import CannotRun, Stack
from testbed.world import ENV, Monitor, World

REST_WITHIN: Final = 60.0
"""Seconds for all measured results to reach the ledger once measuring has stopped. A batch that is lost three times,
after 10 s and a pause each, is deferred for 15 s and sent at the next attempt: more than 50 s in total."""

_LAST_RESULT_WITHIN: Final = 5.0
"""Seconds from a pause until the last result is in the spool: a probe takes three at most, a batch one."""

_LOOK_EVERY: Final = 0.2
_OPERATOR: Final = "demo-operator"
T = TypeVar("T")


class Stopped(Exception):
    """The demo was stopped before it was running."""


class System(Stack):
    """Broker, database, NTP servers, workers, API, and agents that register with it.

    Args:
        site: with an API.
        stopping: set to stop the system; all waiting code then gives up.
    """

    start_within_seconds = 30.0

    def __init__(self, site: Site, world: World, stopping: asyncio.Event) -> None:
        super().__init__(site)
        self.world = world
        self.witness = Witness(site.broker_address, site.key, ENV)
        token = token_source(site.key, Role.ADMIN, _OPERATOR, ENV)
        self.operator = Operator(site.broker_address, _OPERATOR, token, ENV)
        self.hung: list[str] = []
        self._stopping = stopping
        self._measured: dict[str, int] = {}
        self._restarted: set[str] = set()

    # ---- beginning -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start all processes, each when its dependencies are ready.

        Raises:
            CannotRun: a process cannot be started; the message names it, and the reason.
            Stopped: see ``stopping``.
        """
        await self.start_pool()
        await self.start_agents()

    async def start_pool(self) -> None:
        """Start everything but the agents; raise as :meth:`start`."""
        await asyncio.to_thread(self._prepare_ledger)
        await self.start_broker()
        if self.world.fleet:
            await self.start_process(fleet_command(self.site, self.world.fleet), FLEET_READY)
        for session in (self.witness.session, self.operator.session):
            await self.connect(session)
        for name in WORKERS:
            await self.supervisor.start(worker_command(self.site, name))
        await self.start_process(api_command(self.site), API_READY)
        if self.site.web_port is not None:
            await self.start_process(web_command(self.site), API_READY)

    async def start_agents(self) -> None:
        """Register all agents, and start them; raise as :meth:`start`."""
        await Registrar(self.site, self.world, self.engine).register_all()
        for monitor in self.world.monitors:
            await self.supervisor.start(agent_command(self.site, monitor))

    def _prepare_ledger(self) -> None:
        try:
            upgrade(self.engine)
            with reading(self.engine) as connection:
                require_empty(connection)
            transaction(self.engine, partial(store_world, world=self.world, now=utc_now().replace(microsecond=0)))
        except (DBAPIError, DatabaseUnavailable) as error:
            reason = error.orig if isinstance(error, DBAPIError) else error
            raise CannotRun(f"database {self.engine.url.render_as_string()}: {reason}") from None

    def check(self) -> None:
        """Check the stack, and whether the demo must stop."""
        if self._stopping.is_set():
            raise Stopped
        super().check()

    # ---- while it runs ---------------------------------------------------------------------------------------------

    async def kill(self, name: str) -> None:
        """Kill one process."""
        self._restarted.add(name)
        await self.supervisor.kill(name)

    async def restart(self, name: str) -> None:
        """Start a killed process again."""
        await self.supervisor.restart(name)

    def _read(self, work: Callable[[Connection], T]) -> T:
        """Read the ledger; raise DatabaseUnavailable if the database is away, whichever call notices it."""
        try:
            return super()._read(work)
        except DBAPIError as error:
            if reaction_to(error) is Reaction.RECONNECT:
                raise DatabaseUnavailable(str(error.orig)) from error
            raise

    # ---- the end ---------------------------------------------------------------------------------------------------

    async def come_to_rest(self) -> list[str]:
        """Pause the agents, and wait until all their results are in the ledger and scored.

        Return descriptions of what was outstanding at the time limit; empty if everything arrived.
        """
        agents = [monitor.name for monitor in self.world.monitors if agent_name(monitor) in self.supervisor.running]
        deadline = time.monotonic() + REST_WITHIN
        while agents and time.monotonic() < deadline and self.supervisor.running:
            agents = await self.operator.pause(agents)
        # An agent counts from its last start, so the count is compared with the ledger only for agents that started
        # once.
        quiet_at = time.monotonic() + (_LAST_RESULT_WITHIN if self._restarted else 0.0)
        while True:
            on_the_way = await self._on_the_way()
            if not on_the_way and time.monotonic() >= quiet_at:
                return []
            if time.monotonic() > deadline or not self.supervisor.running:
                return on_the_way or ["the agents did not have time to finish their last probes"]
            await asyncio.sleep(_LOOK_EVERY)

    async def _on_the_way(self) -> list[str]:
        """Describe results that were measured, but are not yet in the ledger and scored."""
        try:
            in_ledger = await self.read(ledger.results_by_monitor)
            unscored = await self.read(lambda c: SCORING.backlog(c, utc_now()).due)
        except DatabaseUnavailable as error:
            return [f"the database is away: {error}"]
        monitors = [monitor.name for monitor in self.world.monitors if agent_name(monitor) in self.supervisor.running]
        self._measured = await self.operator.all_measured(monitors)
        said = [f"{unscored} servers are waiting for their score"] if unscored else []
        said += [f"{monitor.name} has batches in its spool" for monitor in self.world.monitors if self._waits(monitor)]
        said += [f"{name} does not answer" for name in monitors if name not in self._measured]
        for name, count in self._measured.items():
            if in_ledger[name] < count:
                said.append(f"{name} has measured {count} results, of which {in_ledger[name]} are in the ledger")
        return said

    def _waits(self, monitor: Monitor) -> bool:
        return not is_empty(self.site.agent_directory(monitor))

    async def stop(self) -> None:
        """Stop everything in order: agents, then workers, then their dependencies."""
        running = self.supervisor.running
        agents = [name for name in running if name.startswith("agent ")]
        brokers = [name for name in running if name.startswith(BROKER)]
        for names in (agents, [name for name in running if name in (*WORKERS, API, WEB)], [FLEET, *brokers]):
            self.hung += await self.supervisor.stop(name for name in names if name in self.supervisor.running)

    async def evidence(self) -> Evidence:
        """Collect the evidence for the account, after :meth:`stop`."""
        ids = await self.read(ledger.monitor_ids)
        directories = {ids[monitor.name]: self.site.agent_directory(monitor) for monitor in self.world.monitors}
        whole = {m.name for m in self.world.monitors if agent_name(m) not in self._restarted}
        return Evidence(
            replay=await self.read(lambda connection: Replay().all(checked.log_rows(connection))),
            batches=await self.read(ledger.batches),
            pair_scores=await self.read(checked.pair_scores),
            witnessed={(ids[seen.monitor], seen.id): seen.results for seen in self.witness.seen},
            measured={ids[name]: count for name, count in self._measured.items() if name in whole},
            spooled=await asyncio.to_thread(read_spools, directories),
        )
