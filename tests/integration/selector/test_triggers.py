"""Test which events make servers due immediately, once and across restarts, on every database."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from runtime.db.engine import open_database, reading
from runtime.db.queue import REVIEWS
from schema.tables import accounts, monitors, selector_seen, server_scores, servers_monitor_review
from selector.monitors import read_monitors
from selector.triggers import MonitorChange, make_due, record_monitor_changes
from testbed.fixtures.selector import set_presence, unique
from testbed.fixtures.world import add_account, add_monitor, add_pair, add_server

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 13, 0, 0)
AT_ONCE = datetime(2026, 1, 2, 12, 0, 0)
STATUSES = ("active", "testing", "candidate", "paused")
PLACED, ALL = {"active", "testing"}, set(STATUSES)

Change = Callable[[Connection, int], None]


def note(engine: Engine, now: datetime = NOW) -> list[MonitorChange]:
    with reading(engine) as connection:
        rows = read_monitors(connection, now).monitors
    return record_monitor_changes(engine, rows, now)


def test_gone_flapping_monitor_is_recorded_only_with_another_change(engine: Engine) -> None:
    monitor, ids = world(engine)
    gone = NOW + timedelta(minutes=16)
    with reading(engine) as connection:
        rows = read_monitors(connection, gone).monitors
    assert record_monitor_changes(engine, rows, NOW, flapping={monitor}) == []
    assert due(engine) == set()
    with engine.begin() as connection:
        connection.execute(sa.update(monitors).where(monitors.c.id == monitor).values(status="paused"))
    with reading(engine) as connection:
        changed = read_monitors(connection, gone).monitors
    [news] = record_monitor_changes(engine, changed, NOW, flapping={monitor})
    assert news.what == ("status", "gone"), "another change waits for nothing"
    assert due(engine) == {ids["active"], ids["testing"]}


def test_monitor_gone_while_flapping_is_recorded_afterwards(engine: Engine) -> None:
    monitor, ids = world(engine)
    with reading(engine) as connection:
        rows = read_monitors(connection, NOW + timedelta(minutes=16)).monitors
    assert record_monitor_changes(engine, rows, NOW, flapping={monitor}) == []
    [news] = record_monitor_changes(engine, rows, NOW)
    assert (news.monitor_id, news.what, news.servers) == (monitor, ("gone",), 2)
    assert due(engine) == {ids["active"], ids["testing"]}


def due(engine: Engine) -> set[int]:
    queue = servers_monitor_review.c
    with engine.connect() as connection:
        return set(connection.scalars(sa.select(queue.server_id).where(queue.next_review <= AT_ONCE)))


def world(engine: Engine) -> tuple[int, dict[str, int]]:
    """Add a monitor whose state is recorded, with a server for each pair status, none of which is due."""
    with engine.begin() as connection:
        account = add_account(connection, flags={"monitors_per_server_limit": 2})
        name = unique("m")
        monitor = add_monitor(connection, name, account_id=account)
        other = add_monitor(connection, unique("o"))
        set_presence(connection, name, seen=NOW)
        ids = {}
        for status in STATUSES:
            ids[status] = add_server(connection)
            add_pair(connection, ids[status], monitor, status)  # type: ignore[arg-type]
            add_pair(connection, ids[status], other, status)  # type: ignore[arg-type]
        REVIEWS.add(connection, ids.values(), LATER)
    assert note(engine) == []
    return monitor, ids


def of_monitor(**values: Any) -> Change:
    def change(connection: Connection, monitor: int) -> None:
        connection.execute(sa.update(monitors).where(monitors.c.id == monitor).values(values))

    return change


def move_account(connection: Connection, monitor: int) -> None:
    of_monitor(account_id=add_account(connection, flags={"monitors_per_server_limit": 2}))(connection, monitor)


def change_limit(connection: Connection, monitor: int) -> None:
    connection.execute(sa.update(accounts).values(flags={"monitors_per_server_limit": 1}))


def change_other_flags(connection: Connection, monitor: int) -> None:
    connection.execute(sa.update(accounts).values(flags={"monitors_per_server_limit": 2, "monitor_limit": 9}))


@pytest.mark.parametrize(
    ("change", "what", "which"),
    [
        (of_monitor(status="paused"), ("status",), PLACED),
        (of_monitor(status="testing"), ("status",), ALL),
        (of_monitor(ip="203.0.113.5"), ("address",), ALL),
        (move_account, ("account",), ALL),
        (change_limit, ("limit",), PLACED),
    ],
    ids=["not live", "live", "address", "account", "limit"],
)
def test_changed_monitor_makes_its_servers_due(
    engine: Engine, change: Change, what: tuple[str, ...], which: set[str]
) -> None:
    monitor, ids = world(engine)
    with engine.begin() as connection:
        change(connection, monitor)
    [news] = note(engine)
    assert (news.monitor_id, news.what, news.servers) == (monitor, what, len(which))
    assert due(engine) == {ids[status] for status in which}
    assert note(engine) == [], "it is noticed once"


@pytest.mark.parametrize(
    "change", [change_other_flags, of_monitor(config="{}", client_version="9", location="elsewhere")]
)
def test_change_that_no_rule_uses_makes_nothing_due(engine: Engine, change: Change) -> None:
    monitor, _ = world(engine)
    with engine.begin() as connection:
        change(connection, monitor)
    assert note(engine) == []
    assert due(engine) == set()


def test_monitor_that_goes_and_returns_makes_its_placed_servers_due(engine: Engine) -> None:
    monitor, ids = world(engine)
    places = {ids[status] for status in PLACED}
    assert note(engine, NOW + timedelta(minutes=14)) == []
    [news] = note(engine, NOW + timedelta(minutes=15))
    assert news == MonitorChange(monitor, ("gone",), 2)
    with engine.begin() as connection:
        connection.execute(sa.update(servers_monitor_review).values(next_review=LATER))
        name = connection.scalar(sa.select(monitors.c.tls_name).where(monitors.c.id == monitor))
        set_presence(connection, str(name), seen=NOW + timedelta(minutes=20))
    [news] = note(engine, NOW + timedelta(minutes=20))
    assert news == MonitorChange(monitor, ("back",), 2)
    queue = servers_monitor_review.c
    with engine.connect() as connection:
        early = connection.scalars(sa.select(queue.server_id).where(queue.next_review < LATER))
        assert set(early) == places


def test_change_of_address_makes_the_check_of_paused_pairs_due(engine: Engine) -> None:
    monitor, ids = world(engine)
    checked = datetime(2026, 1, 2, 11)
    with engine.begin() as connection:
        connection.execute(sa.update(server_scores).values(last_constraint_check=checked, pause_reason="constraint"))
        excess = server_scores.c.server_id == ids["active"]
        connection.execute(sa.update(server_scores).where(excess).values(pause_reason="excess", status="paused"))
        of_monitor(ip="203.0.113.5")(connection, monitor)
    note(engine)
    pairs = server_scores.c
    with engine.connect() as connection:
        anew = connection.execute(
            sa.select(pairs.monitor_id, pairs.server_id)
            .where(pairs.last_constraint_check.is_(None))
            .order_by(pairs.server_id)
        ).all()
    assert [tuple(row) for row in anew] == [(monitor, ids["active"]), (monitor, ids["paused"])]


def test_new_monitor_is_recorded_without_making_servers_due(engine: Engine) -> None:
    world(engine)
    with engine.begin() as connection:
        add_monitor(connection, unique("new"), status="pending")
    assert note(engine) == []
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(selector_seen)) == 3


def test_server_missing_from_the_queue_is_added(engine: Engine) -> None:
    monitor, ids = world(engine)
    with engine.begin() as connection:
        connection.execute(sa.delete(servers_monitor_review))
        of_monitor(status="deleted")(connection, monitor)
    note(engine)
    assert due(engine) == {ids["active"], ids["testing"]}


def test_only_one_of_two_selectors_detects_a_change(server_engine: Engine) -> None:
    monitor, _ = world(server_engine)
    other = open_database(server_engine.url)
    for turn in range(10):
        with server_engine.begin() as connection:
            of_monitor(ip=f"203.0.113.{turn + 10}")(connection, monitor)
        with ThreadPoolExecutor(2) as threads:
            jobs = [threads.submit(note, one) for one in (server_engine, other)]
            news = [one for job in jobs for one in job.result()]
        assert [one.monitor_id for one in news] == [monitor]
    other.dispose()


def test_make_due_affects_one_server_or_all(engine: Engine) -> None:
    _, ids = world(engine)
    assert make_due(engine, ids["paused"], NOW) == 1
    assert due(engine) == {ids["paused"]}
    assert make_due(engine, max(ids.values()) + 1, NOW) == 0
    assert make_due(engine, None, NOW) == 4
    assert due(engine) == set(ids.values())
