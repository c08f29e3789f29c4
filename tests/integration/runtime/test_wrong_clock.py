"""Test ingest on a host whose clock differs from the database's: nothing is judged, stored or lost."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from ulid import ULID

from ingest.worker import start
from runtime.clock import Clock
from runtime.db.engine import reading
from runtime.worker import Worker
from schema.messages import Batch, BatchCommitted, Result, Status
from schema.tables import log_scores, monitor_presence, monitors, result_batches
from testbed.fixtures.batches import new_batch
from testbed.fixtures.broker import Broker
from testbed.fixtures.running_ingest import connected_monitor, new_worker, until
from testbed.fixtures.world import add_monitor, add_pair, add_server
from testbed.waiting import PATIENCE


class WrongTime:
    """The host's clock, which is ``ahead`` seconds off for all code that reads it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = ahead = [0.0]

        class Wrong(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return datetime.now(tz) + timedelta(seconds=ahead[0])

        for module in ("runtime.db.engine", "ingest.handlers", "ingest.commit"):
            monkeypatch.setattr(f"{module}.datetime", Wrong)

    def set(self, ahead: float) -> None:
        self.ahead[0] = ahead

    def time(self) -> float:
        return time.time() + self.ahead[0]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> WrongTime:
    monkeypatch.setattr("runtime.clock._LOOK_AGAIN", 0.01)
    return WrongTime(monkeypatch)


def test_clock_comparison_ignores_the_time_zone_of_the_database(server_engine: Engine) -> None:
    with reading(server_engine) as connection:
        connection.exec_driver_sql("SET time_zone = '+09:00'")
        found = Clock().compare(connection)
        connection.exec_driver_sql("SET time_zone = '+00:00'")
    assert found is not None
    assert found.agree is True
    assert abs(found.ahead) < 5


def test_sqlite_has_no_clock_of_its_own(sqlite_engine: Engine) -> None:
    with reading(sqlite_engine) as connection:
        assert Clock().compare(connection) is None


class World:
    def __init__(self, engine: Engine) -> None:
        self.name = f"m{ULID()}.test.mon.example".lower()
        with engine.begin() as connection:
            self.monitor_id = add_monitor(connection, self.name)
            self.server_id = add_server(connection, "192.0.2.1")
            add_pair(connection, self.server_id, self.monitor_id)

    def batch(self) -> Batch:
        moment = datetime.now(UTC)
        result = Result(
            server_id=self.server_id,
            ip="192.0.2.1",
            ts=moment,
            offset=0.001,
            rtt=0.02,
            stratum=2,
            leap=0,
            sent=1,
            received=1,
        )
        return new_batch(result)


def count(engine: Engine, table: sa.Table) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def value(engine: Engine, column: sa.Column[Any]) -> Any:
    with engine.connect() as connection:
        return connection.scalar(sa.select(column))


@asynccontextmanager
async def ingest_at(engine: Engine, broker: Broker, clock: Clock) -> AsyncIterator[Worker]:
    """Run ingest with its own clock, which is compared with the database's as in every worker."""
    with new_worker(engine, broker) as made:
        worker = dataclasses.replace(made, clock=clock)
        await worker.compare_clocks()
        async with asyncio.TaskGroup() as tasks:
            main = tasks.create_task(_work(worker))
            async with asyncio.timeout(PATIENCE):
                await worker.broker.wait_ready()
            yield worker
            main.cancel()


async def _work(worker: Worker) -> None:
    async def compare_often() -> None:
        while True:
            await asyncio.sleep(0.02)
            await worker.compare_clocks()

    async with asyncio.TaskGroup() as tasks:
        await start(worker, tasks)
        for task in (worker.jobs.run(), worker.live.run(), worker.broker.run(), compare_often()):
            tasks.create_task(task)


def refused_at_the_door(worker: Worker) -> bool:
    return bool(worker.status.get("counts", {}).get("clock is not trusted"))


@pytest.mark.parametrize("ahead", [-120.0, 20 * 86_400.0], ids=("slow", "20 days ahead"))
async def test_no_result_is_judged_by_a_wrong_clock(
    ahead: float, server_engine: Engine, broker: Broker, host: WrongTime, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(server_engine)
    host.set(ahead)
    async with (
        ingest_at(server_engine, broker, Clock(host.time)) as worker,
        connected_monitor(broker, world.name) as monitor,
    ):
        batch = world.batch()
        await monitor.send(batch)
        await until(lambda: refused_at_the_door(worker), "left with its sender")
        assert monitor.answers.empty()
        assert count(server_engine, result_batches) == 0
        host.set(0.0)
        await until(lambda: worker.clock.trusted, "trusted again")
        assert await monitor.exchange(batch) == BatchCommitted(batch=batch.id, stored=1)
    word = "ahead" if ahead > 0 else "behind"
    [said] = [r.getMessage() for r in caplog.records if r.name == "runtime.clock" and r.levelno >= logging.WARNING]
    assert f"differ by {abs(ahead):.0f} s, this one is {word}" in said


@pytest.mark.parametrize("ahead", [-120.0, 7_200.0], ids=("slow", "2 h ahead"))
async def test_no_time_is_written_after_a_clock_step_while_ingest_runs(
    ahead: float, server_engine: Engine, broker: Broker, host: WrongTime
) -> None:
    world = World(server_engine)
    async with (
        ingest_at(server_engine, broker, Clock(host.time)) as worker,
        connected_monitor(broker, world.name) as monitor,
    ):
        first = world.batch()
        assert await monitor.exchange(first) == BatchCommitted(batch=first.id, stored=1)
        await until(lambda: value(server_engine, monitors.c.last_submit) is not None, "last_submit")
        before = value(server_engine, monitors.c.last_seen)
        host.set(ahead)
        batch = world.batch()
        await monitor.send(batch)
        await monitor.say(Status(online=True, ts=datetime.now(UTC), version="9.9"))
        await until(lambda: refused_at_the_door(worker), "left with its sender")
        assert (count(server_engine, log_scores), count(server_engine, monitor_presence)) == (1, 0)
        assert value(server_engine, monitors.c.last_seen) == before
        host.set(0.0)
        await until(lambda: count(server_engine, monitor_presence) == 1, "presence, as soon as the clock is right")
        seen = value(server_engine, monitor_presence.c.seen).replace(tzinfo=UTC)
        assert abs(datetime.now(UTC) - seen) < timedelta(seconds=60)
        assert await monitor.exchange(batch) == BatchCommitted(batch=batch.id, stored=1)
