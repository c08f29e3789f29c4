"""Test ``selector once``: it reviews due or named servers, publishes the assignments, and reports its decisions."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from opentelemetry.sdk.metrics import MeterProvider
from sqlalchemy.engine import Connection, Engine

from auth.tokens import Role
from ops.selector_once import SelectorOnce
from schema.tables import assignment_changes, servers, servers_monitor_review
from testbed.fixtures.broker import Broker
from testbed.fixtures.selector import (
    add_results,
    eventually,
    new_worker,
    pair_statuses,
    set_presence,
    unique,
    watching_tree,
)
from testbed.fixtures.world import add_account, add_monitor, add_pair, add_server

FAR = datetime(2099, 1, 1)


def a_monitor(connection: Connection, number: int) -> tuple[int, str]:
    name = unique("m")
    monitor = add_monitor(connection, name, ip=f"10.{number}.0.1", account_id=add_account(connection))
    set_presence(connection, name)
    return monitor, name


def in_queue(connection: Connection, server: int, due: datetime | None) -> None:
    connection.execute(sa.insert(servers_monitor_review).values(server_id=server, next_review=due))


def next_review(engine: Engine, server: int) -> datetime | None:
    queue = servers_monitor_review.c
    with engine.connect() as connection:
        found: datetime | None = connection.scalar(sa.select(queue.next_review).where(queue.server_id == server))
        return found


@asynccontextmanager
async def run_once(engine: Engine, broker: Broker, server: int | None) -> AsyncIterator[SelectorOnce]:
    meters = MeterProvider()
    worker = new_worker(engine, broker.port, lambda: broker.token(Role.SERVER, "selector", "devel"), meters)
    once = SelectorOnce(server)
    connected = asyncio.create_task(worker.broker.run())
    try:
        await once.work(worker)
        yield once
    finally:
        connected.cancel()
        await asyncio.wait({connected})
        meters.shutdown()


DUE = {
    "is due": lambda c, server: in_queue(c, server, datetime(2026, 1, 1)),
    "was never reviewed": lambda c, server: in_queue(c, server, None),
    "has no place in the queue": lambda c, server: None,
}


@pytest.mark.parametrize("case", DUE)
async def test_reviews_a_server_that(case: str, engine: Engine, broker: Broker) -> None:
    """A candidate is promoted to testing and its assignment published; a server that is not due is left alone."""
    with engine.begin() as connection:
        server, later = add_server(connection), add_server(connection)
        monitor, name = a_monitor(connection, 1)
        for one in (server, later):
            add_pair(connection, one, monitor, "candidate")
            add_results(connection, one, monitor, 20)
        DUE[case](connection, server)
        in_queue(connection, later, FAR)
    began = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    async with watching_tree(broker) as tree, run_once(engine, broker, None) as once:
        await eventually(lambda: tree.statuses(name) == {server: "testing"}, "the agent was not told")
    assert pair_statuses(engine, server) == {monitor: "testing"}
    assert pair_statuses(engine, later) == {monitor: "candidate"}
    due = next_review(engine, server)
    assert due is not None
    assert timedelta(minutes=60) <= due - began < timedelta(minutes=62), "60 minutes after a change"
    assert next_review(engine, later) == FAR
    assert once.unnotified == set()
    assert once.lines() == [
        f"server {server}: {name}: candidate to testing: rule 5: reserved place in testing: "
        "0 of 6 reserved places held; priority 20, 20 results",
        "1 servers reviewed, 1 changes",
    ]
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(assignment_changes)) == 1


async def test_reviews_all_due_servers_in_several_batches(engine: Engine, broker: Broker) -> None:
    with engine.begin() as connection:
        monitor, name = a_monitor(connection, 1)
        ids = [add_server(connection) for _ in range(23)]
        for server in ids:
            add_pair(connection, server, monitor, "candidate")
            add_results(connection, server, monitor, 20)
            in_queue(connection, server, None)
    async with watching_tree(broker) as tree, run_once(engine, broker, None) as once:
        await eventually(lambda: tree.statuses(name) == dict.fromkeys(ids, "testing"), "the agent was not told all")
    assert once.lines()[-1] == "23 servers reviewed, 23 changes"


async def test_deleted_server_is_not_reviewed(engine: Engine, broker: Broker) -> None:
    with engine.begin() as connection:
        server = add_server(connection)
        connection.execute(sa.update(servers).where(servers.c.id == server).values(deletion_on=datetime(2026, 1, 1)))
        in_queue(connection, server, None)
    async with run_once(engine, broker, None) as once:
        assert once.lines() == ["0 servers reviewed, 0 changes"]
    assert next_review(engine, server) is None


async def test_named_server_is_reviewed_even_if_it_is_not_due_and_no_other(engine: Engine, broker: Broker) -> None:
    with engine.begin() as connection:
        server, other = add_server(connection), add_server(connection)
        monitor, name = a_monitor(connection, 1)
        for one in (server, other):
            add_pair(connection, one, monitor, "candidate")
            add_results(connection, one, monitor, 20)
        in_queue(connection, server, FAR)
    async with watching_tree(broker) as tree, run_once(engine, broker, server) as once:
        await eventually(lambda: tree.statuses(name) == {server: "testing"}, "the agent was not told")
    assert once.lines()[-1] == "1 servers reviewed, 1 changes"
    assert pair_statuses(engine, other) == {monitor: "candidate"}
    assert next_review(engine, other) is None


async def test_the_command_reviews_and_publishes(server_engine: Engine, broker: Broker, tmp_path: Path) -> None:
    with server_engine.begin() as connection:
        server = add_server(connection)
        monitor, name = a_monitor(connection, 1)
        add_pair(connection, server, monitor, "candidate")
        add_results(connection, server, monitor, 20)
    key = tmp_path / "jwt.key"
    key.write_text(broker.key.verification_text())
    key.chmod(0o600)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MQTT_", "JWT_", "DATABASE_"))}
    environment = {
        "MQTT_HOST": "127.0.0.1",
        "MQTT_PORT": str(broker.port),
        "JWT_KEY_FILE": str(key),
        "DATABASE_DSN": server_engine.url.render_as_string(hide_password=False),
    }
    command = [sys.executable, "-m", "ops", "--env", "devel", "selector", "once"]
    async with watching_tree(broker) as tree:
        done = await asyncio.to_thread(
            subprocess.run, command, env=kept | environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        await eventually(lambda: tree.statuses(name) == {server: "testing"}, "the agent was not told")
    assert done.stdout.splitlines()[-1] == "1 servers reviewed, 1 changes"
    assert pair_statuses(server_engine, server) == {monitor: "testing"}
