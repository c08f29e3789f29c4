"""Test the whole selector with a real broker and every database: the ledger's assignments reach the agents."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from runtime.db.queue import REVIEWS
from runtime.mqtt.session import Incoming
from schema.messages import (
    AssignmentChanged,
    ControlAnswer,
    ControlCommand,
    decode,
    encode,
)
from schema.tables import monitors, server_scores, servers, servers_monitor_review
from selector.triggers import make_due
from testbed.fixtures.broker import Broker
from testbed.fixtures.selector import (
    Running,
    Tree,
    a_monitor,
    add_results,
    change,
    eventually,
    look_often,
    pair_statuses,
    running_selector,
    set_setting,
    some_servers,
    unique,
    watching_tree,
    with_pairs,
)
from testbed.fixtures.world import add_monitor, add_pair


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    look_often(monkeypatch)


@pytest.fixture
def name() -> str:
    return unique("m")


async def order(selector: Running, **fields: Any) -> ControlAnswer:
    return await selector.worker.control.answer(Incoming("/devel/control/selector", encode(ControlCommand(**fields))))


async def test_new_monitor_gets_its_assignments_and_config(engine: Engine, broker: Broker, name: str) -> None:
    ids = some_servers(engine)
    async with watching_tree(broker) as tree, running_selector(engine, broker) as selector:
        a_monitor(engine, name, config={"samples": 2})
        # Since no monitor is active or testing, it becomes testing immediately.
        await eventually(lambda: tree.statuses(name) == dict.fromkeys(ids, "testing"))
        told = tree.assignments(name)[ids[0]]
        assert (told.interval, told.port) == (2700.0, 123)
        await eventually(lambda: tree.config(name))
        config = tree.config(name)
        assert config is not None
        assert (config.status, config.samples) == ("active", 2)
        assert selector.number("pairs_made") == len(ids)
        assert selector.number("status_changes", **{"from": "candidate", "to": "testing"}) == len(ids)
        late = some_servers(engine, 1)
        await eventually(lambda: set(tree.assignments(name)) == {*ids, *late})


async def test_decision_reaches_the_agent_and_the_live_stream(engine: Engine, broker: Broker, name: str) -> None:
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
async def test_monitor_that_is_no_longer_live_has_no_assignments(
    engine: Engine, broker: Broker, name: str, status: str
) -> None:
    monitor, ids = with_pairs(engine, name)
    async with watching_tree(broker) as tree, running_selector(engine, broker):
        await eventually(lambda: set(tree.assignments(name)) == set(ids))
        change(engine, monitors, monitors.c.id == monitor, status=status)
        await eventually(lambda: tree.assignments(name) == {})
        await eventually(lambda: (config := tree.config(name)) and config.status == status)
        change(engine, monitors, monitors.c.id == monitor, status="active")
        await eventually(lambda: set(tree.assignments(name)) == set(ids))


async def test_changed_settings_reach_the_agents(engine: Engine, broker: Broker, name: str) -> None:
    _, ids = with_pairs(engine, name)
    async with watching_tree(broker) as tree, running_selector(engine, broker):
        await eventually(lambda: len(tree.assignments(name)) == len(ids))
        with engine.begin() as connection:
            set_setting(connection, "monitors", {"interval_testing": 33.0, "samples": 1})
        await eventually(lambda: {one.interval for one in tree.assignments(name).values()} == {33.0})
        await eventually(lambda: (config := tree.config(name)) and config.samples == 1)


async def test_a_deleted_server_is_no_longer_measured(
    engine: Engine, broker: Broker, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server that returns before its deletion was noticed is only found by the next sweep, within ten minutes.
    monkeypatch.setattr("selector.worker.SWEEP_EVERY", 1.0)
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


async def test_control_commands_are_executed(engine: Engine, broker: Broker, name: str) -> None:
    monitor, [one, other] = with_pairs(engine, name, 2)
    with engine.begin() as connection:
        add_results(connection, one, monitor, 40)
        add_results(connection, other, monitor, 40)
    async with running_selector(engine, broker):
        pass  # it can also be stopped immediately after its start
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


async def test_changed_monitor_triggers_reviews_of_its_servers(engine: Engine, broker: Broker, name: str) -> None:
    monitor, ids = with_pairs(engine, name, 2, status="active")
    async with running_selector(engine, broker) as selector:
        await eventually(lambda: "due" in selector.worker.status)
        change(engine, monitors, monitors.c.id == monitor, status="paused")
        await eventually(lambda: all(pair_statuses(engine, server) == {monitor: "candidate"} for server in ids))
        assert selector.number("made_due", why="status") == 2


async def test_metrics_report_reviews_pairs_violations_and_skipped_rows(
    engine: Engine, broker: Broker, name: str
) -> None:
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
        await eventually(lambda: selector.number("due") == 0)


async def test_two_selectors_publish_the_same_as_the_ledger(engine: Engine, broker: Broker) -> None:
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
        return REVIEWS.backlog(connection, datetime.now(UTC).replace(tzinfo=None)).due


def _agree(engine: Engine, tree: Tree, names: list[str]) -> bool:
    pairs = server_scores.c
    query = sa.select(monitors.c.tls_name, pairs.server_id, pairs.status).join(
        monitors, monitors.c.id == pairs.monitor_id
    )
    with engine.connect() as connection:
        ledger = {(row.tls_name, row.server_id): row.status for row in connection.execute(query)}
    return ledger == {(name, server): status for name in names for server, status in tree.statuses(name).items()}
