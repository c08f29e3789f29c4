"""Test the work queue in the database: due times, claims and locks, on all databases."""

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from runtime.db.engine import open_database
from runtime.db.queue import REVIEWS, SCORING, WorkQueue
from schema.tables import servers

NOW = datetime(2026, 1, 2, 3, 4, 5)
SECOND = timedelta(seconds=1)


def add_servers(connection: Connection, *ids: int) -> None:
    connection.execute(
        sa.insert(servers), [{"id": i, "ip": f"10.0.{i >> 8}.{i & 255}", "created_on": NOW} for i in ids]
    )


@pytest.mark.parametrize("queue", [SCORING, REVIEWS], ids=["scoring", "reviews"])
def test_due_servers_are_claimed_longest_due_first(engine: Engine, queue: WorkQueue) -> None:
    with engine.begin() as connection:
        add_servers(connection, 1, 2, 3, 4)
        queue.add(connection, [1], NOW)
        queue.add(connection, [2], NOW - SECOND)
        queue.add(connection, [3], NOW + SECOND)
        queue.add(connection, [4], None)
        assert queue.claim(connection, NOW, 10) == [2, 1]
        assert queue.claim(connection, NOW, 1) == [2]
        assert queue.backlog(connection, NOW).due == 2


def test_completed_server_is_not_claimed_again_until_due(engine: Engine) -> None:
    with engine.begin() as connection:
        add_servers(connection, 1)
        SCORING.add(connection, [1], NOW)
        SCORING.done(connection, SCORING.claim(connection, NOW, 10))
        assert SCORING.claim(connection, NOW, 10) == []
        SCORING.make_due(connection, [1], NOW + SECOND)
        assert SCORING.claim(connection, NOW + SECOND, 10) == [1]


def test_make_due_never_delays_a_server(engine: Engine) -> None:
    with engine.begin() as connection:
        add_servers(connection, 1)
        REVIEWS.add(connection, [1], NOW)
        REVIEWS.make_due(connection, [1], NOW + 9 * SECOND)
        REVIEWS.add(connection, [1], NOW + 9 * SECOND)
        assert REVIEWS.claim(connection, NOW, 10) == [1]


def test_hold_inserts_missing_rows(engine: Engine) -> None:
    with engine.begin() as connection:
        add_servers(connection, 1, 2)
        SCORING.add(connection, [2], NOW)
        SCORING.hold(connection, [2, 1, 2])
        assert SCORING.claim(connection, NOW, 10) == [2], "holding must not change what is due"
        SCORING.make_due(connection, [1], NOW)
        assert SCORING.claim(connection, NOW, 10) == [1, 2]


def test_hold_due_locks_servers_and_makes_them_due(engine: Engine) -> None:
    with engine.begin() as connection:
        add_servers(connection, 1, 2, 3, 4)
        SCORING.add(connection, [2], NOW - SECOND)
        SCORING.add(connection, [3], NOW + SECOND)
        SCORING.add(connection, [4], None)
        SCORING.hold_due(connection, [2, 1, 3, 9, 2], NOW)
        assert SCORING.claim(connection, NOW - SECOND, 10) == [2], "never later than before"
        assert SCORING.claim(connection, NOW, 10) == [2, 1, 3]


def test_servers_changed_since_the_look_are_not_claimed(engine: Engine) -> None:
    with engine.begin() as connection:
        add_servers(connection, 1, 2, 3, 4, 5)
        SCORING.add(connection, [1, 2, 3, 4], NOW)
        SCORING.add(connection, [5], NOW + SECOND)
        looked = SCORING.look(connection, NOW, 10)
        assert set(looked) == {1, 2, 3, 4}
        SCORING.hold_due(connection, [1], NOW)
        SCORING.done(connection, [2])
        SCORING.done(connection, [3])
        SCORING.hold_due(connection, [3], NOW)
        assert SCORING.claim_unchanged(connection, looked, NOW) == [4]
        assert set(SCORING.look(connection, NOW, 10)) == {1, 3, 4}
        assert len(SCORING.look(connection, NOW, 2)) == 2


def test_servers_locked_since_the_look_are_skipped(server_engine: Engine) -> None:
    other = open_database(server_engine.url)
    with server_engine.begin() as connection:
        add_servers(connection, 1, 2)
        SCORING.add(connection, [1, 2], NOW)
        looked = SCORING.look(connection, NOW, 10)
    with server_engine.begin() as first, other.begin() as second:
        SCORING.hold_due(first, [1], NOW)
        assert SCORING.claim_unchanged(second, looked, NOW) == [2]
    other.dispose()


def test_locked_servers_are_claimed_only_after_their_release(server_engine: Engine) -> None:
    many = range(1, 1_201)
    other = open_database(server_engine.url)
    with server_engine.begin() as connection:
        add_servers(connection, *many)
        SCORING.add(connection, many, NOW)
    with server_engine.begin() as first:
        SCORING.hold_due(first, many[:-1], NOW)
        with other.begin() as second:
            assert SCORING.claim(second, NOW, 2_000) == [many[-1]]
    with other.begin() as second:
        assert SCORING.claim(second, NOW, 2_000) == list(many)
    other.dispose()


def test_servers_claimed_by_one_worker_are_skipped_by_another(server_engine: Engine) -> None:
    other = open_database(server_engine.url)
    with server_engine.begin() as connection:
        add_servers(connection, 1, 2, 3)
        SCORING.add(connection, [1, 2, 3], NOW)
    with server_engine.begin() as first, other.begin() as second:
        assert SCORING.claim(first, NOW, 2) == [1, 2]
        assert SCORING.claim(second, NOW, 10) == [3]
    other.dispose()
