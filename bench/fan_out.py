"""How long it takes from the commit of a decision until the agent has it, with 500 connected agents.

A real selector fills servers that have only candidates at first. The agents are simulated, each with a connection of
its own. The commit is taken to be the last look at the ledger that did not see the decision yet, so the times are never
too short, and too long by one look at most.
"""

import argparse
import asyncio
import json
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from auth.tokens import Role, token_source
from bench.figure import Figure, percentile, report
from bench.history import add_history
from bench.load.record import Told, read_lines
from bench.load.spec import Member
from bench.measure import load_spec, machine_load
from bench.progress import pass_time, say
from bench.stage import CannotRun, Stage, run, shares, stage
from bench.world import ENV, World, fill, monitor_name
from ops.checker.assignments import compare_assignments, read_tree
from ops.checker.difference import Difference
from ops.local_database import MariaDb
from runtime.broker import BrokerSession, Identity
from runtime.database import reading, utc_now
from runtime.pool_settings import Intervals, PoolSettingsReader
from schema.tables import assignment_changes, servers_monitor_review, system_settings
from schema.topics import Topics

AT_MOST: Final = 0.1
FEWEST: Final = 300
"""Decisions that a 99th percentile can be taken of."""

REVIEW: Final = 4.0
"""Seconds between two reviews of a server."""

_LOOK_EVERY: Final = 0.003
_PAST: Final = Intervals(interval_candidate=45 * 60.0)
"""More than 24 results in a day, as a monitor needs to become active."""

_SETTLE: Final = 5.0


@dataclass(frozen=True, slots=True)
class Decision:
    """A monitor was moved on a server; committed between two looks at the ledger (Unix time)."""

    server_id: int
    monitor_id: int
    status: str
    after: float
    seen: float


