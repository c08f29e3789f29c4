"""Test ingest with a real broker, on all databases: messages from monitors, answers, and stored data."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from ulid import ULID

from auth.tokens import Role
from ingest import validate
from ingest.acks import Acks
from ingest.metrics import IngestMetrics
from ingest.queue import SubmissionQueue
from runtime.db.engine import open_database
from runtime.db.migrate import upgrade
from runtime.db.retry import DatabaseUnavailable
from runtime.mqtt.session import BrokerAddress, BrokerSession, Identity, Incoming, Subscription
from schema.messages import (
    Batch,
    BatchCommitted,
    BatchRefused,
    ControlCommand,
    MessageRejected,
    Result,
    ResultStored,
    Status,
    decode,
    encode,
)
from schema.tables import log_scores, monitor_presence, monitors, rejected_messages, result_batches
from testbed.database import SERVERS, temporary_database
from testbed.fixtures.batches import new_batch
from testbed.fixtures.broker import Broker
from testbed.fixtures.database import DatabaseServer, require
from testbed.fixtures.running_ingest import (
    TOPICS,
    TestMonitor,
    connected_monitor,
    running_ingest,
    until,
)
from testbed.fixtures.world import add_log_score, add_monitor, add_pair, add_server, adopt

IPS = ["192.0.2.1", "192.0.2.2"]


class World:
    """One monitor, and the servers that it measures."""

    def __init__(self, engine: Engine) -> None:
        # The session-scoped broker keeps the state of names, so each test has its own.
        self.name = f"m{ULID()}.test.mon.example".lower()
        self._batches = 0
        with engine.begin() as connection:
            self.monitor_id = add_monitor(connection, self.name)
            self.server_ids = [add_server(connection, ip) for ip in IPS]
            for server_id in self.server_ids:
                add_pair(connection, server_id, self.monitor_id)

    def good(self, index: int = 0, **fields: Any) -> Result:
        usual = {"offset": 0.001, "rtt": 0.02, "stratum": 2, "leap": 0, "sent": 1, "received": 1}
        moment = datetime.now(UTC)
        return Result(server_id=self.server_ids[index], ip=IPS[index], **{"ts": moment, **usual, **fields})

    def batch(self, **fields: Any) -> Batch:
        """Return a batch one interval older than the last: with equal times, most results would be too soon."""
        fields = {"ts": datetime.now(UTC) - timedelta(seconds=540) * self._batches, **fields}
        self._batches += 1
        return new_batch(self.good(0, **fields), self.good(1, **fields), version="1.2.3")


@pytest.fixture
def world(engine: Engine) -> World:
    return World(engine)


def count(engine: Engine, table: sa.Table) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def row_of(engine: Engine, table: sa.Table, where: Any) -> Any:
    with engine.connect() as connection:
        return connection.execute(sa.select(table).where(where)).one_or_none()


async def test_batch_is_stored_acknowledged_and_published_as_events(
    engine: Engine, broker: Broker, world: World
) -> None:
    events: asyncio.Queue[Incoming] = asyncio.Queue()
    watcher = BrokerSession(
        BrokerAddress("127.0.0.1", broker.port),
        Identity("watcher", "watcher"),
        lambda: broker.token(Role.OBSERVER, "watcher"),
        subscriptions=[Subscription(TOPICS.result_event("+"), events.put_nowait)],
    )
    watching = asyncio.create_task(watcher.run())
    async with running_ingest(engine, broker), connected_monitor(broker, world.name) as monitor:
        await watcher.wait_ready()
        batch = replace_result(world.batch(), 1, world.good(1, offset=None, no_response=True))
        assert await monitor.exchange(batch) == BatchCommitted(batch=batch.id, stored=2)
        async with asyncio.timeout(10):
            seen = {(e := decode((await events.get()).payload, ResultStored)).server_id: e for _ in range(2)}
        assert [seen[i].score for i in world.server_ids] == [1.0, -5.0]
        assert seen[world.server_ids[0]].monitor == world.name
        assert await monitor.exchange(batch) == BatchCommitted(batch=batch.id, stored=2)
        await until(
            lambda: row_of(engine, monitors, monitors.c.id == world.monitor_id).last_submit is not None, "last_submit"
        )
    watching.cancel()
    await asyncio.wait({watching})
    assert (count(engine, log_scores), count(engine, result_batches)) == (2, 1)
    row = row_of(engine, monitors, monitors.c.id == world.monitor_id)
    assert row.last_seen == row.last_submit
    assert row.client_version == "1.2.3"


def replace_result(batch: Batch, index: int, result: Result) -> Batch:
    results = list(batch.results)
    results[index] = result
    return Batch(id=batch.id, version=batch.version, results=results)


async def test_nothing_is_acknowledged_before_it_is_committed(engine: Engine, broker: Broker, world: World) -> None:
    """There is no acknowledgement even just before the COMMIT, which may still fail."""
    at_commit, go_on = threading.Event(), threading.Event()
    async with running_ingest(engine, broker) as worker, connected_monitor(broker, world.name) as monitor:

        def stop_at(connection: sa.Connection) -> None:
            if not at_commit.is_set() and connection.info.pop("logged", False):
                at_commit.set()
                assert go_on.wait(20)
                raise DatabaseUnavailable("the connection was lost")

        def note(connection: sa.Connection, cursor: Any, statement: str, *rest: Any) -> None:
            if "INSERT INTO" in statement and "log_scores" in statement:
                connection.info["logged"] = True

        sa.event.listen(worker.engine, "commit", stop_at)
        sa.event.listen(worker.engine, "before_cursor_execute", note)
        batch = world.batch()
        await monitor.send(batch)
        assert await asyncio.to_thread(at_commit.wait, 20)
        # Answers are sent in order: an earlier one would have arrived before this one.
        mark = str(ULID())
        acks = Acks(worker.broker, worker.topics, IngestMetrics(worker.telemetry.meter, SubmissionQueue()))
        acks.offer(world.name, "v4", BatchRefused(batch=mark, reason="a mark"))
        marking = asyncio.create_task(acks.run())
        assert (await monitor.answer()).batch == mark
        assert monitor.answers.empty()
        go_on.set()
        assert await monitor.answer() == BatchCommitted(batch=batch.id, stored=2), "when it is done at last"
        marking.cancel()
        await asyncio.wait({marking})
    assert count(engine, log_scores) == 2


async def test_invalid_results_are_rejected_and_the_rest_is_stored(
    engine: Engine, broker: Broker, world: World
) -> None:
    async with running_ingest(engine, broker), connected_monitor(broker, world.name) as monitor:
        batch = replace_result(world.batch(), 0, world.good(0, stratum=300))
        ack = await monitor.exchange(batch)
        assert isinstance(ack, BatchCommitted)
        assert ack.stored == 1
        assert [(r.index, r.server_id, r.reason) for r in ack.rejected] == [
            (0, world.server_ids[0], validate.IMPOSSIBLE_STRATUM)
        ]
        assert await monitor.exchange(batch) == ack


async def test_undecodable_batch_is_refused_kept_and_blocks_nothing(
    engine: Engine, broker: Broker, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_ingest(engine, broker), connected_monitor(broker, world.name) as monitor:
        ulid = str(ULID())
        for _ in range(2):
            await monitor.send_raw(b'{"id": 7' + b"x" * 70_000, ulid.encode())
            refused = await monitor.answer()
            assert isinstance(refused, BatchRefused)
            assert (refused.batch, bool(refused.reason)) == (ulid, True)
        await monitor.send_raw(b"no ULID, no answer", b"not a ulid")
        batch = world.batch()
        assert await monitor.exchange(batch) == BatchCommitted(batch=batch.id, stored=2)
        await until(lambda: count(engine, rejected_messages) == 2, "both are kept")
        kept = row_of(engine, rejected_messages, rejected_messages.c.bytes > 70_000)
        assert (kept.topic, kept.times, len(kept.payload)) == (TOPICS.results(world.name, "v4"), 2, 65_536)
    assert "xxx" not in caplog.text, "a payload has no place in the log"


async def test_undecodable_message_is_published_as_an_event(engine: Engine, fresh_broker: Broker, world: World) -> None:
    events: asyncio.Queue[Incoming] = asyncio.Queue()
    watcher = BrokerSession(
        BrokerAddress("127.0.0.1", fresh_broker.port),
        Identity("watcher", "watcher"),
        lambda: fresh_broker.token(Role.OBSERVER, "watcher"),
        subscriptions=[Subscription(TOPICS.rejected_event, events.put_nowait)],
    )
    watching = asyncio.create_task(watcher.run())
    async with running_ingest(engine, fresh_broker), connected_monitor(fresh_broker, world.name) as monitor:
        await watcher.wait_ready()
        await monitor.session.publish(TOPICS.status(world.name), b"nonsense")
        async with asyncio.timeout(10):
            event = decode((await events.get()).payload, MessageRejected)
        assert event.topic == TOPICS.status(world.name)
    watching.cancel()
    await asyncio.wait({watching})


async def test_two_workers_share_the_work_without_duplicates(engine: Engine, broker: Broker, world: World) -> None:
    batches = [world.batch(offset=0.0001 * number) for number in range(60)]
    async with (
        running_ingest(engine, broker) as one,
        running_ingest(engine, broker) as other,
        connected_monitor(broker, world.name) as monitor,
    ):
        for batch in batches + batches:
            await monitor.send(batch)
        acks = [await monitor.answer() for _ in range(120)]
        assert {ack.batch for ack in acks} == {batch.id for batch in batches}
        assert all(isinstance(ack, BatchCommitted) and ack.stored == 2 for ack in acks)

        def both_at_work() -> bool:
            return all(worker.status.get("counts", {}).get("stored", 0) > 0 for worker in (one, other))

        await until(both_at_work, "both have stored something")
    assert (count(engine, result_batches), count(engine, log_scores)) == (60, 120)


async def order(worker: Any, command: str) -> dict[str, Any]:
    answer = await worker.control.answer(Incoming("", encode(ControlCommand(command=command))))
    assert answer.ok, answer.message
    return dict(answer.details)


async def test_paused_ingest_queues_batches_until_it_is_resumed(engine: Engine, broker: Broker, world: World) -> None:
    async with running_ingest(engine, broker) as worker, connected_monitor(broker, world.name) as monitor:
        assert await order(worker, "pause") == {"paused": True}
        batch = world.batch()
        await monitor.send(batch)
        await until(lambda: worker.status.get("paused") is True, "status says so")
        # Answers arrive in the order of the batches: if the first had been committed, its answer would be here.
        await monitor.send_raw(b"unreadable", str(ULID()).encode())
        assert isinstance(await monitor.answer(), BatchRefused)
        assert monitor.answers.empty()
        assert count(engine, result_batches) == 0
        assert await order(worker, "resume") == {"paused": False}
        assert await monitor.answer() == BatchCommitted(batch=batch.id, stored=2)
        details = await order(worker, "status")
        assert {"paused", "queued_results", "rate_limited", "counts"} <= set(details)


async def test_presence_survives_restarts_of_ingest(engine: Engine, broker: Broker, world: World) -> None:
    presence = monitor_presence.c.tls_name == world.name

    def state(online: bool) -> bool:
        row = row_of(engine, monitor_presence, presence)
        return row is not None and bool(row.online) == online

    async with connected_monitor(broker, world.name, will_after=0.0) as monitor:
        status = Status(online=True, ts=datetime.now(UTC), version="9.9")
        await monitor.say(status)
        async with running_ingest(engine, broker):
            await until(lambda: state(True), "what was said before it started")

            def seen() -> bool:
                row = row_of(engine, monitors, monitors.c.id == world.monitor_id)
                return bool(row.client_version == "9.9" and row.last_seen is not None)

            await until(seen, "last_seen and version")
            row = row_of(engine, monitor_presence, presence)
            assert decode(row.status.encode(), Status) == status
            assert row.seen <= row_of(engine, monitors, monitors.c.id == world.monitor_id).last_seen
        since = row_of(engine, monitor_presence, presence).since
        async with running_ingest(engine, broker):
            newer = Status(online=True, ts=datetime.now(UTC), version="9.9")
            await monitor.say(newer)
            await until(
                lambda: decode(row_of(engine, monitor_presence, presence).status.encode(), Status) == newer, "refresh"
            )
            assert row_of(engine, monitor_presence, presence).since == since
            # The connection ends without an offline status, so the broker sends the last will.
            client = monitor.session._client
            assert client is not None
            client.abort()
            await until(lambda: state(False), "the last will")


async def test_presence_of_unknown_monitors_is_not_stored(engine: Engine, broker: Broker, world: World) -> None:
    async with (
        running_ingest(engine, broker),
        connected_monitor(broker, f"x{world.name}") as stranger,
        connected_monitor(broker, world.name) as monitor,
    ):
        await stranger.say(Status(online=True, ts=datetime.now(UTC)))
        await monitor.say(Status(online=True, ts=datetime.now(UTC)))
        await until(lambda: count(engine, monitor_presence) > 0, "the known one")
        with engine.connect() as connection:
            assert list(connection.scalars(sa.select(monitor_presence.c.tls_name))) == [world.name]


async def test_batch_that_the_database_cannot_store_is_refused_alone(
    server_engine: Engine, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(server_engine)
    # Unless it is limited, 9000 s does not fit into a mediumint.
    monkeypatch.setattr("ingest.plan.MAX_RTT", 2**60)
    async with running_ingest(server_engine, broker) as worker, connected_monitor(broker, world.name) as monitor:
        await order(worker, "pause")
        good, bad, also_good = world.batch(), world.batch(rtt=9000.0), world.batch()
        for batch in (good, bad, also_good):
            await monitor.send(batch)
        await until(lambda: worker.status.get("queued_batches", 0) >= 2, "they are in one queue")
        await order(worker, "resume")
        answers = {ack.batch: ack for ack in [await monitor.answer() for _ in range(3)]}
        assert answers[good.id] == BatchCommitted(batch=good.id, stored=2)
        assert answers[also_good.id] == BatchCommitted(batch=also_good.id, stored=2)
        refused = answers[bad.id]
        assert isinstance(refused, BatchRefused)
        assert "DataError" in refused.reason
    assert count(server_engine, log_scores) == 4
    kept = row_of(server_engine, rejected_messages, rejected_messages.c.times == 1)
    assert json.loads(kept.payload)["id"] == bad.id


@pytest.fixture(params=SERVERS)
def own_server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    """A database server that a test may stop."""
    require(request.param)
    with temporary_database(SERVERS[request.param]) as found:
        yield found


async def test_ingest_waits_for_a_killed_database(
    own_server: DatabaseServer, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    engine = open_database(own_server.create("ledger"))
    upgrade(engine)
    world = World(engine)
    batches = [world.batch() for _ in range(30)]
    async with running_ingest(engine, broker), connected_monitor(broker, world.name) as monitor:
        assert await monitor.exchange(batches[0]) == BatchCommitted(batch=batches[0].id, stored=2)
        sending = asyncio.create_task(send_all(monitor, batches[1:]))
        await asyncio.to_thread(own_server.stop, kill=True)
        await sending
        await until(lambda: "waiting for it" in caplog.text, "the reason is logged")
        await asyncio.to_thread(own_server.start)
        acks = [await monitor.answer() for _ in batches[1:]]
        assert {ack.batch for ack in acks} == {batch.id for batch in batches[1:]}
    assert (count(engine, result_batches), count(engine, log_scores)) == (30, 60)
    engine.dispose()


async def send_all(monitor: TestMonitor, batches: list[Batch]) -> None:
    for batch in batches:
        await monitor.send(batch)


async def test_ingest_waits_for_a_database_that_refuses_everything(
    sqlite_engine: Engine, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing table is not the fault of a batch: none is refused, and all are stored once the table is back."""
    world = World(sqlite_engine)
    async with running_ingest(sqlite_engine, broker), connected_monitor(broker, world.name) as monitor:
        with sqlite_engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE log_scores RENAME TO away")
        batch = world.batch()
        with caplog.at_level(logging.WARNING):
            await monitor.send(batch)
            await until(lambda: "trying again" in caplog.text, "the reason is logged")
        assert monitor.answers.empty()
        with sqlite_engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE away RENAME TO log_scores")
        assert await monitor.answer() == BatchCommitted(batch=batch.id, stored=2)


