"""Test the scorer as a worker: it finds due servers, executes control commands, and reports metrics."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import NoOpTracer
from sqlalchemy.engine import Engine

from runtime.control import Control
from runtime.db.engine import open_database, utc_now
from runtime.db.queue import SCORING
from runtime.db.system_settings import PoolSettingsReader
from runtime.mqtt.live_stream import LiveStream
from runtime.mqtt.session import BrokerAddress, BrokerSession, Identity, Incoming
from runtime.settings import WorkerSettings
from runtime.telemetry import Telemetry
from runtime.worker import Worker
from schema.messages import ControlAnswer, ControlCommand, Message, ScoreComputed, encode
from schema.tables import log_scores, scoring_queue, servers
from schema.topics import Topics
from scorer import worker as scorer_worker
from testbed.fixtures.world import add_log_score, add_monitor, add_pair, add_server, monitor_name
from testbed.waiting import wait_until

NOW = datetime(2026, 1, 2, 12, 0, 0)
SOON = 10.0


class LiveRecorder(LiveStream):
    """Keep the offered events."""

    def __init__(self, broker: BrokerSession) -> None:
        super().__init__(broker)
        self.events: list[tuple[str, Message]] = []

    def offer(self, topic: str, event: Message, trace: str | None = None) -> None:
        self.events.append((topic, event))


@contextmanager
def new_worker(engine: Engine) -> Iterator[tuple[Worker, LiveRecorder, InMemoryMetricReader]]:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    broker = BrokerSession(BrokerAddress("127.0.0.1", 1), Identity("scorer", "scorer/1"), lambda: "none")
    status: dict[str, Any] = {}
    live = LiveRecorder(broker)
    yield (
        Worker(
            service="scorer",
            settings=WorkerSettings(),
            topics=Topics("devel"),
            engine=engine,
            broker=broker,
            control=Control("scorer", lambda: status),
            live=live,
            pool=PoolSettingsReader(engine),
            telemetry=Telemetry(meters.get_meter("test"), NoOpTracer()),
            status=status,
        ),
        live,
        reader,
    )
    meters.shutdown()


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        main = tasks.create_task(_start(worker))
        yield
        main.cancel()


async def _start(worker: Worker) -> None:
    async with asyncio.TaskGroup() as tasks:
        await scorer_worker.start(worker, tasks)
        tasks.create_task(worker.jobs.run())


def servers_with_a_result(engine: Engine, count: int, score: float = 12.0, *, due: bool = True) -> list[int]:
    with engine.begin() as connection:
        monitor = add_monitor(connection, monitor_name("m"))
        ids = [add_server(connection) for _ in range(count)]
        for server in ids:
            add_pair(connection, server, monitor)
            add_log_score(connection, server, monitor, NOW, score=score)
        if due:
            SCORING.add(connection, ids, utc_now())
    return ids


def scores(engine: Engine) -> list[float]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(servers.c.score_raw).order_by(servers.c.id)))


async def until(condition: Callable[[], bool]) -> None:
    await wait_until(lambda: asyncio.to_thread(condition), within=SOON)


async def order(worker: Worker, **fields: Any) -> ControlAnswer:
    return await worker.control.answer(Incoming("/devel/control/scorer", encode(ControlCommand(**fields))))


async def test_due_servers_are_scored_and_published_as_events(engine: Engine) -> None:
    with new_worker(engine) as (worker, live, reader):
        async with running(worker):
            [server] = await asyncio.to_thread(servers_with_a_result, engine, 1)
            await until(lambda: scores(engine) == [12.0])
            await until(lambda: worker.status.get("scored") == 1)
            await until(lambda: bool(live.events))
        [(topic, event)] = live.events
        assert topic == f"/devel/events/scores/{server}"
        assert isinstance(event, ScoreComputed)
        assert (event.server_id, event.scorer, event.score) == (server, "recentmedian", 12.0)
        assert event.ts.isoformat() == "2026-01-02T12:00:00+00:00"
        assert worker.status["scorers"] == ["recentmedian"]
        assert numbers(reader)["ntppool.scorer.servers"] == 1
        assert numbers(reader)["ntppool.scorer.backlog"] == 0


def numbers(reader: InMemoryMetricReader) -> dict[str, Any]:
    data = reader.get_metrics_data()
    assert data is not None
    found = [metric for r in data.resource_metrics for scope in r.scope_metrics for metric in scope.metrics]
    return {metric.name: getattr(metric.data.data_points[0], "value", None) for metric in found}


async def test_rounds_follow_without_a_pause_until_nothing_is_due(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer_worker, "POLL", 3600.0)  # it must not wait while servers are due
    await asyncio.to_thread(servers_with_a_result, engine, 450)
    with new_worker(engine) as (worker, _, _):
        async with running(worker):
            await until(lambda: set(scores(engine)) == {12.0})
            await until(lambda: worker.status.get("scored") == 450)


async def test_rescore_makes_one_server_due(engine: Engine) -> None:
    ids = await asyncio.to_thread(servers_with_a_result, engine, 2, due=False)
    with new_worker(engine) as (worker, _, _):
        async with running(worker):
            await until(lambda: "scorers" in worker.status)
            answer = await order(worker, command="rescore", server_id=ids[1])
            assert (answer.ok, answer.details) == (True, {"servers": 1})
            await until(lambda: scores(engine) == [0.0, 12.0])


async def test_rescore_makes_all_servers_due_in_steps(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_worker, "_RESCORE_STEP", 2)
    await asyncio.to_thread(servers_with_a_result, engine, 5, due=False)
    with new_worker(engine) as (worker, _, _):
        async with running(worker):
            await until(lambda: "scorers" in worker.status)
            assert (await order(worker, command="rescore")).details == {"servers": 5}
            await until(lambda: scores(engine) == [12.0] * 5)


@pytest.mark.parametrize("server_id", [0, -1, 4_000_000_000, 2**70])
async def test_rescore_of_an_unknown_server_is_refused_with_its_id(sqlite_engine: Engine, server_id: int) -> None:
    with new_worker(sqlite_engine) as (worker, _, _):
        async with running(worker):
            await until(lambda: "scorers" in worker.status)
            answer = await order(worker, command="rescore", server_id=server_id)
            assert (answer.ok, answer.message) == (False, f"server {server_id}: no such server")


async def test_server_scheduled_too_late_by_a_wrong_clock_is_scored(sqlite_engine: Engine) -> None:
    [later, _] = await asyncio.to_thread(servers_with_a_result, sqlite_engine, 2)
    with sqlite_engine.begin() as connection:
        connection.execute(
            sa.update(scoring_queue).where(scoring_queue.c.server_id == later).values(due_on=datetime(2126, 1, 1))
        )
    with new_worker(sqlite_engine) as (worker, _, _):
        async with running(worker):
            await until(lambda: worker.status.get("scored") == 2)
    assert scores(sqlite_engine) == [12.0, 12.0]


async def test_two_workers_share_the_servers_and_log_each_once(server_engine: Engine) -> None:
    await asyncio.to_thread(servers_with_a_result, server_engine, 300)
    other_engine = open_database(server_engine.url)
    with new_worker(server_engine) as (one, _, _), new_worker(other_engine) as (other, _, _):
        async with running(one), running(other):
            await until(lambda: one.status.get("scored", 0) + other.status.get("scored", 0) == 300)
    other_engine.dispose()
    with server_engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(log_scores)) == 600
