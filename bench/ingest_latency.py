"""How long a monitor waits for the acknowledgement of a batch: from its publish to the ack, at 1 000 results a second.

The pool has its full size, and a scorer runs beside ingest. A batch counts from the moment in which it is handed to
the agent's outbox, so what it waits there for others counts too.
"""

import argparse
import asyncio
import sys
from functools import partial

from bench.figure import Figure, percentile, report
from bench.history import add_history
from bench.measure import (
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
from bench.stage import run, say, stage
from bench.world import World, fill, paced
from ops.checker.check import read_before
from ops.local_database import MariaDb

AT_MOST = 0.25


def main() -> int:
    """Prints the figures."""
    arguments = argparse.ArgumentParser(prog="scripts/bench ingest_latency", description=__doc__)
    arguments.add_argument("--seconds", type=float, default=30.0)
    arguments.add_argument("--warm-up", type=float, default=5.0)
    arguments.add_argument("--rate", type=float, default=1_000.0, help="results a second")
    arguments.add_argument("--servers", type=int, default=5_000)
    arguments.add_argument("--monitors", type=int, default=60)
    arguments.add_argument("--history", type=int, default=0, metavar="HOURS", help="log rows of the real pool before")
    given = arguments.parse_args()
    return run(partial(_measure, given))


async def _measure(given: argparse.Namespace, database: MariaDb) -> int:
    world = paced(World(servers=given.servers, monitors=given.monitors), given.rate)
    async with stage(database) as on:
        say("filling the ledger")
        await asyncio.to_thread(fill, on.engine, world)
        rows = await asyncio.to_thread(add_history, on.engine, given.history) if given.history else 0
        before = await on.read(read_before)
        await on.start_worker("ingest")
        await on.start_worker("scorer")
        record = on.site.directory / "record"
        window = await load_for(
            on, load_spec(on, world.members(), record, rate=given.rate), given.warm_up, given.seconds
        )
        await come_to_rest(on)
        found = answers(record, window)
        check = await checked(on, record, before)
    conditions = {
        "rate": round(rate(found, window)),
        "batch": 10,
        "servers": given.servers,
        "monitors": given.monitors,
        "log_rows_before": rows,
        "seconds": given.seconds,
        **latencies(found),
        "cores": window.cores,
        **machine_load(),
    }
    p99 = percentile([answer.after for answer in found], 99)
    return report(
        Figure("ingest latency, p99 from publish to ack", p99, "s", at_most=AT_MOST, conditions=conditions),
        differences("ingest latency, differences", [check]),
    )


if __name__ == "__main__":
    sys.exit(main())
