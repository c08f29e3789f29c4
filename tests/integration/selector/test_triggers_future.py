"""Test reviews scheduled by a clock that was ahead: they do not wait for that time."""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from runtime.db.queue import REVIEWS
from runtime.db.system_settings import Reviews
from schema.tables import servers_monitor_review
from selector.watch import heal_reviews
from testbed.fixtures.world import add_server

NOW = datetime(2026, 1, 2, 12)


def test_reviews_scheduled_beyond_the_longest_interval_become_due(engine: Engine) -> None:
    planned = [timedelta(0), timedelta(minutes=60), timedelta(minutes=61), timedelta(minutes=62), timedelta(days=20)]
    with engine.begin() as connection:
        ids = [add_server(connection) for _ in planned]
        for server, after in zip(ids, planned, strict=True):
            REVIEWS.add(connection, [server], NOW + after)
        REVIEWS.add(connection, [add_server(connection)], None)
    assert heal_reviews(engine, Reviews(), NOW) == 2
    queue = servers_monitor_review.c
    with engine.connect() as connection:
        due = {row[0]: row[1] for row in connection.execute(sa.select(queue.server_id, queue.next_review))}
    assert [due[server] for server in ids] == [NOW + after for after in planned[:3]] + [NOW, NOW]
    assert None in due.values()
