"""Test that messages lost on the way to agents are repaired, with a real broker and every database."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from sqlalchemy.engine import Engine

from auth.tokens import Role
from runtime.db.retry import DatabaseUnavailable
from runtime.mqtt.session import BrokerSession, NotConnected
from schema.messages import (
    Assignment,
    MonitorConfig,
    ProtocolState,
    Status,
    assignment_set_hash,
    encode,
)
from schema.tables import server_scores
from selector.metrics import SelectorMetrics
from selector.publisher import Published, Publisher
from selector.reconcile import Reconciler
from selector.row_warnings import RowWarnings
from selector.triggers import make_due
from testbed.fixtures.broker import Broker
from testbed.fixtures.commits import answers_lost
from testbed.fixtures.selector import (
    add_results,
    change,
    eventually,
    look_often,
    new_worker,
    pair_statuses,
    quiet,
    running_selector,
    unique,
    watching_tree,
    with_pairs,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    look_often(monkeypatch)


@pytest.fixture
def name() -> str:
    return unique("m")


async def test_wrong_retained_messages_are_repaired_at_the_start(engine: Engine, broker: Broker, name: str) -> None:
    _, ids = with_pairs(engine, name)
    async with watching_tree(broker) as tree:
        topic = tree.topics.assignment

        async def put(where: str, payload: bytes) -> None:
            await tree.session.publish(where, payload, retain=True)

        wrong = Assignment(server_id=ids[0], ip="192.0.2.200", status="active", interval=1.0)
        await put(topic(name, "v4", ids[0]), encode(wrong))
        await put(topic(name, "v4", ids[1]), b"nonsense")
        await put(topic(name, "v4", 4_000_000), encode(wrong))
        await put(topic(name, "v6", ids[2]), encode(wrong))
        await put(tree.topics.assignments(name)[:-1] + "something/else", b"foreign")
        await put(tree.topics.config(name), b"nonsense")
        async with running_selector(engine, broker) as selector:
            below = tree.topics.assignments(name)[:-1]
            right = {topic(name, "v4", server) for server in ids}
            await eventually(lambda: {t for t in tree.retained if t.startswith(below)} == right)
            await eventually(lambda: tree.statuses(name) == dict.fromkeys(ids, "testing"))
            for what, least in (("missing", 1), ("different", 2), ("stale", 3)):
                await eventually(lambda what=what, least=least: selector.number("repairs", what=what) >= least)
            await eventually(lambda: tree.config(name))


async def test_configs_and_assignments_of_unknown_monitors_are_removed(
    engine: Engine, broker: Broker, name: str
) -> None:
    async with watching_tree(broker) as tree:
        stray = Assignment(server_id=1, ip="192.0.2.1", status="active", interval=9.0)
        await tree.session.publish(tree.topics.config(name), encode(MonitorConfig()), retain=True)
        await tree.session.publish(tree.topics.assignment(name, "v4", 1), encode(stray), retain=True)
        await eventually(lambda: len(tree.retained) >= 2)
        async with running_selector(engine, broker):
            await eventually(lambda: not any(name in topic for topic in tree.retained))


async def test_decision_during_a_broker_outage_is_published_afterwards(
    engine: Engine, fresh_broker: Broker, name: str
) -> None:
    monitor, [server] = with_pairs(engine, name, 1)
    with engine.begin() as connection:
        add_results(connection, server, monitor, 40)
    async with running_selector(engine, fresh_broker) as selector:
        await eventually(lambda: selector.worker.broker.connected)
        fresh_broker.stop()
        await eventually(lambda: not selector.worker.broker.connected)
        await asyncio.to_thread(make_due, engine, server, datetime.now(UTC))
        await eventually(lambda: pair_statuses(engine, server) == {monitor: "active"})
        await eventually(lambda: selector.number("publish_lost") >= 1)
        fresh_broker.start()
        async with watching_tree(fresh_broker) as tree:
            await eventually(lambda: tree.statuses(name) == {server: "active"})


async def test_unacknowledged_assignment_is_published_again(
    engine: Engine, broker: Broker, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor, [server] = with_pairs(engine, name, 1)
    with engine.begin() as connection:
        add_results(connection, server, monitor, 40)
    async with watching_tree(broker) as tree, running_selector(engine, broker) as selector:
        await eventually(lambda: tree.statuses(name) == {server: "testing"})
        await quiet(selector, lambda: len(tree.heard))
        real, refused = BrokerSession.publish, list[str]()

        async def publish(session: BrokerSession, topic: str, payload: bytes, **options: Any) -> None:
            if session is selector.worker.broker and "assignments/" in topic and "events" not in topic and not refused:
                refused.append(topic)
                raise NotConnected("not acknowledged in time")
            await real(session, topic, payload, **options)

        monkeypatch.setattr(BrokerSession, "publish", publish)
        await asyncio.to_thread(make_due, engine, server, datetime.now(UTC))
        await eventually(lambda: tree.statuses(name) == {server: "active"})
        assert refused == [tree.topics.assignment(name, "v4", server)]
        assert selector.number("publish_lost") == 1


async def test_broker_that_lost_its_data_gets_all_retained_messages_again(
    engine: Engine, fresh_broker: Broker, name: str
) -> None:
    _, ids = with_pairs(engine, name)
    async with running_selector(engine, fresh_broker):
        async with watching_tree(fresh_broker) as tree:
            await eventually(lambda: set(tree.assignments(name)) == set(ids))
            await eventually(lambda: tree.topics.config(name) in tree.retained)
        fresh_broker.kill()
        for file in fresh_broker.process.directory.glob("*.db*"):
            file.unlink()
        fresh_broker.start()
        async with watching_tree(fresh_broker) as tree:
            await eventually(lambda: set(tree.assignments(name)) == set(ids))
            await eventually(lambda: tree.topics.config(name) in tree.retained)


async def test_decision_with_an_unanswered_commit_is_published(
    engine: Engine, broker: Broker, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor, [server] = with_pairs(engine, name, 1)
    with engine.begin() as connection:
        add_results(connection, server, monitor, 40)
    async with watching_tree(broker) as tree, running_selector(engine, broker) as selector:
        await eventually(lambda: tree.statuses(name) == {server: "testing"})
        await quiet(selector, lambda: len(tree.heard))
        with answers_lost(engine, monkeypatch):
            with contextlib.suppress(DatabaseUnavailable):
                await asyncio.to_thread(make_due, engine, server, datetime.now(UTC))
            await eventually(lambda: pair_statuses(engine, server) == {monitor: "active"})
            await eventually(lambda: selector.worker.doubts.count > 0)
        await eventually(lambda: tree.statuses(name) == {server: "active"})


def holding(*assignments: Assignment) -> bytes:
    """Return the status of an agent that holds these assignments."""
    state = ProtocolState(
        status="active",
        probing=True,
        assignments=len(assignments),
        assignments_hash=assignment_set_hash(assignments),
    )
    return encode(Status(online=True, ts=datetime.now(UTC), version="1", protocols={"v4": state}))


async def test_agent_that_missed_a_message_gets_all_assignments_again(
    engine: Engine, broker: Broker, name: str
) -> None:
    _, ids = with_pairs(engine, name)
    change(engine, server_scores, server_scores.c.server_id == ids[0], status="paused", pause_reason="constraint")
    async with watching_tree(broker) as tree, running_selector(engine, broker) as selector:
        await eventually(lambda: set(tree.assignments(name)) == set(ids[1:]))
        status = tree.topics.status(name)

        def told_since(count: int) -> set[str]:
            return {m.topic for m in tree.heard[count:] if name in m.topic}

        # The status agrees with the ledger: nothing is published.
        await tree.session.publish(status, holding(*tree.assignments(name).values()), retain=True)
        await quiet(selector, lambda: len(tree.heard))
        heard = len(tree.heard)
        all_topics = {tree.topics.assignment(name, "v4", server) for server in ids}
        # The status differs although the retained tree is correct. If the next one does too, all assignments are
        # published again, and those that the agent should not hold are removed again.
        for _ in range(50):
            await tree.session.publish(status, holding(), retain=True)
            if told_since(heard) >= all_topics:
                break
            await asyncio.sleep(0.1)
        assert told_since(heard) == all_topics
        assert set(tree.assignments(name)) == set(ids[1:])
        # But not repeatedly: an agent with another hash would cause this with each of its messages.
        heard = len(tree.heard)
        for _ in range(10):
            await tree.session.publish(status, holding(), retain=True)
            await asyncio.sleep(0.05)
        await quiet(selector, lambda: len(tree.heard))
        assert told_since(heard) == set()
        await tree.session.publish(status, b"", retain=True)


class Overtaken:
    """Let another selector decide and publish after this one has read the ledger, and before it publishes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Awaitable[None]]) -> None:
        self._real = Publisher.send
        self._act = act
        self.times = 0
        overtaken = self

        async def send(publisher: Publisher, told: Published) -> bool:
            return await overtaken.send(publisher, told)

        monkeypatch.setattr(Publisher, "send", send)

    async def send(self, publisher: Publisher, told: Published) -> bool:
        if not self.times:
            self.times = 1
            await self._act()
        return await self._real(publisher, told)


