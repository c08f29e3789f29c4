"""Measure the time from the commit of a decision until its agent receives it, with 500 connected agents.

A real selector fills servers that initially have only candidates. The agents are simulated, each with a separate
connection. The assumed commit time is that of the last poll of the ledger without the decision, so the times are never
too short, and too long by one poll at most.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from auth.tokens import Role, token_source
from bench.decisions import Decisions, received, times
from bench.figure import Figure, percentile, report
from bench.history import add_history
from bench.measure import load_spec, machine_load
from bench.progress import pass_time, say
from bench.stage import Stage, run, shares, stage
from bench.world import World, fill, monitor_name
from runtime.db.engine import utc_now
from runtime.db.system_settings import Intervals, PoolSettingsReader
from schema.tables import servers_monitor_review, system_settings
from testbed.checker.assignments import compare_assignments, read_tree
from testbed.checker.difference import Difference
from testbed.database import DatabaseServer
from testbed.load.spec import Member
from testbed.operator import Operator
from testbed.stack import CannotRun
from testbed.world import ENV

AT_MOST: Final = 0.1
FEWEST: Final = 300
"""Minimum number of decisions for a 99th percentile."""

REVIEW: Final = 4.0
"""Seconds between two reviews of a server."""

_PAST: Final = Intervals(interval_candidate=45 * 60.0)
"""More than the 24 results per day that a monitor needs to become active."""

_LAST: Final = 2.0
_OPERATOR: Final = "fan-out"
_SETTLE_WITHIN: Final = 10.0


def main() -> int:
    """Measure and print the figures."""
    arguments = argparse.ArgumentParser(prog="scripts/bench fan_out", description=__doc__)
    arguments.add_argument("--seconds", type=float, default=30.0)
    arguments.add_argument("--agents", type=int, default=500)
    arguments.add_argument("--servers", type=int, default=60)
    arguments.add_argument("--rate", type=float, default=100.0, help="results per second of all agents, meanwhile")
    given = arguments.parse_args()
    return run(partial(_measure, given))


async def _measure(given: argparse.Namespace, database: DatabaseServer) -> int:
    world = World(servers=given.servers, monitors=given.agents, active=0, testing=0)
    async with stage(database) as on:
        say("filling the ledger")
        await asyncio.to_thread(_prepare, on.engine, world)
        for name in ("ingest", "scorer", "selector"):
            await on.start_worker(name)
        async with _operator(on) as operator:
            await _command(operator, "pause")
            record = on.site.directory / "record"
            members = [Member(name=monitor_name(monitor_id)) for monitor_id in world.monitor_ids]
            load = await on.start_load(load_spec(on, members, record, listen=True, rate=given.rate))
            say("waiting until all agents hold their first assignments")
            await on.until(partial(_all_told, record, world), "first assignments of all agents", 60.0, every=1.0)
            decisions, cores = await _decide(on, world, given.seconds, operator)
            found = await _differences(on, operator)
        await on.supervisor.stop([load])
        seconds = times(decisions.found, record)
    return report(*_figures(given, decisions, seconds, found, cores))


def _prepare(engine: Engine, world: World) -> None:
    fill(engine, world)
    add_history(engine, 24, _PAST)
    # The selector is paused by then. It would reschedule reviews that are much further away, as errors of a clock.
    later = utc_now() + timedelta(seconds=60)
    with engine.begin() as connection:
        rows = [{"server_id": server_id, "next_review": later} for server_id in world.server_ids]
        connection.execute(sa.insert(servers_monitor_review), rows)
        value = json.dumps({"review_changed": REVIEW, "review_unchanged": REVIEW})
        row = {"key": "selector", "value": value, "created_on": utc_now()}
        connection.execute(sa.insert(system_settings).values(row))


async def _all_told(record: Path, world: World) -> bool:
    held = defaultdict(set)
    for line in received(record):
        held[line.monitor].add(line.server_id)
    return len(held) == world.monitors and all(len(servers) == world.servers for servers in held.values())


async def _decide(on: Stage, world: World, seconds: float, operator: Operator) -> tuple[Decisions, dict[str, float]]:
    """Make all servers due, one after the other, and watch the decisions for this long."""
    decisions = Decisions(on.engine)
    watching = asyncio.create_task(asyncio.to_thread(decisions.run))
    try:
        await asyncio.to_thread(_make_due, on.engine, world)
        await _command(operator, "resume")
        before, began = on.cpu_seconds(), time.monotonic()
        await pass_time("watching decisions", seconds)
        cores = shares(before, on.cpu_seconds(), time.monotonic() - began)
        await _command(operator, "pause")
        # The last decisions are still in transit.
        await asyncio.sleep(_LAST)
    finally:
        decisions.stop.set()
        await watching
    return decisions, cores


def _make_due(engine: Engine, world: World) -> None:
    """Spread the servers over the time between two reviews, as in a pool that has run for long."""
    now, review = utc_now(), servers_monitor_review
    with engine.begin() as connection:
        for number, server_id in enumerate(world.server_ids):
            due = now + timedelta(seconds=REVIEW * number / world.servers)
            connection.execute(sa.update(review).where(review.c.server_id == server_id).values(next_review=due))


async def _command(operator: Operator, command: Literal["pause", "resume"]) -> None:
    if not await operator.service("selector", command):
        raise CannotRun(f"the selector did not {command}")


@asynccontextmanager
async def _operator(on: Stage) -> AsyncIterator[Operator]:
    """Yield a session that pauses and resumes the selector, and reads the retained messages."""
    token = token_source(on.site.key, Role.SERVER, _OPERATOR, ENV)
    operator = Operator(on.site.broker_address, _OPERATOR, token, ENV)
    async with operator.client.connected():
        yield operator


async def _differences(on: Stage, operator: Operator) -> list[Difference]:
    """Compare the retained assignments with the ledger, after repairs in progress."""
    intervals = (await asyncio.to_thread(PoolSettingsReader(on.engine).get)).monitors
    deadline = time.monotonic() + _SETTLE_WITHIN
    while True:
        tree = await read_tree(operator.session, operator.topics)
        found = await on.read(partial(compare_assignments, tree=tree, topics=operator.topics, intervals=intervals))
        if not found or time.monotonic() > deadline:
            return found


def _figures(
    given: argparse.Namespace,
    decisions: Decisions,
    seconds: list[float],
    found: list[Difference],
    cores: dict[str, float],
) -> list[Figure]:
    if len(seconds) < FEWEST:
        raise CannotRun(f"only {len(seconds)} decisions were made; {FEWEST} are needed: more --seconds or --servers")
    conditions = {
        "agents": given.agents,
        "servers": given.servers,
        "decisions": len(seconds),
        "rate": given.rate,
        "p50_ms": round(percentile(seconds, 50) * 1e3, 1),
        "max_ms": round(max(seconds) * 1e3, 1),
        # The times include the interval between two polls of the ledger.
        "looked_every_ms": round(percentile(decisions.looks, 50) * 1e3, 1),
        "cores": cores,
        **machine_load(),
    }
    first = {"first": [str(one) for one in found[:3]]} if found else {}
    return [
        Figure(
            "fan-out, p99 from commit to agent", percentile(seconds, 99), "s", at_most=AT_MOST, conditions=conditions
        ),
        Figure("fan-out, differences", len(found), "differences", at_most=0, conditions=first),
    ]


if __name__ == "__main__":
    sys.exit(main())
