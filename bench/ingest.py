"""Measure how many results per second ingest commits, scores and acknowledges, from the broker to the acks.

The pool has its full size, and its monitors send as much as is acknowledged, in batches of ten. The same run alternates
ingest with a writer that handles one result at a time, and with plain inserts of the same rows: other load on the
machine affects all three alike.
"""

import argparse
import asyncio
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy.engine import Engine

from bench import writers
from bench.figure import Figure, median, report
from bench.measure import (
    Window,
    answers,
    checked,
    come_to_rest,
    differences,
    latencies,
    load_for,
    load_spec,
    machine_load,
    rate,
)
from bench.progress import say
from bench.stage import Stage, migrated, run, stage
from bench.world import World, fill, paced
from runtime.db.engine import open_database
from testbed.checker.check import Checked, read_before
from testbed.database import DatabaseServer
from testbed.load.record import Sent, read_lines

LEAST_RATIO = 5.0
"""Minimum ratio to the row-at-a-time writer, in the same run."""

LEAST_SHARE = 0.20
"""Minimum share of plain inserts of the same rows, in the same run: speeds of similar machines differ by a factor of
two, ratios hardly at all."""

_BATCH = 10
_AHEAD = 9_000.0
"""Batches to make before the load begins, as a rate in results per second, so that it makes none while it is
measured."""

_PACE = 6_000.0
"""Results per second that the assignments allow, so that the rate limit slows no monitor."""

_MOST_AHEAD = 30_000
"""Maximum number of batches made ahead by all monitors together: 120 MB, made in some seconds."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round's measurements, in results per second."""

    window: Window
    ingest: float
    rows: float
    inserts: float
    latency: dict[str, float]
    scored_after: float
    checked: Checked


def main() -> int:
    """Measure and print the figures."""
    arguments = argparse.ArgumentParser(prog="scripts/bench ingest", description=__doc__)
    arguments.add_argument("--seconds", type=float, default=10.0, help="of ingest in one round; the others take half")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument(
        "--warm-up", type=float, default=20.0, help="time until ingest has looked up monitors and rate limits"
    )
    arguments.add_argument("--servers", type=int, default=5_000)
    arguments.add_argument("--monitors", type=int, default=60)
    arguments.add_argument("--alone", action="store_true", help="without a running scorer; it runs afterwards")
    arguments.add_argument("--outstanding", type=int, default=300, help="constant number of unacknowledged batches")
    given = arguments.parse_args()
    return run(partial(_measure, given))


async def _measure(given: argparse.Namespace, database: DatabaseServer) -> int:
    world = paced(World(servers=given.servers, monitors=given.monitors), _PACE)
    async with stage(database) as on:
        say("filling two ledgers")
        # The other writers have a separate ledger, so that ingest's can be checked.
        others = open_database(await asyncio.to_thread(migrated, database, "others"))
        try:
            for engine in (on.engine, others):
                await asyncio.to_thread(fill, engine, world)
            await on.start_worker("ingest")
            if not given.alone:
                await on.start_worker("scorer")
            rounds = [await _round(on, others, world, given, number) for number in range(given.rounds)]
        finally:
            others.dispose()
    return report(*_figures(given, rounds))


async def _round(on: Stage, others: Engine, world: World, given: argparse.Namespace, number: int) -> Round:
    say(f"round {number + 1} of {given.rounds}")
    record = on.site.directory / f"record-{number}"
    before = await on.read(read_before)
    ahead = round(min((given.warm_up + given.seconds) * _AHEAD / _BATCH, _MOST_AHEAD) / given.monitors)
    spec = load_spec(on, world.members(), record, outstanding=given.outstanding, ahead=ahead, batch=_BATCH, seed=number)
    window = await load_for(on, spec, given.warm_up, given.seconds)
    scored_after = await _scored(on, given)
    sent = _sent(record)
    half = given.seconds / 2
    rows = await asyncio.to_thread(writers.row_at_a_time, others, sent, half)
    inserts = await asyncio.to_thread(writers.multi_row, others, sent, half)
    found = answers(record, window)
    return Round(
        window, rate(found, window), rows, inserts, latencies(found), scored_after, await checked(on, record, before)
    )


async def _scored(on: Stage, given: argparse.Namespace) -> float:
    """Return the seconds until every server had its score."""
    if not given.alone:
        return await come_to_rest(on)
    scorer = await on.start_worker("scorer")
    seconds = await come_to_rest(on)
    await on.supervisor.stop([scorer])
    return seconds


def _sent(record: Path) -> list[Sent]:
    return [line for line in read_lines(record) if isinstance(line, Sent)]


def _figures(given: argparse.Namespace, rounds: list[Round]) -> list[Figure]:
    conditions = {
        "servers": given.servers,
        "monitors": given.monitors,
        "batch": _BATCH,
        "outstanding": given.outstanding,
        "beside_a_scorer": not given.alone,
        "rounds": [round(one.ingest) for one in rounds],
        "cores": rounds[-1].window.cores,
        "latency": rounds[-1].latency,
        "all_scored_after_s": [round(one.scored_after, 1) for one in rounds],
        **machine_load(),
    }
    rows = median([one.rows for one in rounds])
    inserts = median([one.inserts for one in rounds])
    ratio = median([one.ingest / one.rows for one in rounds])
    share = median([one.ingest / one.inserts for one in rounds])
    return [
        Figure("ingest", median([one.ingest for one in rounds]), "results/s", conditions=conditions),
        Figure("ingest, row at a time", rows, "results/s", conditions={"statements_per_result": 5}),
        Figure("ingest against row at a time", ratio, "ratio", at_least=LEAST_RATIO),
        Figure("ingest, plain multi-row inserts", inserts, "rows/s", conditions={"rows_per_statement": writers.ROWS}),
        Figure("ingest against plain multi-row inserts", share, "ratio", at_least=LEAST_SHARE),
        differences("ingest, differences", (one.checked for one in rounds)),
    ]


if __name__ == "__main__":
    sys.exit(main())
