"""Run a fault run, from its first process to its last: rounds of faults, each followed by rest and comparison."""

import asyncio
import logging
import random
import tempfile
import time
from collections.abc import Collection
from contextlib import AbstractContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from bench.faults import disks
from bench.faults.databases import Databases, cluster, one_database
from bench.faults.faults import make_fault
from bench.faults.plan import CLUSTER_KINDS, GAP, KINDS, NAMES, Planned, link_to, locks_of, make_plan
from bench.faults.processes import KillAtPoint
from bench.faults.report import Found, Struck, Summary, print_all, say, summarize
from bench.faults.rest import Rest
from bench.faults.rig import WORKERS, Rig
from bench.faults.site import LOAD, FaultSite, remove
from bench.faults.verdict import Verdict, judge
from testbed.broker import BrokerUnavailable
from testbed.database import DatabaseServer, MariaDb
from testbed.site import free_ntp_port, make_site
from testbed.stack import CannotRun
from testbed.world import World, make_world

log = logging.getLogger(__name__)

AGENTS: Final = 4
SERVERS: Final = 7
"""Number of the demo's servers; the next ones are excluded for some monitors, whose pairs are then paused."""
LOAD_MONITORS: Final = 36
ROUND: Final = 900.0
"""Approximate seconds of a round, short enough to relate a difference to its cause."""

SETTLE: Final = 8.0
"""Undisturbed seconds before the first fault."""

_NEEDS_DISKS: Final = frozenset({"full disk under the spool", "full disk under the database"})
_LOOK_EVERY: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a run."""

    seconds: float
    seed: int
    kinds: tuple[str, ...] = NAMES
    ipv6: bool = False
    gap: tuple[float, float] | None = None
    """Seconds between the starts of two faults; None: the plan's default."""
    database: type[DatabaseServer] = MariaDb
    galera: bool = False
    """The ledger is a cluster of three nodes of MariaDB."""


def run_faults(options: Options) -> int:
    """Run, print the report, and return the exit code.

    Raises:
        CannotRun: a requirement is missing.
    """
    can_fill = _own_disks()
    kinds = [kind for kind in options.kinds if can_fill or kind not in _NEEDS_DISKS]
    directory = Path(tempfile.mkdtemp(prefix="ntpfaults-"))
    kind = "a Galera cluster" if options.galera else options.database.name
    say(f"seed {options.seed}, {options.seconds:g} s, {kind}, in {directory}")
    summary = None
    try:
        with _databases(options, directory, disk=can_fill) as databases:
            site = _site(directory, databases, options, disks=can_fill)
            run = Run(site, databases, options, kinds)
            summary = asyncio.run(run.run())
    except KeyboardInterrupt:
        remove(directory)
        raise
    finally:
        if (directory / "logs").exists() and (summary is None or not summary.good):
            say(f"the logs of all processes are in {directory / 'logs'}")
        else:
            remove(directory)
    left_out = sorted(set(options.kinds) - set(kinds))
    print_all(msgspec.structs.replace(summary, left_out=left_out, ipv6=options.ipv6), run.found)
    return 0 if summary.good else 1


def _own_disks() -> bool:
    try:
        disks.own_mounts()
    except disks.NoDisks as error:
        say(f"faults with full disks are left out, this machine does not allow small disks: {error}")
        return False
    return True


def _databases(options: Options, directory: Path, *, disk: bool) -> AbstractContextManager[Databases]:
    return cluster(directory, disk=disk) if options.galera else one_database(options.database, directory, disk=disk)


def _site(directory: Path, databases: Databases, options: Options, *, disks: bool) -> FaultSite:
    try:
        site = make_site(directory, databases.create("faults"), tls=True, ipv6=options.ipv6, registering=True)
        return FaultSite(site, _world(), LOAD_MONITORS, disks)
    except (OSError, BrokerUnavailable) as error:
        raise CannotRun(str(error)) from None


