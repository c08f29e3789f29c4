"""Measure what a Galera cluster costs ingest: the same load on one MariaDB, and on three nodes of the same machine.

On the cluster, ingest runs on one node, then on two nodes at once, where transactions with the same servers conflict.
The variants alternate, so that other load on the machine affects all alike. Three nodes on one machine share its
processors, which three hosts would not.
"""

import argparse
import asyncio
import sys
from dataclasses import dataclass, field

from sqlalchemy.engine import URL

from bench.figure import Figure, median, report
from bench.measure import Window, answers, checked, come_to_rest, differences, load_for, load_spec, machine_load, rate
from bench.progress import say
from bench.stage import REDO_LOG, Stage, end_by_unwinding, stage
from bench.world import World, fill, paced
from runtime.db.dsn import servers_of
from testbed.checker.check import Checked, read_before
from testbed.database import DatabaseServer, temporary_database
from testbed.galera import GaleraCluster, several, temporary_cluster
from testbed.stack import CannotRun

_BATCH = 10
_PACE = 6_000.0
"""Results per second that the assignments allow."""


@dataclass(slots=True)
class Variant:
    """A way to run ingest, and the results per second that it stored in each round."""

    name: str
    on: Stage
    workers: tuple[int, ...]
    """The nodes with an ingest worker, from 0."""
    rates: list[float] = field(default_factory=list)
    cores: dict[str, float] = field(default_factory=dict)


def main() -> int:
    """Measure and print the figures."""
    arguments = argparse.ArgumentParser(prog="scripts/bench galera", description=__doc__)
    arguments.add_argument("--seconds", type=float, default=10.0)
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--warm-up", type=float, default=10.0)
    arguments.add_argument("--servers", type=int, default=2_000)
    arguments.add_argument("--monitors", type=int, default=60)
    arguments.add_argument("--outstanding", type=int, default=300, help="constant number of unacknowledged batches")
    given = arguments.parse_args()
    end_by_unwinding()
    try:
        with (
            temporary_database(buffer_pool="512M", redo_log=REDO_LOG) as single,
            temporary_cluster(buffer_pool="512M", redo_log=REDO_LOG) as cluster,
        ):
            return asyncio.run(_measure(given, single, cluster))
    except KeyboardInterrupt:
        return 130
    except (CannotRun, FileNotFoundError, RuntimeError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2


async def _measure(given: argparse.Namespace, single: DatabaseServer, cluster: GaleraCluster) -> int:
    world = paced(World(servers=given.servers, monitors=given.monitors), _PACE)
    async with stage(single) as alone, stage(cluster) as three:
        say("filling two ledgers")
        for on in (alone, three):
            await asyncio.to_thread(fill, on.engine, world)
            await on.start_worker("scorer")
        variants = [
            Variant("one server", alone, (0,)),
            Variant("three nodes", three, (0,)),
            Variant("three nodes, ingest on two", three, (0, 1)),
        ]
        found = [
            await _round(variant, world, given, number * len(variants) + place)
            for number in range(given.rounds)
            for place, variant in enumerate(variants)
        ]
    return report(*_figures(given, variants), differences("ingest, differences", found))


async def _round(variant: Variant, world: World, given: argparse.Namespace, number: int) -> Checked:
    say(f"round {number + 1}: {variant.name}")
    on = variant.on
    names = [
        await on.start_worker("ingest", number=10 * number + node + 2, ledger=_beginning(on, node))
        for node in variant.workers
    ]
    record = on.site.directory / f"record-{number}"
    before = await on.read(read_before)
    spec = load_spec(on, world.members(), record, outstanding=given.outstanding, batch=_BATCH, seed=number)
    window = await load_for(on, spec, given.warm_up, given.seconds)
    await come_to_rest(on)
    _note(variant, window, rate(answers(record, window), window))
    await on.stop(*names)
    return await checked(on, record, before)


def _beginning(on: Stage, node: int) -> URL:
    servers = servers_of(on.site.database)
    return several([*servers[node:], *servers[:node]])


def _note(variant: Variant, window: Window, stored: float) -> None:
    variant.rates.append(stored)
    variant.cores = window.cores


def _figures(given: argparse.Namespace, variants: list[Variant]) -> list[Figure]:
    conditions = {"servers": given.servers, "monitors": given.monitors, "batch": _BATCH, **machine_load()}
    alone = variants[0].rates
    figures = []
    for variant in variants:
        of = {**conditions, "rounds": [round(one) for one in variant.rates], "cores": variant.cores}
        figures.append(Figure(f"ingest, {variant.name}", median(variant.rates), "results/s", conditions=of))
        ratio = median([one / other for one, other in zip(variant.rates, alone, strict=True)])
        figures.append(Figure(f"ingest, {variant.name}, against one server", ratio, "ratio"))
    return figures


if __name__ == "__main__":
    sys.exit(main())