async def test_ingest_reconnects_after_the_broker_was_killed(
    engine: Engine, fresh_broker: Broker, world: World
) -> None:
    async with running_ingest(engine, fresh_broker) as worker, connected_monitor(fresh_broker, world.name) as monitor:
        first = world.batch()
        assert await monitor.exchange(first) == BatchCommitted(batch=first.id, stored=2)
        fresh_broker.kill()
        await until(lambda: not (worker.broker.connected or monitor.session.connected), "both have noticed")
        await asyncio.to_thread(fresh_broker.start)
        async with asyncio.timeout(20):
            await asyncio.gather(worker.broker.wait_ready(), monitor.session.wait_ready())
        for batch in (first, world.batch()):
            assert await monitor.exchange(batch) == BatchCommitted(batch=batch.id, stored=2)
    assert (count(engine, result_batches), count(engine, log_scores)) == (2, 4)


async def test_ingest_subscribes_to_results_and_statuses_only(engine: Engine, broker: Broker) -> None:
    async with running_ingest(engine, broker) as worker:
        filters = {subscription.topic_filter for subscription in worker.broker._subscriptions}
    assert filters == {"$share/ingest//test/monitors/results/+/+", "/test/monitors/status/+/status"}


async def test_old_rows_are_removed_periodically(
    engine: Engine, broker: Broker, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.jobs.RETENTION_EVERY", 0.2)
    now = datetime.now(UTC)
    with engine.begin() as connection:
        old, kept = (
            add_log_score(connection, world.server_ids[0], world.monitor_id, now - timedelta(days=days))
            for days in (16, 14)
        )
        add_log_score(connection, world.server_ids[0], world.monitor_id, now)
    async with running_ingest(engine, broker):
        await until(lambda: row_of(engine, log_scores, log_scores.c.id == old) is None, "the old row is gone")
    assert row_of(engine, log_scores, log_scores.c.id == kept) is not None


async def test_adopted_log_is_left_unchanged_and_this_is_logged(
    engine: Engine, broker: Broker, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ingest.jobs.RETENTION_EVERY", 0.2)
    caplog.set_level(logging.INFO, "ingest.jobs")
    now = datetime.now(UTC)
    with engine.begin() as connection:
        adopt(connection)
        for days in (700, 0):
            add_log_score(connection, world.server_ids[0], world.monitor_id, now - timedelta(days=days))
        for age in (timedelta(days=5), timedelta(0)):
            batch = {"monitor_id": world.monitor_id, "batch": str(ULID()), "stored": 1}
            connection.execute(sa.insert(result_batches).values(**batch, received_on=now.replace(tzinfo=None) - age))
    async with running_ingest(engine, broker):
        await until(lambda: count(engine, result_batches) == 1, "a round")
    assert count(engine, log_scores) == 2
    assert [m for m in caplog.messages if m.startswith("log_scores: ")] == [
        "log_scores: nothing is removed, since this database was adopted with its rows: "
        "set LOG_SCORES_DAYS to the days for which to keep them"
    ]