@dataclass(slots=True)
class Decisions:
    """Looks for new decisions again and again, in a thread."""

    engine: Engine
    found: list[Decision] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Looks until ``stop`` is set."""
        changes, last_id = assignment_changes.c, 0
        query = sa.select(changes.id, changes.server_id, changes.monitor_id, changes.after_status)
        with reading(self.engine) as connection:
            before = time.time()
            while not self.stop.wait(_LOOK_EVERY):
                now = time.time()
                rows = connection.execute(query.where(changes.id > last_id).order_by(changes.id)).all()
                seen = time.time()
                for row in rows:
                    last_id = row.id
                    self.found.append(Decision(row.server_id, row.monitor_id, row.after_status, before, seen))
                self.looks.append(now - before)
                # The query may have begun before a commit that it does not show.
                before = now


def main() -> int:
    """Prints the figures."""
    arguments = argparse.ArgumentParser(prog="scripts/bench fan_out", description=__doc__)
    arguments.add_argument("--seconds", type=float, default=30.0)
    arguments.add_argument("--agents", type=int, default=500)
    arguments.add_argument("--servers", type=int, default=60)
    arguments.add_argument("--rate", type=float, default=100.0, help="results a second of all agents, meanwhile")
    given = arguments.parse_args()
    return run(partial(_measure, given))


async def _measure(given: argparse.Namespace, database: MariaDb) -> int:
    world = World(servers=given.servers, monitors=given.agents, active=0, testing=0)
    async with stage(database) as on:
        say("filling the ledger")
        await asyncio.to_thread(_prepare, on.engine, world)
        for name in ("ingest", "scorer", "selector"):
            await on.start_worker(name)
        record = on.site.directory / "record"
        members = [Member(name=monitor_name(monitor_id)) for monitor_id in world.monitor_ids]
        seconds = 60.0 + given.seconds + _SETTLE
        load = await on.start_load(load_spec(on, members, record, listen=True, rate=given.rate, seconds=seconds))
        say("waiting until all agents hold their first assignments")
        await on.until(partial(_all_told, record, world), "first assignments of all agents", 60.0, every=1.0)
        decisions, cores = await _decide(on, world, given.seconds)
        found = await _compare_with_retained(on)
        await on.supervisor.stop([load])
        times = _times(decisions.found, record)
    return report(*_figures(given, decisions, times, found, cores))


def _prepare(engine: Engine, world: World) -> None:
    fill(engine, world)
    add_history(engine, 24, _PAST)
    later = utc_now() + timedelta(days=1)
    with engine.begin() as connection:
        rows = [{"server_id": server_id, "next_review": later} for server_id in world.server_ids]
        connection.execute(sa.insert(servers_monitor_review), rows)
        value = json.dumps({"review_changed": REVIEW, "review_unchanged": REVIEW})
        row = {"key": "selector", "value": value, "created_on": utc_now()}
        connection.execute(sa.insert(system_settings).values(row))


async def _all_told(record: Path, world: World) -> bool:
    held = defaultdict(set)
    for line in _told(record):
        held[line.monitor].add(line.server_id)
    return len(held) == world.monitors and all(len(servers) == world.servers for servers in held.values())


def _told(record: Path) -> Iterable[Told]:
    return (line for line in read_lines(record) if isinstance(line, Told))


async def _decide(on: Stage, world: World, seconds: float) -> tuple[Decisions, dict[str, float]]:
    """Makes all servers due, one after the other, and watches for so long what is decided."""
    decisions = Decisions(on.engine)
    watching = asyncio.create_task(asyncio.to_thread(decisions.run))
    try:
        await asyncio.to_thread(_make_due, on.engine, world)
        before, began = on.cpu_seconds(), time.monotonic()
        await pass_time("watching decisions", seconds)
        cores = shares(before, on.cpu_seconds(), time.monotonic() - began)
        await asyncio.to_thread(_end_reviews, on.engine)
        await asyncio.sleep(_SETTLE)
    finally:
        decisions.stop.set()
        await watching
    return decisions, cores


def _make_due(engine: Engine, world: World) -> None:
    """Spread over the time between two reviews, as they are when a pool has run for long."""
    now, review = utc_now(), servers_monitor_review
    with engine.begin() as connection:
        for number, server_id in enumerate(world.server_ids):
            due = now + timedelta(seconds=REVIEW * number / world.servers)
            connection.execute(sa.update(review).where(review.c.server_id == server_id).values(next_review=due))


def _end_reviews(engine: Engine) -> None:
    """No server is due any more; reviews that are under way make theirs due once more."""
    with engine.begin() as connection:
        connection.execute(sa.delete(system_settings).where(system_settings.c.key == "selector"))
        later = utc_now() + timedelta(days=1)
        connection.execute(sa.update(servers_monitor_review).values(next_review=later))


async def _compare_with_retained(on: Stage) -> list[Difference]:
    name, topics = "fan-out", Topics(ENV)
    session = BrokerSession(
        on.site.broker_address, Identity(name, name), token_source(on.site.key, Role.SERVER, name, ENV)
    )
    running = asyncio.create_task(session.run())
    try:
        await session.wait_ready()
        tree = await read_tree(session, topics)
    finally:
        running.cancel()
        await asyncio.wait({running})
    intervals: Intervals = await asyncio.to_thread(lambda: PoolSettingsReader(on.engine).get().monitors)

    def compare(connection: Connection) -> list[Difference]:
        return compare_assignments(connection, tree, topics, intervals)

    return await on.read(compare)


def _times(decisions: Iterable[Decision], record: Path) -> list[float]:
    """Seconds from each decision until its agent had it.

    Raises:
        CannotRun: an agent was never told.
    """
    arrivals: defaultdict[tuple[str, int], deque[Told]] = defaultdict(deque)
    for line in _told(record):
        arrivals[line.monitor, line.server_id].append(line)
    times = []
    for decision in decisions:
        told = arrivals[monitor_name(decision.monitor_id), decision.server_id]
        while told and (told[0].at / 1e9 < decision.after or told[0].status != decision.status):
            told.popleft()
        if not told:
            raise CannotRun(f"{decision} never reached its agent")
        times.append(told.popleft().at / 1e9 - decision.after)
    return times


def _figures(
    given: argparse.Namespace,
    decisions: Decisions,
    times: list[float],
    found: list[Difference],
    cores: dict[str, float],
) -> list[Figure]:
    if len(times) < FEWEST:
        raise CannotRun(f"only {len(times)} decisions were made; {FEWEST} are needed: more --seconds or --servers")
    conditions = {
        "agents": given.agents,
        "servers": given.servers,
        "decisions": len(times),
        "rate": given.rate,
        "p50_ms": round(percentile(times, 50) * 1e3, 1),
        "max_ms": round(max(times) * 1e3, 1),
        # What a look at the ledger adds to a time, at most, is counted in it.
        "looked_every_ms": round(percentile(decisions.looks, 50) * 1e3, 1),
        "cores": cores,
        **machine_load(),
    }
    first = {"first": [str(one) for one in found[:3]]} if found else {}
    return [
        Figure("fan-out, p99 from commit to agent", percentile(times, 99), "s", at_most=AT_MOST, conditions=conditions),
        Figure("fan-out, differences", len(found), "differences", at_most=0, conditions=first),
    ]


if __name__ == "__main__":
    sys.exit(main())
