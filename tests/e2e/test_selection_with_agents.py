"""Test a selection with real processes: the ledger changes, the selector decides, and the agents follow.

An agent's assignments are known from its status, as stored by ingest. This is on MySQL; the selector's own tests,
without agents, are on every database.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ops.monitors import change_monitor
from runtime.db.engine import open_database, transaction, utc_now
from runtime.db.system_settings import PoolSettingsReader
from schema.messages import Status, assignment_set_hash, decode
from schema.tables import accounts, log_scores, monitor_presence, monitors, server_scores
from schema.topics import Topics
from selector.assignments import Terms, assignment, read_pairs_of_monitor
from selector.row_warnings import RowWarnings
from testbed.database import MySql, temporary_database
from testbed.demo import store
from testbed.demo.system import System
from testbed.fixtures.database import require
from testbed.site import free_ntp_port, make_site
from testbed.waiting import wait_until
from testbed.world import ENV, make_world

AGENTS = 6
TARGET = 3
"""Target number of active monitors, lower than usual, so that it is reached sooner."""


class Pool:
    """A running system with one good server."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.engine = open_database(system.site.database)
        self.intervals = PoolSettingsReader(self.engine).get().monitors

    async def until(self, condition: Callable[[Connection], bool], what: str) -> None:
        """Wait for a condition; fail if a process dies."""

        async def holds() -> bool:
            if await self.system.read(condition):
                return True
            assert not self.system.supervisor.deaths, str(self.system.supervisor.deaths[0])
            return False

        await wait_until(holds, what)

    async def change(self, work: Callable[[Connection], Any]) -> None:
        """Change the ledger, as operators and time do."""
        await asyncio.to_thread(transaction, self.engine, work)

    async def active(self) -> set[int]:
        return await self.system.read(active)

    async def agents_follow(self, what: str) -> None:
        """Wait until every agent reports the assignments that the ledger has for it."""
        await self.until(self._agents_follow, f"agents follow: {what}")

    def _agents_follow(self, connection: Connection) -> bool:
        terms = Terms(Topics(ENV), self.intervals, datetime.now(UTC).date())
        said = {row.tls_name: row.status for row in connection.execute(sa.select(monitor_presence))}
        for monitor in self.system.world.monitors:
            rows = read_pairs_of_monitor(connection, monitor.name)
            made = [a for a in (assignment(row, terms, RowWarnings()) for row in rows) if a is not None]
            state = decode(said[monitor.name].encode(), Status).protocols["v4"]
            if (state.assignments, state.assignments_hash) != (len(made), assignment_set_hash(made)):
                return False
        return True


def active(connection: Connection) -> set[int]:
    pair = server_scores.c
    query = sa.select(pair.monitor_id).join(monitors, monitors.c.id == pair.monitor_id)
    return set(connection.scalars(query.where(pair.status == "active", monitors.c.type == "monitor")))


def full(connection: Connection) -> bool:
    return len(active(connection)) == TARGET


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Pool]:
    draft = make_world(AGENTS, 1, 1)
    world = make_world(AGENTS, 1, free_ntp_port([spec.address for spec in draft.fleet]))
    with temporary_database(MySql, buffer_pool="64M") as database:
        site = make_site(directory, database.create("selection"), registering=True)
        async with System(site, world, asyncio.Event()) as system:
            await system.start()
            pool = Pool(system)
            try:
                yield pool
            finally:
                pool.engine.dispose()


@pytest.mark.timeout(400)
async def test_agents_follow_the_decisions_of_the_selector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(store._SETTINGS["selector"], "target_active", TARGET)
    require(MySql.name)
    async with running(tmp_path) as pool:
        await pool.until(full, "the active places are taken")
        await pool.agents_follow("the beginning")

        bad = min(await pool.active())
        past = sa.update(log_scores).where(log_scores.c.monitor_id == bad)
        await pool.change(lambda c: c.execute(past.values(step=-5.0)))
        await pool.until(lambda c: bad not in active(c) and full(c), "a monitor that turned bad is replaced")
        await pool.agents_follow("a monitor that turned bad")
        await pool.change(lambda c: c.execute(past.values(step=1.0)))

        await pool.change(partial(one_account, limit=1))
        await pool.until(lambda c: len(active(c)) == 1, "an account over its limit shrinks, but not to nothing")
        await pool.agents_follow("an account over its limit")
        await pool.change(partial(one_account, limit=AGENTS))
        await pool.until(full, "and grows again")

        lost = await pool.active()
        await pool.change(lambda c: [change_monitor(c, str(m), "pause", utc_now()) for m in sorted(lost)])
        await pool.until(lambda c: len(active(c)) == AGENTS - len(lost) and not active(c) & lost, "others take over")
        await pool.agents_follow("all active ones are paused")


def one_account(connection: Connection, *, limit: int) -> None:
    """Give all monitors to one account, of which at most ``limit`` may measure one server."""
    m = monitors.c
    account = connection.scalar(sa.select(sa.func.min(m.account_id)).where(m.tls_name.not_like("%.system")))
    connection.execute(sa.update(monitors).where(m.tls_name.not_like("%.system")).values(account_id=account))
    flags = {"monitors_per_server_limit": limit}
    connection.execute(sa.update(accounts).where(accounts.c.id == account).values(flags=flags))