@pytest.mark.parametrize("path", ["review", "reconciliation"])
async def test_the_last_published_assignment_agrees_with_the_ledger(
    engine: Engine, broker: Broker, name: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monitor, [server] = with_pairs(engine, name, 1)
    meters = MeterProvider([])
    worker = new_worker(engine, broker.port, lambda: broker.token(Role.SERVER, "selector", "devel"), meters)
    metrics = SelectorMetrics(worker.telemetry.meter)
    lost: list[str] = []
    publisher = Publisher(worker, RowWarnings(), metrics, on_lost=lost.append)
    async with watching_tree(broker) as tree:
        session = asyncio.create_task(worker.broker.run())
        await worker.broker.wait_ready()

        async def decide() -> None:
            change(engine, server_scores, server_scores.c.server_id == server, status="active")
            newer = Assignment(server_id=server, ip="192.0.2.1", status="active", interval=540.0)
            await tree.session.publish(tree.topics.assignment(name, "v4", server), encode(newer), retain=True)

        overtaken = Overtaken(monkeypatch, decide)
        if path == "review":
            await publisher.publish_pairs([(server, monitor)])
        else:
            await Reconciler(worker, publisher, metrics).reconcile(name)
        assert overtaken.times == 1
        await eventually(lambda: tree.statuses(name) == {server: "active"})
        assert lost == []
        session.cancel()
        await asyncio.wait({session})
    meters.shutdown()
