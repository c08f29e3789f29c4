"""Test that periodic jobs keep their intervals when the clock is set, never overlap, and end with the worker."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta, tzinfo
from types import SimpleNamespace

import pytest
from apscheduler.schedulers import base as scheduler_base

from runtime import jobs as jobs_module
from runtime.jobs import Jobs

PATIENCE = 30.0


@asynccontextmanager
async def running(jobs: Jobs) -> AsyncIterator["asyncio.Task[None]"]:
    task: asyncio.Task[None] = asyncio.create_task(jobs.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, ExceptionGroup):
            await task


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


class Job:
    """A job that records when it ran."""

    def __init__(self, *errors: Exception) -> None:
        self.times: list[float] = []
        self.errors = list(errors)

    async def __call__(self) -> None:
        self.times.append(time.monotonic())
        if self.errors:
            raise self.errors.pop(0)


async def test_a_job_runs_after_each_interval_and_not_before() -> None:
    jobs, job = Jobs(), Job()
    began = time.monotonic()
    jobs.add("job", 0.1, job)
    async with running(jobs):
        await eventually(lambda: len(job.times) == 5)
    assert all(at - began >= 0.1 * turn - 0.01 for turn, at in enumerate(job.times, 1)), job.times


async def test_job_can_run_at_once_and_be_added_while_others_run() -> None:
    jobs, first, later = Jobs(), Job(), Job()
    jobs.add("first", 3600.0, first, at_once=True)
    async with running(jobs):
        await eventually(lambda: first.times)
        jobs.add("later", 3600.0, later, at_once=True)
        await eventually(lambda: later.times)
    assert (len(first.times), len(later.times)) == (1, 1)


async def test_job_never_overlaps_itself_and_no_warning_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    jobs, other, may_end = Jobs(), Job(), asyncio.Event()
    under_way = most = runs = 0

    async def slow() -> None:
        nonlocal under_way, most, runs
        under_way, runs = under_way + 1, runs + 1
        most = max(most, under_way)
        await may_end.wait()
        under_way -= 1

    jobs.add("slow", 0.001, slow)
    jobs.add("other", 0.001, other)
    async with running(jobs):
        await eventually(lambda: len(other.times) > 20)
        assert (runs, most) == (1, 1)
        may_end.set()
        await eventually(lambda: runs > 5)
    assert most == 1
    assert caplog.messages == []


async def test_a_job_waits_for_its_condition(caplog: pytest.LogCaptureFixture) -> None:
    jobs, job, other, trusted = Jobs(), Job(), Job(), asyncio.Event()

    async def when() -> None:
        await trusted.wait()

    jobs.add("job", 0.001, job, when=when)
    jobs.add("other", 0.001, other)
    async with running(jobs):
        await eventually(lambda: len(other.times) > 5)
        assert job.times == []
        trusted.set()
        await eventually(lambda: len(job.times) > 5)


async def test_failing_job_is_logged_once_per_error_type_and_runs_again(caplog: pytest.LogCaptureFixture) -> None:
    jobs, job = Jobs(), Job(*[KeyError("a"), KeyError("b"), ValueError("c")] * 5)
    jobs.add("counting", 0.001, job)
    async with running(jobs) as task:
        await eventually(lambda: len(job.times) > 20)
        assert not task.done()
    assert caplog.messages == [
        "counting failed: 'a'; trying again",
        "counting failed: c; trying again (and 1 more since)",
    ]
    assert all(record.exc_info for record in caplog.records)


async def test_error_in_a_vital_job_ends_the_worker_and_all_other_jobs() -> None:
    jobs, ended = Jobs(), asyncio.Event()

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    jobs.add("other", 3600.0, other, at_once=True)
    jobs.add("vital", 0.01, Job(ZeroDivisionError()), vital=True)
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(PATIENCE):
            await jobs.run()
    assert raised.value.subgroup(ZeroDivisionError) is not None
    assert ended.is_set()


async def test_shutdown_waits_for_running_jobs_and_starts_no_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs, story, runs, quick = Jobs(), list[str](), list[int](), Job()

    async def slow() -> None:
        story.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)  # like a transaction in progress
            runs.append(len(quick.times))
            await asyncio.sleep(0.05)
            story.append("ended")

    jobs.add("slow", 0.001, slow)
    jobs.add("quick", 0.001, quick)
    async with running(jobs) as task:
        await eventually(lambda: story and quick.times)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
    assert story == ["began", "ended"]
    assert [len(quick.times)] == runs
    assert caplog.messages == []


@pytest.mark.parametrize("hours", [-1, 1])
async def test_setting_the_clock_changes_no_interval(hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """APScheduler itself would run nothing for an hour, or everything at once."""
    moved = timedelta()

    class Wall(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + moved

    monkeypatch.setattr(scheduler_base, "datetime", Wall)
    monkeypatch.setattr(jobs_module, "datetime", Wall)
    clock = SimpleNamespace(time=lambda: time.time() + moved.total_seconds(), monotonic=time.monotonic)
    monkeypatch.setattr(jobs_module, "time", clock)
    jobs, often, seldom = Jobs(), Job(), Job()
    jobs.add("often", 0.01, often)
    jobs.add("seldom", 600.0, seldom)
    async with running(jobs):
        await eventually(lambda: often.times)
        moved = timedelta(hours=hours)
        runs = len(often.times)
        await eventually(lambda: len(often.times) > runs + 5)
        added = Job()
        jobs.add("added", 600.0, added)
        moved += timedelta(hours=hours)
        jobs.add("at once", 600.0, soon := Job(), at_once=True)
        await eventually(lambda: soon.times)
    assert (seldom.times, added.times) == ([], [])
