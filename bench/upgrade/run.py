"""Upgrade a pool under load, in the order that docs/operating.md names, and judge what has become of the results."""

import asyncio
import time
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bench.upgrade.report import Findings, Summary, say, summarize
from bench.upgrade.rig import INGEST, VERSIONS, Release, Rig
from runtime.db import migrate
from runtime.db.engine import reading, utc_now
from runtime.db.queue import SCORING
from runtime.db.system_settings import PoolSettingsReader
from runtime.mqtt.session import NotConnected
from schema.tables import log_scores, servers
from schema.topics import Topics
from testbed.broker import BrokerParts, find_parts
from testbed.checker import ledger as checked
from testbed.checker.assignments import Tree, compare_assignments, read_tree
from testbed.checker.check import check
from testbed.checker.difference import Difference
from testbed.checker.load import read_attempts
from testbed.checker.replay import Replay
from testbed.demo import ledger
from testbed.demo.accounting import Evidence, settle
from testbed.former_release import FormerRelease
from testbed.site import API, Site, agent_name
from testbed.spools import is_empty
from testbed.stack import CannotRun
from testbed.world import ENV, Monitor, World

WORKERS: Final = (INGEST, "scorer", "selector")
"""The workers of every pool, in the order in which they are replaced; with agents there is the API, too."""

LAST_RESULT_WITHIN: Final = 5.0
"""Seconds from the pause of an agent until its last result is in the spool: a probe takes three at most."""

_LOOK_EVERY: Final = 0.1


