"""The whole selector beside a real broker and both databases: agents are told what the ledger says, come what may."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from fixtures.broker import Broker
from fixtures.selector import (
    Running,
    Tree,
    add_results,
    eventually,
    new_worker,
    pair_statuses,
    running_selector,
    set_presence,
    set_setting,
    unique,
    watching_tree,
)
from fixtures.world import add_monitor, add_pair, add_server
from opentelemetry.sdk.metrics import MeterProvider
from sqlalchemy.engine import Engine

from auth.tokens import Role
from runtime.broker import Incoming
from runtime.work_queue import REVIEWS
from schema.messages import (
    Assignment,
    AssignmentChanged,
    ControlAnswer,
    ControlCommand,
    MonitorConfig,
    ProtocolState,
    Status,
    assignment_set_hash,
    decode,
    encode,
)
from schema.tables import monitors, server_scores, servers, servers_monitor_review
from selector import agents, watch
from selector.complaints import Complaints
from selector.due import make_due
from selector.numbers import Numbers
from selector.publishing import Publisher, Told
from selector.reconcile import Reconciler


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK", 0.1)
    monkeypatch.setattr(agents, "PAUSE", 0.1)


@pytest.fixture
def name() -> str:
    return unique("m")


def some_servers(engine: Engine, count: int = 3) -> list[int]:
    with engine.begin() as connection:
        return [add_server(connection) for _ in range(count)]


def a_monitor(engine: Engine, name: str, **fields: Any) -> int:
    with engine.begin() as connection:
        set_presence(connection, name)
        return add_monitor(connection, name, **fields)


def change(engine: Engine, table: sa.Table, where: Any = None, **values: Any) -> None:
    with engine.begin() as connection:
        update = sa.update(table).values(values)
        connection.execute(update if where is None else update.where(where))


def with_pairs(engine: Engine, name: str, count: int = 3, status: Any = "testing") -> tuple[int, list[int]]:
    """A monitor that has this status at all servers; reviews find nothing to change, and are far away."""
    ids = some_servers(engine, count)
    monitor = a_monitor(engine, name)
    with engine.begin() as connection:
        for server in ids:
            add_pair(connection, server, monitor, status)
        REVIEWS.add(connection, ids, datetime(2099, 1, 1))
    return monitor, ids


async def order(selector: Running, **fields: Any) -> ControlAnswer:
    return await selector.worker.control.answer(Incoming("/devel/control/selector", encode(ControlCommand(**fields))))


async def test_a_new_monitor_is_told_its_candidates_and_its_config(engine: Engine, broker: Broker, name: str) -> None:
    ids = some_servers(engine)
    async with watching_tree(broker) as tree, running_selector(engine, broker) as selector:
        a_monitor(engine, name, config={"samples": 2})
        # Without any active or testing monitor its place is in testing at once.
        await eventually(lambda: tree.statuses(name) == dict.fromkeys(ids, "testing"))
        told = tree.assignments(name)[ids[0]]
        assert (told.interval, told.port) == (2700.0, 123)
        await eventually(lambda: tree.topics.config(name) in tree.retained)
        config = decode(tree.retained[tree.topics.config(name)], MonitorConfig)
        assert (config.protocols["v4"].status, config.protocols["v4"].samples) == ("active", 2)
        assert selector.number("pairs_made") == len(ids)
        assert selector.number("status_changes", **{"from": "candidate", "to": "testing"}) == len(ids)
        late = some_servers(engine, 1)
        await eventually(lambda: set(tree.assignments(name)) == {*ids, *late})


async def test_a_decision_reaches_the_agent_and_the_live_stream(engine: Engine, broker: Broker, name: str) -> None:
    monitor, [server] = with_pairs(engine, name, 1)
    with engine.begin() as connection:
        add_results(connection, server, monitor, 40)
    async with watching_tree(broker) as tree, running_selector(engine, broker):
        await eventually(lambda: tree.statuses(name) == {server: "testing"})
        await asyncio.to_thread(make_due, engine, server, datetime.now(UTC))
        await eventually(lambda: tree.statuses(name) == {server: "active"})
        assert pair_statuses(engine, server) == {monitor: "active"}
        topic = tree.topics.assignment_event(server)
        await eventually(lambda: any(message.topic == topic for message in tree.heard))
        [event] = [decode(message.payload, AssignmentChanged) for message in tree.heard if message.topic == topic]
        assert (event.monitor, event.before, event.after) == (name, "testing", "active")
        assert event.reason.startswith("rule 3")


@pytest.mark.parametrize("status", ["pending", "paused", "deleted"])
async def test_a_monitor_that_stops_being_live_is_told_nothing(
    engine: Engine, broker: Broker, name: str, status: str
) -> None:
    monitor, ids = with_pairs(engine, name)
    async with watching_tree(broker) as tree, running_selector(engine, broker):
        await eventually(lambda: set(tree.assignments(name)) == set(ids))
        change(engine, monitors, monitors.c.id == monitor, status=status)
        await eventually(lambda: tree.assignments(name) == {})

        def told() -> str:
            return decode(tree.retained[tree.topics.config(name)], MonitorConfig).protocols["v4"].status

        await eventually(lambda: told() == status)
        change(engine, monitors, monitors.c.id == monitor, status="active")
        await eventually(lambda: set(tree.assignments(name)) == set(ids))


async def test_what_is_missing_stale_different_or_foreign_is_repaired_at_the_start(
    engine: Engine, broker: Broker, name: str
) -> None:
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
            assert set(tree.statuses(name).values()) == {"testing"}
            await eventually(lambda: selector.number("repairs", what="different") >= 2)
            assert selector.number("repairs", what="missing") >= 1
            assert selector.number("repairs", what="stale") >= 3
            await eventually(lambda: decode(tree.retained[tree.topics.config(name)], MonitorConfig))


async def test_configs_and_assignments_of_nobody_are_removed(engine: Engine, broker: Broker, name: str) -> None:
    async with watching_tree(broker) as tree:
        stray = Assignment(server_id=1, ip="192.0.2.1", status="active", interval=9.0)
        await tree.session.publish(tree.topics.config(name), encode(MonitorConfig()), retain=True)
        await tree.session.publish(tree.topics.assignment(name, "v4", 1), encode(stray), retain=True)
        await eventually(lambda: len(tree.retained) >= 2)
        async with running_selector(engine, broker):
            await eventually(lambda: not any(name in topic for topic in tree.retained))


async def test_what_was_decided_while_the_broker_was_away_is_told_later(
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


async def test_a_broker_that_lost_everything_is_told_everything(
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


async def test_other_intervals_reach_the_agents(engine: Engine, broker: Broker, name: str) -> None:
    _, ids = with_pairs(engine, name)
    async with watching_tree(broker) as tree, running_selector(engine, broker):
        await eventually(lambda: len(tree.assignments(name)) == len(ids))
        with engine.begin() as connection:
            set_setting(connection, "monitors", {"interval_testing": 33.0, "samples": 1})
        await eventually(lambda: {one.interval for one in tree.assignments(name).values()} == {33.0})

        def samples() -> int:
            return decode(tree.retained[tree.topics.config(name)], MonitorConfig).protocols["v4"].samples

        await eventually(lambda: samples() == 1)


async def test_a_deleted_server_is_no_longer_measured(engine: Engine, broker: Broker, name: str) -> None:
    _, [deleted, other] = with_pairs(engine, name, 2)
    async with watching_tree(broker) as tree, running_selector(engine, broker):
        await eventually(lambda: set(tree.assignments(name)) == {deleted, other})
        change(engine, servers, servers.c.id == deleted, deletion_on=datetime.now(UTC).date())
        await asyncio.to_thread(make_due, engine, deleted, datetime.now(UTC))
        await eventually(lambda: set(tree.assignments(name)) == {other})
        change(engine, servers, servers.c.id == deleted, deletion_on=None)
        await eventually(lambda: _next_review(engine, deleted) is not None)


def _next_review(engine: Engine, server: int) -> datetime | None:
    queue = servers_monitor_review.c
    with engine.connect() as connection:
        return connection.scalar(sa.select(queue.next_review).where(queue.server_id == server))


def holding(*assignments: Assignment) -> bytes:
    """The status of an agent that holds these."""
    state = ProtocolState(
        status="active",
        probing=True,
        assignments=len(assignments),
        assignments_hash=assignment_set_hash(assignments),
    )
    return encode(Status(online=True, ts=datetime.now(UTC), version="1", protocols={"v4": state}))


async def test_an_agent_that_missed_something_is_told_everything_again(
    engine: Engine, broker: Broker, name: str
) -> None:
    _, ids = with_pairs(engine, name)
    change(engine, server_scores, server_scores.c.server_id == ids[0], status="paused", pause_reason="constraint")
    async with watching_tree(broker) as tree, running_selector(engine, broker) as selector:
        await eventually(lambda: set(tree.assignments(name)) == set(ids[1:]))
        status = tree.topics.status(name)

        def told_since(count: int) -> set[str]:
            return {m.topic for m in tree.heard[count:] if name in m.topic}

        # In agreement with the ledger: nothing is said.
        await tree.session.publish(status, holding(*tree.assignments(name).values()), retain=True)
        await quiet(selector, lambda: len(tree.heard))
        heard = len(tree.heard)
        all_topics = {tree.topics.assignment(name, "v4", server) for server in ids}
        # The agent's report differs although the tree is right; when it goes on like that, all is said again, and
        # what it should not hold is removed again.
        for _ in range(50):
            await tree.session.publish(status, holding(), retain=True)
            if told_since(heard) >= all_topics:
                break
            await asyncio.sleep(0.1)
        assert told_since(heard) == all_topics
        assert set(tree.assignments(name)) == set(ids[1:])
        # Not again and again: an agent that counts differently would be told all of it at each of its messages.
        heard = len(tree.heard)
        for _ in range(10):
            await tree.session.publish(status, holding(), retain=True)
            await asyncio.sleep(0.05)
        await quiet(selector, lambda: len(tree.heard))
        assert told_since(heard) == set()
        await tree.session.publish(status, b"", retain=True)


async def quiet(selector: Running, count: Callable[[], int]) -> None:
    """Returns once nothing is marked for reconciliation and nothing was heard for a moment."""
    last = -1
    while last != count():
        last = count()
        await eventually(lambda: selector.worker.status.get("reconciling") == 0)
        await asyncio.sleep(0.5)


async def test_orders_are_carried_out(engine: Engine, broker: Broker, name: str) -> None:
    monitor, [one, other] = with_pairs(engine, name, 2)
    with engine.begin() as connection:
        add_results(connection, one, monitor, 40)
        add_results(connection, other, monitor, 40)
    async with running_selector(engine, broker):
        pass  # it can be started and stopped at any time
    async with running_selector(engine, broker) as selector:
        answer = await order(selector, command="pause")
        assert answer.ok
        assert answer.details == {"paused": True}
        answer = await order(selector, command="review", server_id=one)
        assert (answer.ok, answer.details) == (True, {"due": 1})
        answer = await order(selector, command="review", server_id=other + 999)
        assert not answer.ok
        assert str(other + 999) in answer.message
        await eventually(lambda: selector.worker.status.get("due") == 1)
        assert selector.worker.status["paused"] is True
        assert pair_statuses(engine, one) == {monitor: "testing"}, "paused, nothing is decided"
        await order(selector, command="resume")
        await eventually(lambda: pair_statuses(engine, one) == {monitor: "active"})
        assert pair_statuses(engine, other) == {monitor: "testing"}
        answer = await order(selector, command="review")
        assert answer.details == {"due": 2}
        await eventually(lambda: pair_statuses(engine, other) == {monitor: "active"})


async def test_a_monitor_that_changes_makes_its_servers_reviewed(engine: Engine, broker: Broker, name: str) -> None:
    monitor, ids = with_pairs(engine, name, 2, status="active")
    async with running_selector(engine, broker) as selector:
        await eventually(lambda: "due" in selector.worker.status)
        change(engine, monitors, monitors.c.id == monitor, status="paused")
        await eventually(lambda: all(pair_statuses(engine, server) == {monitor: "candidate"} for server in ids))
        assert selector.number("made_due", why="status") == 2


async def test_the_numbers_say_what_is_there(engine: Engine, broker: Broker, name: str) -> None:
    _, ids = with_pairs(engine, name, 3)
    change(engine, server_scores, server_scores.c.server_id == ids[1], constraint_violation_type="limit")
    with engine.begin() as connection:
        add_pair(connection, ids[0], add_monitor(connection, unique("b"), ip="nowhere"))
        REVIEWS.make_due(connection, ids[:1], datetime(2026, 1, 1))
    async with running_selector(engine, broker) as selector:
        await eventually(lambda: selector.number("reviews") >= 1)
        await eventually(lambda: selector.number("pairs", status="testing") == 3)
        assert selector.number("violations", type="limit") == 1
        assert selector.number("bad_rows", kind="monitor") >= 1
        assert selector.number("due") == 0


async def test_two_selectors_agree(engine: Engine, broker: Broker) -> None:
    names = [unique("m") for _ in range(6)]
    ids = some_servers(engine, 15)
    for number, one in enumerate(names):
        monitor = a_monitor(engine, one, ip=f"10.{number}.0.1")
        with engine.begin() as connection:
            for server in ids:
                add_pair(connection, server, monitor, "candidate")
                add_results(connection, server, monitor, 30, rtt=10_000 * (number + 1))
    async with (
        watching_tree(broker) as tree,
        running_selector(engine, broker) as one,
        running_selector(engine, broker) as other,
    ):
        for _ in range(6):
            await asyncio.to_thread(make_due, engine, None, datetime.now(UTC) - timedelta(seconds=1))
            await eventually(lambda: _backlog(engine) == 0)
        await eventually(lambda: one.number("reviews") + other.number("reviews") >= len(ids))
        await eventually(lambda: _agree(engine, tree, names), "tree and ledger differ")
        assert any(status == "active" for status in tree.statuses(names[0]).values())


def _backlog(engine: Engine) -> int:
    with engine.connect() as connection:
        return REVIEWS.backlog(connection, datetime.now(UTC).replace(tzinfo=None))


def _agree(engine: Engine, tree: Tree, names: list[str]) -> bool:
    pairs = server_scores.c
    query = sa.select(monitors.c.tls_name, pairs.server_id, pairs.status).join(
        monitors, monitors.c.id == pairs.monitor_id
    )
    with engine.connect() as connection:
        ledger = {(row.tls_name, row.server_id): row.status for row in connection.execute(query)}
    return ledger == {(name, server): status for name in names for server, status in tree.statuses(name).items()}


class Overtaken:
    """Another selector decides and publishes at the worst moment: ours has read the ledger but not yet published."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Awaitable[None]]) -> None:
        self._real = Publisher.send
        self._act = act
        self.times = 0
        overtaken = self

        async def send(publisher: Publisher, told: Told) -> bool:
            return await overtaken.send(publisher, told)

        monkeypatch.setattr(Publisher, "send", send)

    async def send(self, publisher: Publisher, told: Told) -> bool:
        if not self.times:
            self.times = 1
            await self._act()
        return await self._real(publisher, told)


@pytest.mark.parametrize("path", ["review", "reconciliation"])
async def test_whoever_publishes_last_says_what_the_ledger_says(
    engine: Engine, broker: Broker, name: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monitor, [server] = with_pairs(engine, name, 1)
    meters = MeterProvider([])
    worker = new_worker(engine, broker.port, lambda: broker.token(Role.SERVER, "selector", "devel"), meters)
    numbers = Numbers(worker.telemetry.meter)
    lost: list[str] = []
    publisher = Publisher(worker, Complaints(), numbers, on_lost=lost.append)
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
            await Reconciler(worker, publisher, numbers).reconcile(name)
        assert overtaken.times == 1
        await eventually(lambda: tree.statuses(name) == {server: "active"})
        assert lost == []
        session.cancel()
        await asyncio.wait({session})
    meters.shutdown()
