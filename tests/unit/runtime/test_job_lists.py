"""Test each worker's periodic jobs: their intervals, first runs, and preconditions."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.metrics import NoOpMeter
from sqlalchemy.engine import URL

import ingest.jobs
import notifier.worker
import scorer.worker
import selector.health.job
import selector.watch
import selector.worker
from runtime.clock import Clock
from runtime.settings import load_settings
from runtime.worker import Worker


@dataclass(frozen=True)
class Added:
    """A job with the options that a worker gave it."""

    seconds: float
    at_once: bool
    vital: bool
    jitter: float
    when: str | None


class Jobs:
    """Fake scheduler that records the added jobs."""

    def __init__(self) -> None:
        self.added: dict[str, Added] = {}

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
        condition = None if when is None else when.__name__
        assert name not in self.added
        self.added[name] = Added(seconds, at_once, vital, jitter_seconds, condition)


def a_worker() -> Any:
    async def undisturbed() -> None: ...

    return SimpleNamespace(jobs=Jobs(), clock=Clock(), undisturbed=undisturbed)


def added(seconds: float, when: str | None = None, **options: Any) -> Added:
    return Added(seconds, **{"at_once": False, "vital": False, "jitter": 0.0, "when": when, **options})


async def test_jobs_of_ingest(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, parts = a_worker(), cast(Any, None)
    names = ("queue", "committer", "rate_limiter", "presences", "last_seen", "metrics")
    ingest.jobs.add_jobs(cast(Worker, worker), **dict.fromkeys(names, parts))

    async def nothing(*_: object) -> list[Any]:
        return []

    monkeypatch.setattr(ingest.jobs, "_tables", nothing)
    monkeypatch.setattr(ingest.jobs, "_announce", nothing)
    await ingest.jobs.begin_retention(cast(Worker, worker), parts)
    assert worker.jobs.added == {
        "presence": added(1.0, vital=True),
        "last_seen": added(5.0, "agreed", vital=True),
        "rates": added(5.0),
        "status": added(1.0, at_once=True),
        "retention": added(300.0, jitter=60.0),
    }


def test_jobs_of_the_selectors_watch() -> None:
    worker = a_worker()
    selector.watch.Watch(worker, *[cast(Any, None)] * 6).add_jobs()
    assert worker.jobs.added == {
        "watch": added(5.0, "agreed", at_once=True, vital=True),
        "pair counts": added(60.0, "undisturbed", at_once=True),
        "healing": added(60.0, "undisturbed", at_once=True),
    }


def test_job_of_the_monitors_health() -> None:
    worker = a_worker()
    selector.health.job.HealthJob(worker, cast(Any, None)).add_jobs()
    assert worker.jobs.added == {"health": added(300.0, "undisturbed", at_once=True)}


async def test_jobs_of_the_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = a_worker()

    async def in_database(_work: object) -> None: ...

    class Scoring:
        def __init__(self, *_: object) -> None: ...
        async def run(self) -> None: ...
        async def count_backlog(self) -> None: ...
        async def heal(self) -> None: ...

    monkeypatch.setattr(scorer.worker, "_Scoring", Scoring)
    worker.in_database, worker.engine, worker.status = in_database, None, {}
    worker.control = SimpleNamespace(add=lambda name, command: None)
    async with asyncio.TaskGroup() as tasks:
        await scorer.worker.start(worker, tasks)
    assert worker.jobs.added == {
        "backlog": added(1.0, "agreed"),
        "healing": added(60.0, "undisturbed", at_once=True),
    }


async def test_jobs_of_the_notifier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those that watch the foundation start before the database is reached."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    worker = a_worker()
    worker.settings = load_settings(jwt_key="k" * 48, alert_database_nodes="127.0.0.1:1")
    worker.telemetry = SimpleNamespace(meter=NoOpMeter("test"))
    worker.engine = SimpleNamespace(url=URL.create("mysql+pymysql", host="127.0.0.1", database="x"))
    parts = notifier.worker.Notifier(cast(Worker, worker))

    class Tasks:
        def create_task(self, loop: Coroutine[Any, Any, None], name: str) -> None:
            loop.close()

    parts.begin(cast(asyncio.TaskGroup, Tasks()))
    assert worker.jobs.added == {
        "foundation": added(5.0, at_once=True),
        "database nodes": added(15.0, at_once=True),
    }
    worker.jobs.added.clear()
    parts.start(cast(asyncio.TaskGroup, Tasks()))
    assert worker.jobs.added == {
        "evaluation": added(15.0, "agreed", at_once=True),
        "digests": added(5.0, "agreed"),
        "channels": added(3600.0, "undisturbed", at_once=True),
        "outbox": added(15.0, "undisturbed", at_once=True),
    }
