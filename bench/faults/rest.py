"""Bring a repaired system to rest: nothing in transit, nothing due, every assignment published."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bench.faults.journal import read_journal
from bench.faults.launch import JOURNAL
from bench.faults.rig import Rig
from bench.faults.verdict import Diary
from runtime.db.engine import utc_now
from runtime.db.queue import SCORING
from runtime.db.retry import DatabaseUnavailable
from runtime.db.system_settings import PoolSettingsReader
from runtime.mqtt.session import NotConnected
from schema.tables import log_scores, servers
from schema.topics import Topics
from testbed.checker import ledger
from testbed.checker.assignments import Tree, compare_assignments, read_tree
from testbed.checker.difference import Difference
from testbed.stack import CannotRun
from testbed.world import ENV

log = logging.getLogger(__name__)

REST_WITHIN = 180.0
"""Seconds for each step. The longest wait is that of an agent that stays away from a broker."""

TREE_WITHIN = 90.0


class Rest:
    """A system on its way to rest. A part that does not reach it in time is a difference, not an error."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._measured: dict[str, int | None] = {}
        self.differences: list[Difference] = []

    async def come(self, load: str) -> Tree:
        """Pause reviews, then measuring; wait until all results are delivered and scored, and assignments published.
        Return the retained assignments."""
        rig = self._rig
        await self._reach("the selector pauses", lambda: rig.operator.service("selector", "pause"))
        # A score depends on the status of its monitors, and is computed again with the next result: one must follow the
        # last status change.
        last = await rig.read(ledger.last_log_id)
        await self._reach("results of all servers", lambda: self._all_measured_since(last))
        await self._end_load(load)
        for monitor in rig.fault_site.world.monitors:
            await self._reach(f"{monitor.name} pauses", lambda name=monitor.name: rig.operator.agent(name, "pause"))  # type: ignore[misc]  # mypy sees no type of a default
        # A probe in progress, or a result waiting for its batch, enters the spool after the pause.
        for name in rig.monitors:
            await self._reach(f"the counts of {name}", lambda name=name: self._balanced(name))  # type: ignore[misc]  # mypy sees no type of a default
        await self._reach("spools are delivered", self._delivered)
        await self._reach("all servers are scored", self._scored)
        return await self._told()

    async def go_on(self) -> None:
        """Resume measuring and reviews."""
        for monitor in self._rig.fault_site.world.monitors:
            await self._rig.operator.agent(monitor.name, "resume")
        await self._rig.operator.service("selector", "resume")

    def diaries(self) -> list[Diary]:
        """Return the journals of all agents, with the counts that running agents reported on the way to rest."""
        found = []
        for name, monitor in self._rig.monitors.items():
            journal = self._rig.fault_site.handles(name) / JOURNAL
            found.append(Diary(monitor.name, journal, self._measured.get(name)))
            of_copy = self._rig.fault_site.handles(f"{name} copy") / JOURNAL
            if of_copy.exists():
                found.append(Diary(monitor.name, of_copy))
        return found

    async def _balanced(self, name: str) -> bool:
        """Return whether an agent's counts agree with its journal. They may differ while a probe is in progress."""
        measured = self._measured[name] = await self._rig.operator.measured(self._rig.monitors[name].name)
        tale = await asyncio.to_thread(read_journal, self._rig.fault_site.handles(name) / JOURNAL)
        return measured == tale.kept_by_last_process()

    async def _reach(self, what: str, condition: Callable[[], Awaitable[bool]], within: float = REST_WITHIN) -> None:
        log.debug("waiting: %s", what)
        try:
            await self._rig.until(condition, what, within)
        except CannotRun as error:
            self.differences.append(Difference("waiting", str(error)))

    async def _all_measured_since(self, last: int) -> bool:
        def look(connection: Connection) -> bool:
            measured = sa.select(sa.func.count(log_scores.c.server_id.distinct())).where(log_scores.c.id > last)
            return connection.scalar(measured) == connection.scalar(sa.select(sa.func.count()).select_from(servers))

        return await self._rig.read(look)

    async def _end_load(self, name: str) -> None:
        pid = self._rig.supervisor.pid(name)
        if pid is None:
            return
        ended = asyncio.ensure_future(self._rig.supervisor.wait(name))
        os.kill(pid, signal.SIGTERM)
        done, _ = await asyncio.wait({ended}, timeout=REST_WITHIN)
        if not done:
            ended.cancel()
            await self._rig.kill(name)
        if not done or ended.result() != 0:
            text = f"not all batches of {name} were acknowledged:\n{self._rig.end_of_log(name)}"
            self.differences.append(Difference("waiting", text))

    async def _delivered(self) -> bool:
        return await asyncio.to_thread(self._rig.spools_are_empty)

    async def _scored(self) -> bool:
        try:
            return not await self._rig.read(lambda connection: SCORING.backlog(connection, utc_now()).due)
        except DatabaseUnavailable:
            return False

    async def _told(self) -> Tree:
        trees: list[Tree] = [{}]

        async def right() -> bool:
            trees[0] = await self._read_tree()
            intervals = PoolSettingsReader(self._rig.engine).get().monitors
            return not await self._rig.read(
                lambda connection: compare_assignments(connection, trees[0], Topics(ENV), intervals)
            )

        await self._reach("retained assignments agree with the ledger", right, TREE_WITHIN)
        return trees[0]

    async def _read_tree(self) -> Tree:
        try:
            return await read_tree(self._rig.operator.session, self._rig.operator.topics)
        except NotConnected:
            return {}
