"""Run an hour of the whole pool's traffic in a few minutes, on a ledger with the previous day's results.

150 monitors measure 5 000 servers ten times as often as in the real pool, with ingest and a scorer. The only bounds are
that nothing is lost, duplicated or wrong, and that the acks keep up.
"""

import argparse
import sys
from functools import partial

from bench.figure import Figure, percentile, report
from bench.measure import differences, latencies, machine_load, rate, run_paced
from bench.stage import run
from bench.world import World
from testbed.database import DatabaseServer


def main() -> int:
    """Measure and print the figures."""
    arguments = argparse.ArgumentParser(prog="scripts/bench replay", description=__doc__)
    arguments.add_argument("--minutes", type=float, default=60.0, metavar="N", help="minutes of the real pool")
    arguments.add_argument("--speed", type=float, default=10.0, help="ratio to the speed of the real pool")
    arguments.add_argument("--servers", type=int, default=5_000)
    arguments.add_argument("--monitors", type=int, default=150)
    arguments.add_argument(
        "--history", type=int, default=24, metavar="HOURS", help="hours of the real pool's log at the start"
    )
    given = arguments.parse_args()
    return run(partial(_measure, given), buffer_pool="4G")


async def _measure(given: argparse.Namespace, database: DatabaseServer) -> int:
    world = World(servers=given.servers, monitors=given.monitors, speed=given.speed)
    seconds = given.minutes * 60 / given.speed
    ran = await run_paced(
        database, world, rate=world.pace, history=given.history, warm_up=min(5.0, seconds / 2), seconds=seconds
    )
    conditions = {
        "servers": given.servers,
        "monitors": given.monitors,
        "log_rows_before": ran.rows_before,
        "minutes": given.minutes,
        "speed": given.speed,
        "offered": round(world.pace),
        **latencies(ran.answers),
        "all_scored_after_s": round(ran.rest_after, 1),
        "cores": ran.window.cores,
        **machine_load(),
    }
    p99 = percentile([answer.after for answer in ran.answers], 99)
    return report(
        Figure("replay", rate(ran.answers, ran.window), "results/s", conditions=conditions),
        Figure("replay, p99 from publish to ack", p99, "s"),
        differences("replay, differences", [ran.checked]),
    )


if __name__ == "__main__":
    sys.exit(main())
