"""A run that ends by itself: probes every assigned server once and delivers the results."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from agent.app import Monitor
from agent.daemon_settings import DaemonSettings
from agent.login import Login
from agent.pipeline import keep
from agent.state import StateDirectory

log = logging.getLogger(__name__)

CONNECT_WITHIN: Final = 30.0
CONFIGURED_WITHIN: Final = 15.0
CHECKED_WITHIN: Final = 60.0
DELIVERED_WITHIN: Final = 120.0
"""Seconds after which a step of such a run has failed."""

QUIET: Final = 2.0
"""Seconds without a new assignment after which they are all there: the broker sends them in one go."""


class RunFailed(Exception):
    """A step did not succeed; the message says which and why."""


async def probe_once(settings: DaemonSettings, directory: StateDirectory) -> int:
    """Probes what is assigned, delivers the results, and returns the exit status."""
    login = Login(directory, directory.read_state())
    monitor = Monitor(settings, directory, login, keep(settings, directory), on_reload=lambda: None, passing=True)
    ends, failed = asyncio.Event(), False
    try:
        async with asyncio.TaskGroup() as tasks:
            parts = {f"outbox {ipv}": line.outbox.run() for ipv, line in monitor.lines.items()}
            parts |= {f"clock {ipv}": line.runner.clock.run() for ipv, line in monitor.lines.items()}
            parts["clock watch"] = monitor.watch_clock()
            serving = tasks.create_task(monitor.serve(parts, ends, farewell=lambda: False))
            try:
                await _probe_all(monitor)
            finally:
                ends.set()
            await serving
    except* RunFailed as failures:
        for failure in failures.exceptions:
            log.error("%s", failure)
        failed = True
    return 1 if failed else 0


async def _probe_all(monitor: Monitor) -> None:
    await _within(CONNECT_WITHIN, monitor.session.wait_ready(), "no connection to the broker")
    await _within(CONFIGURED_WITHIN, monitor.configured.wait(), "no configuration arrived")
    runners = [line.runner for line in monitor.lines.values() if line.runner.live]
    if not runners:
        reasons = (f"IP{ipv}: {line.runner.why_not}" for ipv, line in monitor.lines.items())
        raise RunFailed(f"nothing to probe: {'; '.join(reasons)}")
    await _quiet(lambda: sum(len(runner.assignments) for runner in runners))
    for runner in runners:
        await _within(CHECKED_WITHIN, runner.clock.checked(), "the local clock could not be checked")
    blocked = [f"IP{runner.ipv}: {runner.why_not}" for runner in runners if runner.why_not is not None]
    if len(blocked) == len(runners):
        raise RunFailed(f"not probing: {'; '.join(blocked)}")
    probes = [runner.probe_in_turn(i) for runner in runners if not runner.why_not for i in runner.assignments.ids()]
    await asyncio.gather(*probes)
    for runner in runners:
        await _within(CHECKED_WITHIN, runner.decide(), "whether silent servers or our network are at fault is open")
    for line in monitor.lines.values():
        await line.collector.close()
    log.info("%d servers probed", len(probes))
    await _within(DELIVERED_WITHIN, _delivered(monitor), "not all results were acknowledged; they stay in the spool")


async def _quiet(count: Callable[[], int]) -> None:
    """Returns when ``count`` has not changed for a while."""
    before = -1
    while (now := count()) != before:
        before = now
        await asyncio.sleep(QUIET)


async def _delivered(monitor: Monitor) -> None:
    while any(len(line.spool) for line in monitor.lines.values()):
        monitor.left.clear()
        await monitor.left.wait()


async def _within(seconds: float, waited: Awaitable[object], failure: str) -> None:
    try:
        async with asyncio.timeout(seconds):
            await waited
    except TimeoutError:
        raise RunFailed(f"{failure} (within {seconds:g} s)") from None
