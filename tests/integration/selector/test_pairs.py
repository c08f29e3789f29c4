"""Test that missing pairs and queue rows are created, in batches and once, on every database."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from runtime.db.engine import open_database, reading
from runtime.db.queue import REVIEWS
from schema.tables import assignment_changes, monitors, server_scores, servers, servers_monitor_review
from selector import pairs as pairs_module
from selector.monitors import MonitorRow, read_monitors
from selector.pairs import make_pairs, queue_servers, read_population
from testbed.fixtures.selector import pair_statuses, unique
from testbed.fixtures.world import add_monitor, add_pair, add_scorer, add_server

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


def rows(engine: Engine) -> tuple[MonitorRow, ...]:
    with reading(engine) as connection:
        return read_monitors(connection, NOW).monitors


def make_all(engine: Engine) -> list[tuple[int, int]]:
    made: list[tuple[int, int]] = []
    for row in rows(engine):
        while some := make_pairs(engine, row, NOW):
            made += some
    return made


@pytest.mark.parametrize(
    ("status", "makes"),
    [("active", True), ("testing", True), ("pending", False), ("paused", False), ("deleted", False)],
)
def test_live_monitors_become_candidates_of_all_servers_of_their_protocol(
    engine: Engine, status: Any, makes: bool
) -> None:
    with engine.begin() as connection:
        four, six = add_server(connection), add_server(connection, "2001:db8::1")
        gone = add_server(connection)
        connection.execute(sa.update(servers).where(servers.c.id == gone).values(deletion_on=NOW.date()))
        name = unique("m")
        on_four = add_monitor(connection, name, "v4", status=status)
        on_six = add_monitor(connection, name, "v6", status=status)
        add_scorer(connection)
        add_monitor(connection, "settings-v4.system")
    expected = {(four, on_four), (six, on_six)} if makes else set()
    assert set(make_all(engine)) == expected
    assert pair_statuses(engine, four) == ({on_four: "candidate"} if makes else {})
    assert pair_statuses(engine, gone) == {}


def test_existing_pairs_are_unchanged(engine: Engine) -> None:
    with engine.begin() as connection:
        old, new = add_server(connection), add_server(connection)
        monitor = add_monitor(connection, unique("m"))
        add_pair(connection, old, monitor, "active", score=12.0)
    assert make_all(engine) == [(new, monitor)]
    assert make_all(engine) == []
    assert pair_statuses(engine, old) == {monitor: "active"}
    with engine.connect() as connection:
        created = connection.scalar(sa.select(server_scores.c.created_on).where(server_scores.c.server_id == new))
        assert created == datetime(2026, 1, 2, 12)
        history = connection.scalar(sa.select(sa.func.count()).select_from(assignment_changes))
        assert history == 0, "the pair itself says when it was made"


def test_pairs_are_created_in_batches(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "BATCH", 2)
    with engine.begin() as connection:
        for _ in range(5):
            add_server(connection)
        add_monitor(connection, unique("m"))
    [row] = rows(engine)
    assert [len(make_pairs(engine, row, NOW)) for _ in range(4)] == [2, 2, 1, 0]
    assert queue_servers(engine, NOW) == 5


def test_two_selectors_create_each_pair_once(server_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "BATCH", 3)
    with server_engine.begin() as connection:
        ids = [add_server(connection) for _ in range(30)]
        monitors_made = [add_monitor(connection, unique("m")) for _ in range(4)]
    engines = [open_database(server_engine.url) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        for job in [threads.submit(make_all, one) for one in engines]:
            job.result()
    for one in engines:
        one.dispose()
    assert all(pair_statuses(server_engine, server).keys() == set(monitors_made) for server in ids)


def test_every_server_that_is_not_deleted_is_queued(engine: Engine) -> None:
    with engine.begin() as connection:
        waiting, fresh, deleted, back = (add_server(connection) for _ in range(4))
        connection.execute(sa.update(servers).where(servers.c.id == deleted).values(deletion_on=date(2026, 1, 1)))
        REVIEWS.add(connection, [waiting], datetime(2026, 1, 3))
        REVIEWS.add(connection, [back], None)
    assert queue_servers(engine, NOW) == 2
    assert queue_servers(engine, NOW) == 0
    with engine.connect() as connection:
        queue = servers_monitor_review.c
        found = {
            row.server_id: row.next_review for row in connection.execute(sa.select(queue.server_id, queue.next_review))
        }
    now = datetime(2026, 1, 2, 12)
    assert found == {waiting: datetime(2026, 1, 3), fresh: now, back: now}


def test_new_or_deleted_monitors_and_servers_change_the_population(engine: Engine) -> None:
    seen = []

    def look() -> None:
        seen.append(read_population(engine, rows(engine), NOW))

    look()
    with engine.begin() as connection:
        server, monitor = add_server(connection), add_monitor(connection, unique("m"), status="pending")
    look()
    with engine.begin() as connection:
        connection.execute(sa.update(monitors).where(monitors.c.id == monitor).values(status="testing"))
    look()
    with engine.begin() as connection:
        connection.execute(sa.update(servers).where(servers.c.id == server).values(deletion_on=NOW.date()))
    look()
    assert all(one != other for one, other in itertools.pairwise(seen))
    look()
    assert seen[-1] == seen[-2]
