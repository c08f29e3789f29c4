"""Measure the time from the publish of a batch to its acknowledgement, at 1 000 results per second.

The pool has its full size, and a scorer runs alongside ingest. The time begins when the batch is passed to the agent's
sender, so it includes waiting for other batches there.
"""

import argparse
import sys
from functools import partial

from bench.figure import Figure, percentile, report
from bench.measure import differences, latencies, machine_load, rate, run_paced
from bench.stage import run
from bench.world import World, paced
from testbed.database import DatabaseServer

AT_MOST = 0.25


def main() -> int:
    """Measure and print the figures."""
    arguments = argparse.ArgumentParser(prog="scripts/bench ingest_latency", description=__doc__)
    arguments.add_argument("--seconds", type=float, default=30.0)
    arguments.add_argument("--warm-up", type=float, default=5.0)
    arguments.add_argument("--rate", type=float, default=1_000.0, help="results per second")
    arguments.add_argument("--servers", type=int, default=5_000)
    arguments.add_argument("--monitors", type=int, default=60)
    arguments.add_argument(
        "--history", type=int, default=0, metavar="HOURS", help="hours of the real pool's log at the start"
    )
    given = arguments.parse_args()
    return run(partial(_measure, given))


async def _measure(given: argparse.Namespace, database: DatabaseServer) -> int:
    world = paced(World(servers=given.servers, monitors=given.monitors), given.rate)
    ran = await run_paced(
        database, world, rate=given.rate, history=given.history, warm_up=given.warm_up, seconds=given.seconds
    )
    conditions = {
        "rate": round(rate(ran.answers, ran.window)),
        "batch": 10,
        "servers": given.servers,
        "monitors": given.monitors,
        "log_rows_before": ran.rows_before,
        "seconds": given.seconds,
        **latencies(ran.answers),
        "cores": ran.window.cores,
        **machine_load(),
    }
    p99 = percentile([answer.after for answer in ran.answers], 99)
    return report(
        Figure("ingest latency, p99 from publish to ack", p99, "s", at_most=AT_MOST, conditions=conditions),
        differences("ingest latency, differences", [ran.checked]),
    )


if __name__ == "__main__":
    sys.exit(main())