class UpgradeRun:
    """One run.

    Args:
        site: with an API if the world has agents; its database is empty.
        former_broker: the former release's plugin, which is replaced like the workers; None: the broker stays.
    """

    def __init__(
        self,
        site: Site,
        world: World,
        former: FormerRelease,
        load_names: list[str],
        former_broker: BrokerParts | None = None,
    ) -> None:
        self._rig = Rig(site, world, former, load_names)
        self._workers = [*WORKERS, API] if world.monitors else list(WORKERS)
        self._former_broker = former_broker
        self._here = find_parts()
        self.findings = Findings()

    async def run(self) -> Summary:
        """Run everything, and return the summary.

        Raises:
            CannotRun: the pool of the former release does not start.
        """
        began = time.monotonic()
        async with self._rig as rig:
            await self._start()
            try:
                await self._upgrade()
            except CannotRun as error:
                self.findings.failed.append(str(error))
        return summarize(self.findings, time.monotonic() - began, len(rig.world.monitors))

    async def _start(self) -> None:
        rig = self._rig
        say("starting a pool of the former release")
        await rig.start_pool(self._workers, self._former_broker)
        for monitor in rig.world.monitors:
            say(f"registering {monitor.name}")
            await rig.register(monitor)
            await rig.start_agent(monitor, "former")
        await rig.start_load()
        await rig.flows("on the former release")

    async def _upgrade(self) -> None:
        rig = self._rig
        for monitor in rig.world.monitors[:1]:
            await self._there_and_back(monitor, "the former pool")
        await self._upgrade_tables()
        for name in self._workers:
            say(f"{name}: the new one in place of the former one")
            await rig.replace_worker(name)
            await rig.flows(f"with the new {name}")
        if self._former_broker is not None:
            say("the broker: the new plugin and configuration")
            await rig.replace_broker(self._here)
            await rig.flows("with the new broker")
        for monitor in rig.world.monitors[1:]:
            await self._there_and_back(monitor, "the new pool")
        await self._judge()

    async def _there_and_back(self, monitor: Monitor, pool: str) -> None:
        """Upgrade an agent, downgrade it, and upgrade it again."""
        releases: tuple[Release, ...] = ("new", "former", "new")
        for number, release in enumerate(releases, start=1):
            say(f"{monitor.name}: the {release} agent in {pool}, while batches wait in its spool")
            waiting = await self._rig.switch_agent(monitor, release)
            self.findings.switched[f"{monitor.name}, {number}: {release} in {pool}"] = len(waiting)
            self.findings.must_arrive |= waiting

    # ---- the tables ------------------------------------------------------------------------------------------------

    async def _upgrade_tables(self) -> None:
        rig = self._rig
        before, after = await asyncio.to_thread(migrate.current, rig.engine), migrate.newest()
        self.findings.tables = (before or "none", after)
        if before != after:
            await self._refused("new", "before the upgrade of the tables")
        say(f"tables: {before} -> {after}, under load")
        began = time.monotonic()
        watch = asyncio.create_task(self._longest_gap())
        try:
            await rig.operate("new", "db", "upgrade")
            self.findings.upgrade_seconds = time.monotonic() - began
            # The former workers still run, and must go on.
            await rig.flows("with the former workers on the new tables")
        finally:
            watch.cancel()
            await asyncio.wait({watch})
        if before != after:
            await self._refused("former", "on the new tables")

    async def _refused(self, release: Release, when: str) -> None:
        """Require that no worker of a release starts now."""
        code, output = await self._rig.run(self._rig.worker("scorer", release))
        if code != 2 or "database: is at version " not in output or f" {VERSIONS[release]} starts for " not in output:
            text = f"the {release} scorer should have refused to start {when}: exit code {code}:\n{output}"
            self.findings.failed.append(text)

    async def _longest_gap(self) -> None:
        last, since = await self._rig.read(checked.last_log_id), time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            now = await self._rig.read(checked.last_log_id)
            if now != last:
                last, since = now, time.monotonic()
            self.findings.longest_gap_seconds = max(self.findings.longest_gap_seconds, time.monotonic() - since)

    # ---- the end ---------------------------------------------------------------------------------------------------

    async def _judge(self) -> None:
        say("waiting until the system is at rest")
        tree = await self._come_to_rest()
        found = self.findings
        found.agent_versions = self._rig.agent_versions()
        found.differences += await asyncio.to_thread(self._compare, tree)
        found.results = await self._rig.read(ledger.committed)

    async def _come_to_rest(self) -> Tree:
        rig = self._rig
        await rig.until(lambda: rig.operator.service("selector", "pause"), "a pause of the selector")
        # A score depends on the status of its monitors, and is computed again with the next result: one must follow the
        # last change.
        last = await rig.read(checked.last_log_id)
        await rig.until(lambda: rig.read(lambda c: _measured_since(c, last)), "results of all servers")
        await rig.end_load()
        await self._pause_agents()
        await rig.until(lambda: rig.read(_is_scored), "the end of the scoring")
        tree: list[Tree] = [{}]

        async def agrees() -> bool:
            tree[0] = await self._read_tree()
            intervals = PoolSettingsReader(rig.engine).get().monitors
            return not await rig.read(lambda c: compare_assignments(c, tree[0], Topics(ENV), intervals))

        await rig.until(agrees, "agreement of the retained assignments with the ledger")
        return tree[0]

    async def _pause_agents(self) -> None:
        rig = self._rig
        agents = [monitor.name for monitor in rig.world.monitors]
        if not agents:
            return

        async def paused() -> bool:
            return not await rig.operator.pause(agents)

        await rig.until(paused, "a pause of the agents")
        await asyncio.sleep(LAST_RESULT_WITHIN)
        spools = [rig.site.agent_directory(monitor) for monitor in rig.world.monitors]
        await rig.until(lambda: all(map(is_empty, spools)), "delivery of all spools")
        for monitor in rig.world.monitors:
            await rig.stop(agent_name(monitor))

    async def _read_tree(self) -> Tree:
        try:
            return await read_tree(self._rig.operator.session, self._rig.operator.topics)
        except NotConnected:
            return {}

    def _compare(self, tree: Tree) -> list[Difference]:
        """Compare everything that was sent, or waited in a spool, with the ledger."""
        rig = self._rig
        with reading(rig.engine) as connection:
            attempts = read_attempts(connection, rig.record)
            evidence = self._evidence(connection)
        found = list(check(rig.engine, attempts=attempts, tree=tree, env=ENV).differences)
        found += [Difference("lost", reason) for reason in settle(evidence).reasons]
        lost = self.findings.must_arrive - evidence.batches.keys()
        return found + [
            Difference("lost", f"batch {batch} of monitor {monitor} waited in a spool, and is not in the ledger")
            for monitor, batch in sorted(lost)
        ]

    def _evidence(self, connection: Connection) -> Evidence:
        ids = ledger.monitor_ids(connection)
        return Evidence(
            replay=Replay().all(checked.log_rows(connection)),
            batches=ledger.batches(connection),
            pair_scores=checked.pair_scores(connection),
            witnessed={(ids[seen.monitor], seen.id): seen.results for seen in self._rig.witness.seen},
        )


def _measured_since(connection: Connection, last: int) -> bool:
    """Return whether each server has a result with a larger id."""
    measured = sa.select(sa.func.count(log_scores.c.server_id.distinct())).where(log_scores.c.id > last)
    return connection.scalar(measured) == connection.scalar(sa.select(sa.func.count()).select_from(servers))


def _is_scored(connection: Connection) -> bool:
    return not SCORING.backlog(connection, utc_now()).due
