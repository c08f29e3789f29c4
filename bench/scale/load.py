"""Measure ingest alone, then everything at once, under a load that takes as much as is acknowledged; and check all."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from bench.api_stage import api_command, prepare_files
from bench.figure import Figure
from bench.measure import Window, answers, come_to_rest, differences, latencies, load_for, load_spec, rate
from bench.progress import say
from bench.scale.plan import Plan, make_due_for_scoring, published_tree, start_workers
from bench.stage import Stage
from bench.world import ENV, World, fill, paced
from runtime.db.engine import reading, utc_now
from runtime.db.queue import REVIEWS
from selector.triggers import make_due
from testbed.checker.assignments import Tree
from testbed.checker.check import Checked, check
from testbed.checker.difference import lines
from testbed.checker.load import read_attempts
from testbed.ports import free_port
from testbed.site import API, API_READY
from testbed.stack import CannotRun

_PACE: Final = 12_000.0
"""Results per second that the assignments allow: more than ingest can store, so that the rate limit has no effect."""

_SHORTEST_INTERVAL: Final = 0.1
"""Seconds; a setting of the pool that is shorter is invalid."""

_AHEAD: Final = 9_000.0
"""Batches to make before the load begins, as a rate in results per second."""

_BATCH: Final = 10
_OUTSTANDING: Final = 300
_WARM_UP: Final = 8.0
"""Seconds until ingest has looked up monitors and rate limits."""

_REVIEW_ALL_EVERY: Final = 5.0
_REVIEWED_WITHIN: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Load:
    record: Path
    window: Window

    def figure(self, plan: Plan, name: str) -> Figure:
        found = answers(self.record, self.window)
        latency = latencies(found) if found else {}
        return plan.figure(name, rate(found, self.window), "results/s", self.window.cores, latency=latency)


async def load_phases(on: Stage, plan: Plan) -> list[Figure]:
    """Measure, and return the figures; the last one is the number of differences."""
    # As many places as a server has by the rules, so that reviews keep the assignments that the load assumes.
    world = paced(World(servers=plan.servers, monitors=plan.monitors, active=7, testing=5), _PACE)
    if world.intervals.interval_active < _SHORTEST_INTERVAL:
        raise CannotRun("too few servers and monitors for a load that saturates ingest: 300 servers or more, please")
    await asyncio.to_thread(fill, on.engine, world)
    await start_workers(on, "ingest", plan.workers)
    alone = await _load(on, plan, world, 1)
    await start_workers(on, "scorer", plan.workers)
    selectors = await start_workers(on, "selector", plan.workers)
    await _start_apis(on, plan.workers)
    reviewing = asyncio.create_task(_review_repeatedly(on))
    try:
        together = await _load(on, plan, world, 2)
    finally:
        reviewing.cancel()
        with suppress(asyncio.CancelledError):
            await reviewing
    found = await _checked(on, [alone.record, together.record], world, selectors)
    return [
        alone.figure(plan, "ingest"),
        together.figure(plan, "ingest beside all other workers"),
        differences(f"differences, {plan.workers} of each kind at once", [found]),
    ]


async def _load(on: Stage, plan: Plan, world: World, number: int) -> _Load:
    record = on.site.directory / f"record-{number}"
    ahead = round((_WARM_UP + plan.seconds) * _AHEAD / _BATCH / plan.monitors)
    spec = load_spec(on, world.members(), record, outstanding=_OUTSTANDING, ahead=ahead, batch=_BATCH, seed=number)
    return _Load(record, await load_for(on, spec, _WARM_UP, plan.seconds))


async def _start_apis(on: Stage, count: int) -> None:
    prepare_files(on.site.directory)
    for number in range(1, count + 1):
        await on.start_process(api_command(on, f"{API}-{number}", free_port()), API_READY)


async def _review_repeatedly(on: Stage) -> None:
    """Make all servers due for a review, again and again, so that the selectors always have work."""
    while True:
        await asyncio.to_thread(make_due, on.engine, None, datetime.now(UTC))
        await asyncio.sleep(_REVIEW_ALL_EVERY)


async def _checked(on: Stage, records: list[Path], world: World, selectors: list[str]) -> Checked:
    say("checking that nothing is lost, duplicated or wrong")

    async def reviewed() -> bool:
        return not await on.read(lambda connection: REVIEWS.backlog(connection, utc_now()).due)

    await on.until(reviewed, "the end of the reviews", _REVIEWED_WITHIN)
    tree = await published_tree(on)
    await on.stop(*selectors)
    # A score depends on the status of its monitors, and is computed again with the next result. No more results follow.
    await asyncio.to_thread(make_due_for_scoring, on.engine, world.server_ids)
    await come_to_rest(on)
    return await asyncio.to_thread(partial(_check, on, records, tree))


def _check(on: Stage, records: list[Path], tree: Tree) -> Checked:
    with reading(on.engine) as connection:
        attempts = read_attempts(connection, *records)
    found = check(on.engine, attempts=attempts, tree=tree, env=ENV)
    for line in lines(found.differences):
        say(line)
    return found
