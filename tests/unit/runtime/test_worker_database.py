"""Test a worker's work in the database: retried while it is unavailable, stopped by defects, never interrupted."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pymysql
import pytest
from opentelemetry.metrics import NoOpMeter
from opentelemetry.trace import NoOpTracer
from sqlalchemy import create_engine
from sqlalchemy.exc import IntegrityError, OperationalError

from runtime import worker as runtime_worker
from runtime.clock import Comparison
from runtime.control import Control
from runtime.db.retry import DatabaseUnavailable
from runtime.db.system_settings import PoolSettingsReader
from runtime.mqtt.live_stream import LiveStream
from runtime.mqtt.session import BrokerAddress, BrokerSession, Identity
from runtime.retry import Delays, Setback
from runtime.settings import WorkerSettings
from runtime.telemetry import Telemetry
from runtime.worker import Worker
from schema.topics import Topics


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(runtime_worker, "DATABASE_DELAYS", Delays(0.001, 0.001))
    engine = create_engine("sqlite://")
    broker = BrokerSession(BrokerAddress("127.0.0.1", 1), Identity("x", "x"), lambda: "t")
    return Worker(
        service="x",
        settings=WorkerSettings(),
        topics=Topics("devel"),
        engine=engine,
        broker=broker,
        control=Control("x", dict),
        live=LiveStream(broker),
        pool=PoolSettingsReader(engine),
        telemetry=Telemetry(NoOpMeter("x"), NoOpTracer()),
    )


def failing(*errors: Exception) -> Callable[[], str]:
    """Work that fails with each of these, then succeeds."""
    remaining = list(errors)

    def work() -> str:
        if remaining:
            raise remaining.pop(0)
        return "done"

    return work


def mysql_error(code: int) -> OperationalError:
    return OperationalError(
        "UPDATE secrets", {"password": "hunter2"}, pymysql.err.OperationalError(code, "of the test")
    )


@pytest.mark.parametrize(
    "error",
    [DatabaseUnavailable("away"), mysql_error(2013), mysql_error(2003), mysql_error(1213), mysql_error(1205)],
    ids=str,
)
async def test_transient_errors_are_retried(worker: Worker, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    assert await worker.in_database(failing(error, error, error)) == "done"
    [message] = caplog.messages
    assert message.startswith("database: ")
    assert message.endswith("; waiting for it")
    assert "hunter2" not in message
    assert "UPDATE" not in message


@pytest.mark.parametrize(
    "error", [IntegrityError("INSERT", {}, Exception("x")), mysql_error(1146), ZeroDivisionError()], ids=repr
)
async def test_defects_are_not_retried(worker: Worker, error: Exception) -> None:
    with pytest.raises(type(error)):
        await worker.in_database(failing(error))


async def test_cancellation_waits_for_work_in_progress(worker: Worker) -> None:
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        may_end.wait(10)
        ended.set()

    task = asyncio.create_task(worker.in_database(work))
    await asyncio.to_thread(began.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_outage_is_noted_and_its_end_is_logged_once(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    away = [DatabaseUnavailable("away")] * 3
    found: list[str | None] = []

    def work() -> None:
        found.append(worker.contact.finding().detail)
        if away:
            raise away.pop()

    await worker.in_database(work)
    assert found == [None, "away", "away", "away"]
    assert worker.contact.finding().detail is None
    assert len([message for message in caplog.messages if message.startswith("database: works again, after ")]) == 1


async def test_failed_work_no_longer_counts_as_waiting(worker: Worker) -> None:
    with pytest.raises(ZeroDivisionError):
        await worker.in_database(failing(DatabaseUnavailable("away"), ZeroDivisionError()))
    assert worker.contact.finding().detail is None


async def test_cancellation_takes_effect_during_an_outage(worker: Worker, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)

    def away() -> None:
        raise DatabaseUnavailable("away")

    task = asyncio.create_task(worker.in_database(away))
    for _ in range(5):
        await asyncio.sleep(0.002)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=5)
    assert done
    assert task.cancelled()


async def test_deferrable_jobs_wait_for_the_clock_and_the_database(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.clock._LOOK_AGAIN", 0.001)
    worker.clock._apart = "of the test"
    worker.contact.failed("results", Setback("away"))
    waiting = asyncio.create_task(worker.undisturbed())
    for _ in range(5):
        await asyncio.sleep(0.002)
    worker.clock.note(Comparison(0.0, 0.0, worker.clock._base))
    for _ in range(5):
        await asyncio.sleep(0.002)
    assert not waiting.done()
    worker.contact.succeeded("results")
    async with asyncio.timeout(10):
        await waiting
