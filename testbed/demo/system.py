"""The system of a demo as one thing: started in order, watched, brought to rest, ended, and held to account."""

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
from testbed.site import (
    BROKER,
    FLEET,
    FLEET_READY,
    WORKERS,
    Site,
    agent_command,
    agent_name,
    fleet_command,
    provision_agents,
    worker_command,
)
from testbed.spools import is_empty, read_spools
from testbed.stack import CannotRun, Stack
from testbed.world import ENV, Monitor, World

REST_WITHIN: Final = 60.0
"""Seconds that everything measured has to reach the ledger, once nothing more is measured. A batch that was lost on its
way three times, 10 s and a rest each, is put off for 15 s and comes with the next try: more than 50 s."""

_LAST_RESULT_WITHIN: Final = 5.0
"""Seconds after a pause in which the last result is in the spool: a probe takes three at most, a batch gathers one."""

_LOOK_EVERY: Final = 0.2
_OPERATOR: Final = "demo-operator"
T = TypeVar("T")


class Stopped(Exception):
    """Somebody asked the demo to stop before it was running."""


class System(Stack):
    """Broker, database, NTP servers, workers and agents.

    Args:
        stopping: set when it is to stop; everything that waits then gives up.
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
        """Starts everything, each when what it needs is there.

        Raises:
            CannotRun: something cannot be started; the message says what and why.
            Stopped: see ``stopping``.
        """
        await asyncio.to_thread(self._prepare_ledger)
        await self.start_broker()
        provision_agents(self.site, self.world)  # their state names the broker's certificate, which is there now
        if self.world.fleet:
            await self.start_process(fleet_command(self.site, self.world.fleet), FLEET_READY)
        for session in (self.witness.session, self.operator.session):
            await self.connect(session)
        for name in WORKERS:
            await self.supervisor.start(worker_command(self.site, name))
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
        """As of every stack, unless somebody asks us to stop."""
        if self._stopping.is_set():
            raise Stopped
        super().check()

    # ---- while it runs ---------------------------------------------------------------------------------------------

    async def kill(self, name: str) -> None:
        """SIGKILL to one process."""
        self._restarted.add(name)
        await self.supervisor.kill(name)

    async def restart(self, name: str) -> None:
        """Starts a process again that was killed."""
        await self.supervisor.restart(name)

    def _read(self, work: Callable[[Connection], T]) -> T:
        """Raises DatabaseUnavailable where the database is away, whoever notices it."""
        try:
            return super()._read(work)
        except DBAPIError as error:
            if reaction_to(error) is Reaction.RECONNECT:
                raise DatabaseUnavailable(str(error.orig)) from error
            raise

    # ---- the end ---------------------------------------------------------------------------------------------------

    async def come_to_rest(self) -> list[str]:
        """Has the agents pause, and waits until all that they measured is in the ledger and scored.

        Returns what was still on its way when the time was over, in words; nothing when all had arrived.
        """
        agents = [monitor.name for monitor in self.world.monitors if agent_name(monitor) in self.supervisor.running]
        deadline = time.monotonic() + REST_WITHIN
        while agents and time.monotonic() < deadline and self.supervisor.running:
            agents = await self.operator.pause(agents)
        # What an agent counts began with its last start: whether it has all that it counted, the ledger tells only
        # of those that were started once.
        quiet_at = time.monotonic() + (_LAST_RESULT_WITHIN if self._restarted else 0.0)
        while True:
            on_the_way = await self._on_the_way()
            if not on_the_way and time.monotonic() >= quiet_at:
                return []
            if time.monotonic() > deadline or not self.supervisor.running:
                return on_the_way or ["the agents had no time to finish their last probes"]
            await asyncio.sleep(_LOOK_EVERY)

    async def _on_the_way(self) -> list[str]:
        """What is measured and not yet in the ledger and scored, in words."""
        try:
            in_ledger = await self.read(ledger.results_by_monitor)
            unscored = await self.read(lambda c: SCORING.backlog(c, utc_now()).due)
        except DatabaseUnavailable as error:
            return [f"the database is away: {error}"]
        monitors = [monitor.name for monitor in self.world.monitors if agent_name(monitor) in self.supervisor.running]
        self._measured = await self.operator.all_measured(monitors)
        said = [f"{unscored} servers wait for their score"] if unscored else []
        said += [f"{monitor.name} has batches in its spool" for monitor in self.world.monitors if self._waits(monitor)]
        said += [f"{name} does not answer" for name in monitors if name not in self._measured]
        for name, count in self._measured.items():
            if in_ledger[name] < count:
                said.append(f"{name} has measured {count}, and {in_ledger[name]} are in the ledger")
        return said

    def _waits(self, monitor: Monitor) -> bool:
        return not is_empty(self.site.agent_directory(monitor))

    async def stop(self) -> None:
        """Ends everything in order: agents, then workers, then what they need."""
        running = self.supervisor.running
        agents = [name for name in running if name.startswith("agent ")]
        for names in (agents, [name for name in running if name in WORKERS], [FLEET, BROKER]):
            self.hung += await self.supervisor.stop(name for name in names if name in self.supervisor.running)

    async def evidence(self) -> Evidence:
        """All that the account is made from; after :meth:`stop`."""
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
