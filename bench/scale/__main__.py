"""``python -m bench.scale``: start 1, 2 and 4 workers of each kind, one number after the other, and measure them.

Each kind is measured alone, with as much work as it can do; then all of them run at once under load, and the checker
compares everything: nothing lost, nothing counted twice, every score and assignment right. Each figure is one line of
JSON. Broker, database, load and workers share this machine: the figures show what several processes gain on it, and
"cores" who used its processors.
"""

import argparse
import sys
from functools import partial

from bench.figure import report
from bench.progress import say
from bench.scale.load import load_phases
from bench.scale.plan import PHASES, Plan
from bench.scale.queues import queue_phases
from bench.stage import run, stage
from runtime.mqtt.session import NotConnected
from testbed.database import DatabaseServer
from testbed.stack import CannotRun

_BUFFER_POOL = "2G"


def main() -> int:
    """Measure and print the figures."""
    arguments = argparse.ArgumentParser(prog="scripts/scale", description=__doc__)
    arguments.add_argument("--minutes", type=_positive, default=6.0, metavar="N", help="of measuring, in total (6)")
    arguments.add_argument("--workers", type=_counts, default="1,2,4", metavar="N,N", help="of each kind (1,2,4)")
    arguments.add_argument("--servers", type=int, default=1_000, metavar="N", help="in the pool (1000)")
    arguments.add_argument("--monitors", type=int, default=30, metavar="N", help="simulated monitors (30)")
    return run(partial(_measure, arguments.parse_args()), buffer_pool=_BUFFER_POOL)


def _positive(text: str) -> float:
    if not (value := float(text)) > 0:
        raise argparse.ArgumentTypeError("must be a positive number")
    return value


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if not all(1 <= count <= 16 for count in counts):
        raise argparse.ArgumentTypeError("must be numbers from 1 to 16, such as 1,2,4")
    return counts


async def _measure(given: argparse.Namespace, database: DatabaseServer) -> int:
    seconds = given.minutes * 60.0 / (len(given.workers) * PHASES)
    status = 0
    for count in given.workers:
        say(f"{count} of each kind")
        plan = Plan(count, seconds, given.servers, given.monitors)
        for phases in (load_phases, queue_phases):
            try:
                async with stage(database) as on:
                    status |= report(*await phases(on, plan))
            except NotConnected as error:
                raise CannotRun(str(error)) from None
    return status


if __name__ == "__main__":
    sys.exit(main())
