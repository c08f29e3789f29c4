"""Measure how long the demo's hosts take from ``ntppool-agent setup`` to their first result in the ledger.

All hosts of a round begin at once. An operator's approval is part of the time, and here it takes a tenth of a second.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Final

from bench.figure import Figure, percentile, report
from bench.measure import machine_load
from bench.progress import say
from bench.stage import migrated, run
from testbed.database import DatabaseServer
from testbed.demo import ledger
from testbed.demo.system import System
from testbed.site import free_ntp_port, make_site
from testbed.world import make_world

AT_MOST: Final = 20.0
"""Seconds for each host."""

_SERVERS: Final = 12
_LOOK_EVERY: Final = 0.05
_GIVE_UP: Final = 120.0


def main() -> int:
    """Measure and print the figures."""
    arguments = argparse.ArgumentParser(prog="scripts/bench first_result", description=__doc__)
    arguments.add_argument("--agents", type=int, default=6)
    arguments.add_argument("--rounds", type=int, default=3)
    return run(partial(_measure, arguments.parse_args()))


async def _measure(given: argparse.Namespace, database: DatabaseServer) -> int:
    seconds: list[float] = []
    for number in range(1, given.rounds + 1):
        say(f"round {number} of {given.rounds}")
        seconds += await _round(given.agents, database, number)
    return report(*_figures(given, seconds))


async def _round(agents: int, database: DatabaseServer, number: int) -> list[float]:
    """Return the seconds of each host.

    Raises:
        CannotRun: a part cannot be started, or a host has no result in time.
    """
    world = make_world(agents, _SERVERS, 0)
    world = make_world(agents, _SERVERS, free_ntp_port(server.ip for server in world.servers))
    with tempfile.TemporaryDirectory(prefix="ntpbench-") as directory:
        url = await asyncio.to_thread(migrated, database, f"round{number}")
        site = make_site(Path(directory), url, registering=True)
        async with System(site, world, asyncio.Event()) as system:
            await system.start_pool()
            began = time.monotonic()
            seconds: dict[str, float] = {}

            async def all_have_some() -> bool:
                for name, count in (await system.read(ledger.results_by_monitor)).items():
                    if count and name not in seconds:
                        seconds[name] = time.monotonic() - began
                return len(seconds) == agents

            waiting = asyncio.create_task(
                system.until(all_have_some, "the first results", within=_GIVE_UP, every=_LOOK_EVERY)
            )
            try:
                await system.start_agents()
                await waiting
            finally:
                waiting.cancel()
    return list(seconds.values())


def _figures(given: argparse.Namespace, seconds: list[float]) -> list[Figure]:
    conditions = {
        "hosts_at_once": given.agents,
        "rounds": given.rounds,
        "p50_s": round(percentile(seconds, 50), 3),
        **machine_load(),
    }
    return [
        Figure("setup to first stored result, slowest host", max(seconds), "s", at_most=AT_MOST, conditions=conditions)
    ]


if __name__ == "__main__":
    sys.exit(main())
