"""Measure scorers, selectors and APIs alone, with the log of a day.

Scorers and selectors take their work from the database. All servers are made due, and the time is measured from the
first server that is done to the last one: workers look for work only every fifth of a second, or every second.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from bench.api_stage import add_keys, api_command, prepare_files
from bench.figure import Figure
from bench.history import add_history
from bench.progress import say
from bench.scale.api_load import ask_repeatedly
from bench.scale.plan import Busy, Plan, make_due_for_scoring, published_tree, start_workers
from bench.stage import Stage
from bench.world import ENV, World, fill
from runtime.db.engine import utc_now
from runtime.db.queue import REVIEWS, SCORING, WorkQueue
from runtime.db.system_settings import Intervals, PoolSettingsReader
from schema.topics import Topics
from selector.triggers import make_due
from testbed.checker.assignments import compare_assignments
from testbed.ports import free_port
from testbed.site import API, API_READY

_PAST: Final = Intervals(interval_candidate=45 * 60.0)
"""More than the 24 results per day that a monitor needs to become active."""

_HOURS: Final = 24
_LOOK_EVERY: Final = 0.02
_DRAINED_WITHIN: Final = 300.0
_CONNECTIONS: Final = 8
"""Of clients, for each process of the API."""

_PRESENCE: Final = sa.text(
    "INSERT INTO `monitor_presence` (`tls_name`, `online`, `since`, `seen`, `status`) "
    "SELECT `tls_name`, 1, UTC_TIMESTAMP(), UTC_TIMESTAMP() + INTERVAL 1 HOUR, '{}' FROM `monitors`"
)


async def queue_phases(on: Stage, plan: Plan) -> list[Figure]:
    """Measure, and return the figures."""
    say("filling the ledger")
    world = World(servers=plan.servers, monitors=plan.monitors, active=0, testing=0)
    await asyncio.to_thread(_prepare, on.engine, world)
    return [
        await _scorers(on, plan, world),
        *await _selectors(on, plan),
        await _apis(on, plan, world),
    ]


def _prepare(engine: Engine, world: World) -> None:
    fill(engine, world)
    add_history(engine, _HOURS, _PAST)
    with engine.begin() as connection:
        connection.execute(_PRESENCE)


async def _scorers(on: Stage, plan: Plan, world: World) -> Figure:
    names = await start_workers(on, "scorer", plan.workers)
    all_due = partial(make_due_for_scoring, on.engine, world.server_ids)
    figure = await _drained(on, plan, "scorer", "servers/s", SCORING, all_due)
    await on.stop(*names)
    return figure


async def _selectors(on: Stage, plan: Plan) -> list[Figure]:
    """The first reviews give each server its monitors; later ones find nothing to change."""
    names = await start_workers(on, "selector", plan.workers)
    figure = await _drained(on, plan, "selector", "reviews/s", REVIEWS, lambda: make_due(on.engine, None, _now()))
    tree = await published_tree(on)
    await on.stop(*names)
    intervals = PoolSettingsReader(on.engine).get().monitors
    found = await on.read(partial(compare_assignments, tree=tree, topics=Topics(ENV), intervals=intervals))
    name = f"assignments that differ, {plan.workers} of each kind"
    first = {"first": [str(one) for one in found[:3]]} if found else {}
    return [figure, Figure(name, len(found), "differences", at_most=0, conditions={"published": len(tree), **first})]


def _now() -> datetime:
    return datetime.now(UTC)


async def _drained(
    on: Stage, plan: Plan, name: str, unit: str, queue: WorkQueue, fill_queue: Callable[[], object]
) -> Figure:
    """Make all servers due and wait until none is, repeatedly; return the rate."""
    done, spent, rounds = 0, 0.0, 0
    busy = Busy(on)
    while spent < plan.seconds:
        await asyncio.to_thread(fill_queue)
        count, seconds = await _drain(on, queue)
        done, spent, rounds = done + count, spent + seconds, rounds + 1
    return plan.figure(name, done / spent, unit, busy.cores(), rounds=rounds)


async def _drain(on: Stage, queue: WorkQueue) -> tuple[int, float]:
    """Return how many servers were done after the first ones, and in how many seconds."""

    async def due() -> int:
        return await on.read(lambda connection: queue.backlog(connection, utc_now()).due)

    all_due = await due()
    deadline = time.monotonic() + _DRAINED_WITHIN
    while (first := await due()) == all_due and time.monotonic() < deadline:
        on.check()
        await asyncio.sleep(_LOOK_EVERY)
    began = time.monotonic()

    async def empty() -> bool:
        return not await due()

    await on.until(empty, "the end of the work", _DRAINED_WITHIN, every=_LOOK_EVERY)
    return first, time.monotonic() - began


async def _apis(on: Stage, plan: Plan, world: World) -> Figure:
    trusted = prepare_files(on.site.directory)
    keys = await asyncio.to_thread(add_keys, on, world.monitor_ids)
    ports = [free_port() for _ in range(plan.workers)]
    for number, port in enumerate(ports, start=1):
        await on.start_process(api_command(on, f"{API}-{number}", port), API_READY)
    busy, ours = Busy(on), time.process_time()
    asked = await ask_repeatedly(ports, keys, trusted, plan.seconds, _CONNECTIONS)
    cores = busy.cores() | {"clients": round((time.process_time() - ours) / plan.seconds, 2)}
    return plan.figure("API", asked.answered / plan.seconds, "requests/s", cores, failed=asked.failed)
