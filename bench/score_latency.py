"""Measure the time from the publish of a result until the server's score includes it, at 1 000 results per second.

The pool has its full size; ingest and a scorer run as in production. Additional marker servers are watched in the
ledger.
"""

import argparse
import asyncio
import sys
from functools import partial

from bench.figure import Figure, percentile, report
from bench.history import add_history
from bench.markers import MARKERS, Watch, Watched, add_markers
from bench.measure import checked, come_to_rest, differences, load_for, load_spec, machine_load
from bench.progress import say
from bench.stage import run, stage
from bench.world import World, fill, paced
from testbed.checker.check import read_before
from testbed.database import DatabaseServer
from testbed.load.record import Record
from testbed.stack import CannotRun

AT_MOST = 1.0


def main() -> int:
    """Measure and print the figures."""
    arguments = argparse.ArgumentParser(prog="scripts/bench score_latency", description=__doc__)
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
    async with stage(database) as on:
        say("filling the ledger")
        await asyncio.to_thread(fill, on.engine, world)
        rows = await asyncio.to_thread(add_history, on.engine, given.history) if given.history else 0
        targets = await asyncio.to_thread(add_markers, on.engine, given.monitors + 1)
        before = await on.read(read_before)
        await on.start_worker("ingest")
        await on.start_worker("scorer")
        own, record = on.site.directory / "markers", on.site.directory / "record"
        spec = load_spec(on, world.members(), record, rate=given.rate)
        with Record(own) as writing:
            watch = Watch(on.engine, on.site.broker_address, on.site.key, writing, given.monitors + 1, targets)
            window, found = await asyncio.gather(
                load_for(on, spec, given.warm_up, given.seconds), _watch(watch, given.warm_up, given.seconds)
            )
        await come_to_rest(on)
        checks = [await checked(on, record, before), await checked(on, own, before)]
    if found.missing or not found.latencies:
        raise CannotRun(f"{found.missing} of {len(found.latencies) + found.missing} results never appeared in a score")
    return report(*_figures(given, rows, found, window.cores), differences("score latency, differences", checks))


async def _watch(watch: Watch, warm_up: float, seconds: float) -> Watched:
    await asyncio.sleep(warm_up)
    return await watch.run(seconds)


def _figures(given: argparse.Namespace, rows: int, found: Watched, cores: dict[str, float]) -> list[Figure]:
    in_ms = [latency * 1e3 for latency in found.latencies]
    conditions = {
        "rate": given.rate,
        "batch": 10,
        "servers": given.servers,
        "servers_watched": MARKERS,
        "monitors": given.monitors,
        "log_rows_before": rows,
        "results": len(in_ms),
        "p50_ms": round(percentile(in_ms, 50), 1),
        "max_ms": round(max(in_ms), 1),
        # The times include the interval between two polls of the ledger.
        "looked_every_ms": round(percentile(found.looks, 50) * 1e3, 1),
        "cores": cores,
        **machine_load(),
    }
    p99 = percentile(found.latencies, 99)
    name = "score latency, p99 from publish to servers.score_raw"
    return [Figure(name, p99, "s", at_most=AT_MOST, conditions=conditions)]


if __name__ == "__main__":
    sys.exit(main())
