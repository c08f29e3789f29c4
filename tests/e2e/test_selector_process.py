"""Test the selector as a process: events of monitors and accounts change the assignments, and agents receive them."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from schema.tables import accounts, assignment_changes, log_scores, monitors
from testbed.fixtures.broker import Broker
from testbed.fixtures.selector import (
    Tree,
    add_results,
    eventually,
    pair_statuses,
    set_presence,
    set_setting,
    unique,
    watching_tree,
)
from testbed.fixtures.worker_process import WorkerProcess, worker_settings, write_key
from testbed.fixtures.world import add_account, add_monitor, add_server

MONITORS = 12

settles = partial(eventually, patience=60.0)
"""Wait for a result of a dozen reviews, which are a second or two apart, or more on a busy machine."""


@contextmanager
def selector(engine: Engine, broker: Broker, directory: Path) -> Iterator[None]:
    """Run ``ntppool-monitor selector server`` within the context."""
    settings = worker_settings(broker, write_key(directory, broker), engine.url)
    with WorkerProcess(directory, "devel", "selector", "server", **settings) as worker:
        yield
        assert worker.process.poll() is None, worker.log_text()
        assert worker.ends_after(signal.SIGTERM) < 5.0, "it ends within five seconds"
        assert worker.process.returncode == 0


class World:
    """One server and its monitors with their results; each monitor has its own account and network."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.names: dict[int, str] = {}
        with engine.begin() as connection:
            # Written first, since the process reads the settings when it starts.
            set_setting(connection, "selector", {"review_changed": 0.5, "review_unchanged": 0.5})
            self.server = add_server(connection)
            for number in range(MONITORS):
                name = unique("m")
                account = add_account(connection)
                monitor = add_monitor(connection, name, ip=f"10.{number}.0.1", account_id=account)
                set_presence(connection, name, seen=datetime.now(UTC) + timedelta(hours=1))
                add_results(connection, self.server, monitor, 40, rtt=10_000 * (number + 1))
                self.names[monitor] = name

    def of(self, *statuses: str) -> set[int]:
        return {monitor for monitor, status in pair_statuses(self.engine, self.server).items() if status in statuses}

    def change(self, table: sa.Table, where: Any, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.update(table).where(where).values(values))

    def moves(self) -> list[tuple[datetime, str, str | None, str]]:
        """Return the status changes in order: time, status before, status after, reason."""
        c = assignment_changes.c
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(assignment_changes).order_by(c.id)).all()
        return [(row.changed_on, row.before_status, row.after_status, row.reason) for row in rows]

    async def told(self, tree: Tree) -> None:
        """Wait until the retained assignments agree with the ledger."""

        def agree() -> bool:
            ledger = pair_statuses(self.engine, self.server)
            live = self._live()
            wanted = {name: {self.server: ledger[m]} if m in live else {} for m, name in self.names.items()}
            return {name: tree.statuses(name) for name in self.names.values()} == wanted

        await settles(agree, "agents and ledger differ")

    def _live(self) -> set[int]:
        with self.engine.connect() as connection:
            live = monitors.c.status.in_(["active", "testing"])
            return set(connection.scalars(sa.select(monitors.c.id).where(live)))


@pytest.fixture
def world(server_engine: Engine) -> World:
    return World(server_engine)


async def test_a_monitor_that_turns_bad_is_replaced(world: World, broker: Broker, tmp_path: Path) -> None:
    async with watching_tree(broker) as tree:
        with selector(world.engine, broker, tmp_path):
            await settles(lambda: len(world.of("active")) == 7, "seven become active")
            await world.told(tree)
            bad = min(world.of("active"))
            where = sa.and_(log_scores.c.monitor_id == bad, log_scores.c.server_id == world.server)
            world.change(log_scores, where, step=-5.0)
            await settles(lambda: bad not in world.of("active") and len(world.of("active")) == 7)
            await settles(lambda: bad in world.of("candidate"))
            await world.told(tree)


async def test_monitors_of_an_account_over_its_limit_are_removed_gradually(
    world: World, broker: Broker, tmp_path: Path
) -> None:
    crowd = sorted(world.names)[:5]
    with world.engine.begin() as connection:
        account = add_account(connection, flags={"monitors_per_server_limit": 5})
    world.change(monitors, monitors.c.id.in_(crowd), account_id=account)
    async with watching_tree(broker) as tree:
        with selector(world.engine, broker, tmp_path):
            await settles(lambda: set(crowd) <= world.of("active"), "the quickest become active")
            before = len(world.moves())
            world.change(accounts, accounts.c.id == account, flags={"monitors_per_server_limit": 1})
            await settles(lambda: len(world.of("active") & set(crowd)) == 1)
            await settles(lambda: len(world.of("active", "testing") & set(crowd)) <= 2)
            await settles(lambda: len(world.of("active")) == 7, "others take their places")
            await world.told(tree)
    removals: dict[datetime, int] = {}
    for at, source, _, reason in world.moves()[before:]:
        if source == "active" and "limit" in reason:
            removals[at] = removals.get(at, 0) + 1
    assert sum(removals.values()) == 4
    assert max(removals.values()) <= 2, "no review takes more than two away"


async def test_a_server_that_lost_all_active_monitors_recovers(world: World, broker: Broker, tmp_path: Path) -> None:
    async with watching_tree(broker) as tree:
        with selector(world.engine, broker, tmp_path):
            await settles(lambda: len(world.of("active")) == 7)
            lost = world.of("active")
            world.change(monitors, monitors.c.id.in_(lost), status="paused")
            await settles(lambda: world.of("active") == set(world.names) - lost, "the others take over")
            assert world.of("candidate") >= lost
            await world.told(tree)
            await asyncio.to_thread(world.change, monitors, monitors.c.id.in_(lost), status="active")
            await settles(lambda: len(world.of("active")) == 7)
            await world.told(tree)
