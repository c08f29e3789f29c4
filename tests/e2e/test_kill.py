"""Test that killing and restarting any one process of a running system loses nothing and counts nothing twice.

Real agents measure simulated servers all the time. Each process is killed in turn, stays away until work has
accumulated, and is started again. This is on MariaDB; test_faults.py does the same, and more, on MySQL.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runtime.db.engine import utc_now
from runtime.db.queue import SCORING
from runtime.db.retry import DatabaseUnavailable
from testbed.database import DatabaseServer, MariaDb, temporary_database
from testbed.demo.accounting import settle
from testbed.demo.ledger import results_by_monitor
from testbed.demo.system import System
from testbed.site import API, BROKER, agent_name, free_ntp_port, make_site
from testbed.spools import is_empty
from testbed.waiting import wait_until
from testbed.world import make_world

AGENTS, SERVERS = 3, 3


class Killing:
    """A running system, with the kills and the conditions to wait for."""

    def __init__(self, system: System, database: DatabaseServer) -> None:
        self.system = system
        self.database = database

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for a condition; fail if a process dies that was not killed."""

        async def holds() -> bool:
            if await condition():
                return True
            assert not self.system.supervisor.deaths, str(self.system.supervisor.deaths[0])
            return False

        await wait_until(holds, what)

    async def kill(self, name: str, while_away: Callable[[], Awaitable[bool]]) -> None:
        """Kill a process, wait for a condition without it, and start it again."""
        await self.system.kill(name)
        await self.until(while_away, f"{name} is away")
        await self.system.restart(name)
        await self.flows(f"{name} is back")

    async def kill_database(self) -> None:
        """Kill the database, wait until results accumulate, and start it again."""
        await asyncio.to_thread(self.database.stop, kill=True)
        await self.until(self.results_pile_up, "the database is away")
        await asyncio.to_thread(self.database.start)
        await self.flows("the database is back")

    async def flows(self, when: str) -> None:
        """Wait until new results of every monitor reach the ledger."""
        before = await self._results()

        async def more() -> bool:
            now = await self._results()
            return all(now.get(m.name, 0) >= before.get(m.name, 0) + 3 for m in self.system.world.monitors)

        await self.until(more, f"results of all monitors, {when}")

    async def results_pile_up(self) -> bool:
        """Return whether every agent has results in its spool."""
        return not any(is_empty(self.system.site.agent_directory(m)) for m in self.system.world.monitors)

    async def scores_pile_up(self) -> bool:
        """Return whether every server waits for its score."""
        return await self.system.read(lambda c: SCORING.backlog(c, utc_now()).due) == len(self.system.world.servers)

    async def _results(self) -> dict[str, int]:
        try:
            return dict(await self.system.read(results_by_monitor))
        except DatabaseUnavailable:
            return {}


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Killing]:
    draft = make_world(AGENTS, SERVERS, 1)
    world = make_world(AGENTS, SERVERS, free_ntp_port([spec.address for spec in draft.fleet]))
    with temporary_database(MariaDb, buffer_pool="64M") as database:
        site = make_site(directory, database.create("kills"), registering=True)
        async with System(site, world, asyncio.Event()) as system:
            await system.start()
            killing = Killing(system, database)
            await killing.flows("after the start")
            yield killing


@pytest.mark.timeout(300)
async def test_killing_any_process_loses_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as killing:
        system = killing.system
        agent = agent_name(system.world.monitors[0])

        async def at_once() -> bool:
            return True

        await killing.kill("ingest", killing.results_pile_up)
        await killing.kill("scorer", killing.scores_pile_up)
        await killing.kill("selector", at_once)
        await killing.kill(API, at_once)
        await killing.kill(agent, at_once)
        await killing.kill_database()
        await killing.kill(BROKER, killing.results_pile_up)

        assert await system.come_to_rest() == [], "all that was measured is in the ledger, and scored"
        await system.stop()
        evidence = await system.evidence()
        account = settle(evidence)
        assert account.reasons == ()
        assert (account.lost, account.duplicated, account.waiting, account.unscored) == (0, 0, 0, 0)
        assert len(evidence.witnessed) > len(evidence.measured) == AGENTS - 1
        assert account.committed > 50
        assert system.supervisor.deaths == [], "nobody else died of it"
        assert system.hung == []