def _world() -> World:
    draft = make_world(AGENTS, SERVERS, 1)
    return make_world(AGENTS, SERVERS, free_ntp_port([spec.address for spec in draft.fleet]))


class Run:
    """One run."""

    def __init__(self, site: FaultSite, databases: Databases, options: Options, kinds: Collection[str]) -> None:
        self._site = site
        self._databases = databases
        self._options = options
        self._kinds = kinds
        self._records: list[Path] = []
        self._struck: list[Struck] = []
        self._deaths = 0
        self.found = Found()

    async def run(self) -> Summary:
        """Return the summary.

        Raises:
            CannotRun: the system does not start.
        """
        began = time.monotonic()
        rounds = max(1, round(self._options.seconds / ROUND))
        verdict = Verdict(0, 0, 0, 0, ())
        async with Rig(self._site, self._databases.servers) as rig, AsyncExitStack() as stack:
            await rig.start()
            watch = asyncio.create_task(self._watch(rig))
            stack.push_async_callback(_ended, watch)
            for number in range(1, rounds + 1):
                verdict = await self._round(rig, number, self._options.seconds / rounds)
                if self.found:
                    break
        seconds = time.monotonic() - began
        return summarize(self._options.seed, seconds, number, self._struck, verdict, self.found)

    async def _round(self, rig: Rig, number: int, seconds: float) -> Verdict:
        seed = f"{self._options.seed} {number}"
        load = await rig.start_load(number, random.Random(seed).randrange(1 << 30))
        self._records.append(self._site.site.directory / f"{LOAD}-{number}.jsonl")
        await asyncio.sleep(SETTLE)
        processes = [*rig.monitors, *WORKERS, *rig.databases, *map(link_to, rig.databases)]
        known = CLUSTER_KINDS if self._options.galera else KINDS
        plan = make_plan(seed, seconds, processes, self._kinds, self._options.gap or GAP, known)
        await self._strike(rig, plan, seconds)
        say(f"round {number} is over; waiting until the system is at rest")
        rest = Rest(rig)
        tree = await rest.come(load)
        verdict = await asyncio.to_thread(judge, rig.engine, rest.diaries(), self._records, tree)
        self.found.differences.extend((*rig.differences, *rest.differences, *verdict.differences))
        rig.differences.clear()
        say(f"{verdict.stored} results, {len(self.found.differences)} differences")
        await rest.go_on()
        return verdict

    async def _strike(self, rig: Rig, plan: list[Planned], seconds: float) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for planned in plan:
                await asyncio.sleep(max(0.0, began + planned.at - time.monotonic()))
                tasks.create_task(self._one(rig, planned, began + seconds), name=str(planned))

    async def _one(self, rig: Rig, planned: Planned, until: float) -> None:
        fault = make_fault(rig, planned)
        async with AsyncExitStack() as locks:
            for name in locks_of(fault.touches):
                await locks.enter_async_context(rig.lock(name))
            if time.monotonic() > until:
                return  # its targets were broken for too long
            say(str(planned))
            log.info("begins: %s", planned)
            try:
                await fault.begin()
                await asyncio.sleep(planned.seconds)
            finally:
                await fault.end()
            log.info("is over: %s", planned)
        self._struck.append(Struck(planned, not isinstance(fault, KillAtPoint) or fault.reached))

    async def _watch(self, rig: Rig) -> None:
        """Notice processes that end unexpectedly, and start them again."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            for death in rig.supervisor.deaths[self._deaths :]:
                self._deaths += 1
                self._died(str(death))
                if not death.name.startswith(LOAD):
                    async with rig.lock(death.name):
                        await rig.start_again(death.name)
            for name, database in rig.databases.items():
                if not database.running and not rig.lock(name).locked():
                    async with rig.lock(name):
                        self._died(f"the {name} ended unexpectedly")
                        await rig.kill(name)
                        await rig.start_again(name)

    def _died(self, text: str) -> None:
        say(text)
        self.found.died.append(text)


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
