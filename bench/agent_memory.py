"""Measure an agent's memory on a monitor host: 1 000 assignments, connected with TLS, after ten minutes of work.

The real daemon, in an environment with the packages of the agent's lock file, has its token and its certificate from an
API, renews both once, and then measures simulated servers at the pool's intervals. RSS counts memory shared with other
processes in full, PSS proportionally (proc(5), smaps_rollup).
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench.agent_environment import make_agent_environment
from bench.agent_stage import CLOCK_CHECKS, AgentStage, agent_stage, run
from bench.figure import Figure, report
from bench.measure import machine_load
from bench.progress import say
from bench.world import DEFAULT
from testbed.ntp.fleet import standard_fleet
from testbed.site import free_ntp_port
from testbed.stack import CannotRun

AT_MOST: Final = 30.0
"""MB of RSS."""

MEGABYTE: Final = 1_000_000

_LEAST_PROBED: Final = 0.7
"""Minimum share of the scheduled probes that must be complete; with fewer, the agent did not really work."""

_SMAPS: Final = ("Rss", "Pss", "Private_Dirty")


@dataclass(frozen=True, slots=True)
class Memory:
    """A process's memory, in megabytes of 10⁶ bytes."""

    rss: float
    pss: float
    private_dirty: float
    """Memory that is not shared and cannot be read from a file again."""
    peak: float
    """The maximum RSS so far."""


def main() -> int:
    """Measure and print the figures."""
    arguments = argparse.ArgumentParser(prog="scripts/bench agent_memory", description=__doc__)
    arguments.add_argument("--minutes", type=float, default=10.0)
    arguments.add_argument("--assignments", type=int, default=1_000)
    arguments.add_argument(
        "--project-environment",
        action="store_true",
        help="with all server-side packages installed, as in the checkout",
    )
    given = arguments.parse_args()
    if given.minutes <= 0:
        arguments.error("argument --minutes: must be more than 0")
    if not 1 <= given.assignments <= 5_000:
        arguments.error("argument --assignments: must be 1 to 5000")
    return run(partial(_measure, given))


async def _measure(given: argparse.Namespace) -> int:
    async with agent_stage(certified=True) as on:
        command: Sequence[str] = ()
        if not given.project_environment:
            say("making the agent's environment")
            python = await asyncio.to_thread(make_agent_environment, on.directory / "environment")
            command = (str(python), "-P", "-m", "agent", "monitor")
        await _give_work(on, given.assignments)
        say("starting the agent")
        pid = await on.start_agent(*command)
        start = read_memory(pid)
        say("renewing token and certificate")
        await on.renew()
        renewed, before = read_memory(pid), len(on.pool.results)
        await _work(on, given.minutes, pid)
        end, results = read_memory(pid), len(on.pool.results) - before
        metrics = await on.pool.metrics()
    asked = given.assignments / DEFAULT.interval_active * given.minutes * 60
    if results < _LEAST_PROBED * asked and asked >= 10:
        raise CannotRun(f"the agent made only {results} of {asked:.0f} probes: the measurement is not valid")
    conditions = {
        "minutes": given.minutes,
        "assignments": given.assignments,
        "environment": "project" if given.project_environment else "requirements/agent.txt",
        "tls": True,
        "client_certificate": True,
        "renewals": 1,
        "otlp": False,
        "results": results,
        "samples": round(metrics["ntppool_agent_samples_received_total"]),
        "rss_at_start_mb": round(start.rss, 2),
        "rss_after_renewal_mb": round(renewed.rss, 2),
        "highest_rss_mb": round(end.peak, 2),
        "private_dirty_mb": round(end.private_dirty, 2),
        **machine_load(),
    }
    name = "agent memory"
    return report(
        Figure(f"{name}, RSS", end.rss, "MB", at_most=AT_MOST, conditions=conditions),
        Figure(f"{name}, PSS", end.pss, "MB", conditions={"pss_at_start_mb": round(start.pss, 2)}),
    )


async def _give_work(on: AgentStage, count: int) -> None:
    """Assign good and bad servers at the interval of an active monitor."""
    addresses = [spec.address for spec in standard_fleet(count)]
    port = await asyncio.to_thread(free_ntp_port, [*addresses, *CLOCK_CHECKS])
    fleet = standard_fleet(count, port=port)
    await on.start_servers(fleet)
    await on.pool.configure(samples=3, clock_checks=[f"{address}:{port}" for address in CLOCK_CHECKS])
    await on.pool.assign(dict(enumerate(fleet, 1)), DEFAULT.interval_active)


async def _work(on: AgentStage, minutes: float, pid: int) -> None:
    left = minutes * 60
    while left > 0:
        await on.rest(min(left, 60.0))
        left -= 60.0
        say(f"{max(left, 0):.0f} s left; RSS {read_memory(pid).rss:.2f} MB, {len(on.pool.results)} results")


def read_memory(pid: int) -> Memory:
    """Read a process's memory from the kernel.

    Raises:
        CannotRun: it cannot be read, or there is no such process.
    """
    try:
        rollup = _kilobytes(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"))
        status = _kilobytes(Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
        rss, pss, dirty = (rollup[name] for name in _SMAPS)
        return Memory(rss, pss, dirty, max(rss, status["VmHWM"]))
    except (OSError, KeyError) as error:
        raise CannotRun(f"the memory of process {pid} cannot be read: {error}") from None


def _kilobytes(text: str) -> dict[str, float]:
    """Parse the lines ``Name: N kB``, in megabytes. The kernel's kB are 1024 bytes."""
    lines = (line.split() for line in text.splitlines())
    return {parts[0].rstrip(":"): int(parts[1]) * 1024 / MEGABYTE for parts in lines if parts[2:3] == ["kB"]}


if __name__ == "__main__":
    sys.exit(main())
