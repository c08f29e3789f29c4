"""Run the periodic jobs of a worker in one scheduler.

A job never overlaps itself: if it is due while it runs, that run is skipped. A job that fails is logged and runs again
at its next time, unless it is vital for the worker. All jobs are tasks of one group, so they end with the worker.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NoReturn

from apscheduler.executors.base import BaseExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from runtime.log import RateLimitedLog

log = logging.getLogger(__name__)

_CLOCK_WAS_SET: Final = 0.5
"""Seconds of change that only setting the clock causes: NTP slews it by half a millisecond per second."""


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    function: Callable[[], Awaitable[None]]
    when: Callable[[], Awaitable[None]] | None
    vital: bool


class Jobs:
    """Periodic jobs of one worker; run :meth:`run` as a task."""

    def __init__(self) -> None:
        self._runs = _Runs()
        self._scheduler = _Scheduler(executors={"default": self._runs}, timezone=UTC)
        self._warning = RateLimitedLog(log)

    def add(
        self,
        name: str,
        seconds: float,
        function: Callable[[], Awaitable[None]],
        *,
        at_once: bool = False,
        jitter_seconds: float = 0.0,
        when: Callable[[], Awaitable[None]] | None = None,
        vital: bool = False,
    ) -> None:
        """Run ``function`` every so many seconds from now on, or as soon as :meth:`run` runs.

        Args:
            at_once: the first run is now, not after an interval.
            jitter_seconds: maximum random extension of an interval, to separate several workers.
            when: awaited before each run, for example until the clock is trusted.
            vital: an error ends the worker, which must not continue without this job.
        """
        job = _Job(name, function, when, vital)
        self._scheduler.follow_clock()
        self._scheduler.add_job(
            partial(self._run, job),
            IntervalTrigger(seconds=seconds, jitter=jitter_seconds or None, timezone=UTC),
            id=name,
            misfire_grace_time=None,  # run late rather than never, for example after a busy event loop
            coalesce=True,
            **({"next_run_time": datetime.now(UTC)} if at_once else {}),
        )

    async def run(self) -> NoReturn:
        """Run the jobs until cancelled, and then wait for running ones."""
        async with asyncio.TaskGroup() as tasks:
            self._runs.begin(tasks)
            self._scheduler.start()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._runs.shutdown()  # at once; the scheduler stops only at the next iteration of the event loop
                self._scheduler.shutdown(wait=False)
        raise AssertionError("unreachable")

    async def _run(self, job: _Job) -> None:
        try:
            if job.when is not None:
                await job.when()
            await job.function()
        except Exception as error:
            if job.vital:
                raise
            kind = f"{job.name}: {type(error).__name__}"
            self._warning.log(logging.ERROR, kind, "%s failed: %s; trying again", job.name, error, exc_info=True)


class _Runs(BaseExecutor):  # type: ignore[misc]  # APScheduler has no types
    """Executor that runs jobs as tasks of a group. APScheduler's own one does not wait for them at its end."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: asyncio.TaskGroup | None = None
        self._last: dict[str, asyncio.Task[None]] = {}

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Run jobs in ``tasks`` from now on."""
        self._tasks = tasks

    def shutdown(self, wait: bool = True) -> None:
        """Start no further runs."""
        self._tasks = None

    def submit_job(self, job: Any, run_times: object) -> None:
        """Start a run unless one is running. APScheduler would log a warning each time."""
        last = self._last.get(job.id)
        if last is None or last.done():
            self._do_submit_job(job, run_times)

    def _do_submit_job(self, job: Any, run_times: object) -> None:
        if self._tasks is not None:
            self._last[job.id] = self._tasks.create_task(job.func(), name=job.id)


class _Scheduler(AsyncIOScheduler):  # type: ignore[misc]  # APScheduler has no types
    """Scheduler that keeps its intervals when the host's clock is set.

    APScheduler determines due jobs by that clock: if it is set back by an hour, no job would run for an hour, not even
    the one that detects the change.
    """

    _base: float | None = None
    """The clock's time minus the monotonic one's; None before the start."""

    def start(self, paused: bool = False) -> None:
        """Start in the running event loop."""
        self._base = _clock_base()
        super().start(paused)

    def follow_clock(self) -> None:
        """Shift the due times by the amount by which the clock was set."""
        if self._base is None:
            return
        moved = _clock_base() - self._base
        if abs(moved) > _CLOCK_WAS_SET:
            self._base += moved
            for job in self.get_jobs():
                job.modify(next_run_time=job.next_run_time + timedelta(seconds=moved))

    def _process_jobs(self) -> float | None:
        self.follow_clock()
        seconds: float | None = super()._process_jobs()
        return seconds


def _clock_base() -> float:
    return time.time() - time.monotonic()
