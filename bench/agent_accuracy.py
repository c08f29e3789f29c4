"""Measure the accuracy of an agent's offsets: the real daemon against simulated servers with known offsets, 50
probes/s.

It measures on an idle machine and with a busy loop per core, and for comparison with a daemon that timestamps its
packets itself. The error includes that of the simulated servers, which read the clock slightly before the answer is
sent. All traffic uses the loopback network, so that no real network adds to the error.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from bench.agent_stage import AGENT, CLOCK_CHECKS, AgentStage, agent_stage, run
from bench.figure import Figure, median, percentile, report
from bench.measure import machine_load
from bench.progress import say
from schema.messages import Result
from testbed.ntp.fleet import loopback_addresses
from testbed.ntp.spec import ServerSpec
from testbed.site import free_ntp_port
from testbed.stack import CannotRun

Machine = Literal["idle", "busy"]
Stamps = Literal["kernel", "user-space"]

AT_MOST: Final[dict[Machine, float]] = {"idle": 50.0, "busy": 500.0}
"""Microseconds, with the kernel's timestamps."""

FEWEST: Final = 200
"""Minimum number of results for a 99th percentile."""

_INTERVAL: Final = 2.0
_FIRST: Final = "127.30.0.1"
_WIDEST: Final = 0.02
"""Maximum offset of a server, in seconds."""
_SETTLE: Final = 2.0
_LATEST: Final = 60.0
"""Seconds for the last results to arrive, even on a busy machine."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Of one run: |offset error| of each answered probe in microseconds, and other counts."""

    errors: list[float]
    unanswered: int
    conditions: dict[str, Any]

    def percentile(self, percent: float) -> float:
        """Return a percentile in microseconds."""
        return percentile(self.errors, percent)


def main() -> int:
    """Measure and print the figures."""
    arguments = argparse.ArgumentParser(prog="scripts/bench agent_accuracy", description=__doc__)
    arguments.add_argument("--seconds", type=float, default=30.0, help="duration of each run")
    arguments.add_argument("--rate", type=float, default=50.0, help="probes a second")
    arguments.add_argument("--runs", type=int, default=1, help="number of runs; the figures are their medians")
    given = arguments.parse_args()
    if not 1.0 <= given.rate <= 500.0:
        arguments.error("argument --rate: must be 1 to 500")
    if given.rate * given.seconds < FEWEST:
        arguments.error(f"argument --seconds: gives fewer than the {FEWEST} probes that are needed")
    if given.runs < 1:
        arguments.error("argument --runs: must be 1 or more")
    return run(partial(_measure, given))


async def _measure(given: argparse.Namespace) -> int:
    cases: list[tuple[Machine, Stamps]] = [
        ("idle", "kernel"), ("idle", "user-space"), ("busy", "kernel"), ("busy", "user-space"),
    ]  # fmt: skip
    found: dict[tuple[Machine, Stamps], list[Errors]] = {case: [] for case in cases}
    async with agent_stage() as on:
        offsets = await _give_work(on, round(given.rate * _INTERVAL))
        for number in range(given.runs):
            for machine, stamps in cases:
                say(f"run {number + 1} of {given.runs}: {machine}, stamps of {stamps}, {given.seconds:g} s")
                found[machine, stamps].append(await _run(on, machine, stamps, given.seconds, offsets))
    return report(*(_figure(machine, stamps, given, found[machine, stamps]) for machine, stamps in cases))


async def _give_work(on: AgentStage, count: int) -> dict[int, float]:
    """Start servers and assign them; return each one's offset in seconds."""
    addresses = loopback_addresses(_FIRST, count, 24)
    port = free_ntp_port([*addresses, *CLOCK_CHECKS])
    servers = {
        number: ServerSpec(address=address, port=port, offset=round(_WIDEST * (2 * number / count - 1), 6))
        for number, address in enumerate(addresses, 1)
    }
    await on.start_servers(list(servers.values()))
    await on.pool.configure(samples=1, clock_checks=[f"{address}:{port}" for address in CLOCK_CHECKS])
    await on.pool.assign(servers, _INTERVAL)
    return {number: spec.offset for number, spec in servers.items()}


async def _run(on: AgentStage, machine: Machine, stamps: Stamps, seconds: float, offsets: dict[int, float]) -> Errors:
    """Run one daemon from its start to its end."""
    program = () if stamps == "kernel" else (sys.executable, "-P", "-m", "bench.agent_user_stamps")
    await on.start_agent(*program)
    loops: list[str] = []
    if machine == "busy":
        loops = await on.start_busy_loops(os.cpu_count() or 1, seconds + _SETTLE + _LATEST)
    await on.rest(_SETTLE)
    before, begin = _processor_times(), time.time()
    await on.rest(seconds)
    after, end = _processor_times(), time.time()
    await on.until(lambda: _is_complete(on.pool.results, end), "the last result", _LATEST)
    await on.supervisor.stop(loops)
    metrics = await on.pool.metrics()
    await on.supervisor.stop([AGENT])
    conditions = {
        "by_program": metrics["ntppool_agent_stamps_by_program_total"],
        "idle_share": round((after[0] - before[0]) / max(1, after[1] - before[1]), 2),
        **machine_load(),
    }
    return _errors([one for one in on.pool.results if begin <= one.ts.timestamp() < end], offsets, conditions)


def _processor_times() -> tuple[int, int]:
    """Read the time of all cores since boot: idle, and in total (proc(5), /proc/stat, in ticks)."""
    times = [int(text) for text in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    return times[3] + times[4], sum(times)


def _is_complete(results: Sequence[Result], end: float) -> bool:
    """Return whether a result from after ``end`` has arrived: the agent sends in the order of its probes."""
    return bool(results) and results[-1].ts.timestamp() >= end


def _errors(results: Sequence[Result], offsets: dict[int, float], conditions: dict[str, Any]) -> Errors:
    """Compare the results with the true offsets.

    Raises:
        CannotRun: there are too few results.
    """
    answered = [(one.offset, one.server_id) for one in results if one.offset is not None]
    if len(answered) < FEWEST:
        raise CannotRun(f"only {len(answered)} of {len(results)} probes were answered; {FEWEST} are needed")
    errors = [abs(offset - offsets[server_id]) * 1e6 for offset, server_id in answered]
    return Errors(errors, len(results) - len(answered), conditions)


def _figure(machine: Machine, stamps: Stamps, given: argparse.Namespace, runs: Sequence[Errors]) -> Figure:
    conditions = {
        "probes": sum(len(one.errors) for one in runs),
        "probes_per_s": round(sum(len(one.errors) for one in runs) / given.seconds / len(runs), 1),
        "unanswered": sum(one.unanswered for one in runs),
        "stamped_by_program": round(sum(one.conditions["by_program"] for one in runs)),
        "p50_us": round(median([one.percentile(50) for one in runs]), 1),
        "max_us": round(median([one.percentile(100) for one in runs]), 1),
        "p99_us_of_runs": [round(one.percentile(99), 1) for one in runs],
        "busy_loops": (os.cpu_count() or 1) if machine == "busy" else 0,
        "seconds": given.seconds,
        # Other processes may be busy on this machine, too.
        "idle_share_of_runs": [one.conditions["idle_share"] for one in runs],
        "load_average_of_runs": [one.conditions["load_average"] for one in runs],
    }
    return Figure(
        f"agent accuracy, {machine}, {stamps} stamps, p99 of |offset error|",
        median([one.percentile(99) for one in runs]),
        "us",
        at_most=AT_MOST[machine] if stamps == "kernel" else None,
        conditions=conditions,
    )


if __name__ == "__main__":
    sys.exit(main())
