"""Test a COMMIT whose answer is lost: every worker can repeat its work, and nothing is stored twice."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from ingest.last_seen import Seen, write_last_seen
from ingest.messages import Presence
from ingest.presence import write_presence
from ingest.retention import Retention, Round, expiring
from ingest.transaction import commit
from runtime.db.engine import reading, to_db
from runtime.db.queue import REVIEWS, SCORING
from runtime.db.retry import DatabaseUnavailable
from runtime.db.system_settings import Intervals, PoolSettings
from schema.messages import Status
from schema.tables import metadata, monitors
from scorer.rounds import score_due
from scorer.scorers import all_scorers
from scorer.worker import add_missing_scorers
from selector.monitors import read_monitors
from selector.pairs import make_pairs, queue_servers
from selector.reviews import review_due
from selector.triggers import make_due, record_monitor_changes
from testbed.fixtures.batches import ARRIVED, new_result, new_submission
from testbed.fixtures.commits import answers_lost
from testbed.fixtures.selector import a_monitor, add_results, set_presence, unique
from testbed.fixtures.world import add_log_score, add_monitor, add_pair, add_server, monitor_name

NOW = ARRIVED
Again = Callable[[], object]


def storing(engine: Engine) -> Again:
    with engine.begin() as connection:
        name = monitor_name("alice")
        monitor, server = add_monitor(connection, name), add_server(connection, "192.0.2.1")
        add_pair(connection, server, monitor, score=10.0)
    submission = new_submission(name, new_result(server, "192.0.2.1"))
    return partial(commit, engine, [submission], to_db(NOW))


def present(engine: Engine) -> Again:
    with engine.begin() as connection:
        add_monitor(connection, monitor_name("alice"))
    said = Presence(monitor_name("alice"), Status(online=True, ts=NOW), NOW, False)
    return partial(write_presence, engine, [said])


def seen(engine: Engine) -> Again:
    with engine.begin() as connection:
        monitor = add_monitor(connection, monitor_name("alice"))
    sighting = Seen(monitor, to_db(NOW), submitted=to_db(NOW), version="1.2.3")
    return partial(write_last_seen, engine, [sighting])


def removing(engine: Engine) -> Again:
    with engine.begin() as connection:
        monitor, server = add_monitor(connection, unique("m")), add_server(connection)
        add_log_score(connection, server, monitor, NOW - timedelta(days=20))
        add_log_score(connection, server, monitor, NOW)
    return partial(Retention(engine, expiring(timedelta(days=15))[0]).step, Round(to_db(NOW) - timedelta(days=15), ()))


def scoring(engine: Engine) -> Again:
    add_missing_scorers(engine, all_scorers())
    with engine.begin() as connection:
        server = add_server(connection, score=19.0)
        for number in range(3):
            monitor = add_monitor(connection, unique("m"))
            add_pair(connection, server, monitor)
            add_log_score(connection, server, monitor, NOW - timedelta(minutes=number), score=5.0, step=-4.0)
        SCORING.add(connection, [server], to_db(NOW))
    return partial(score_due, engine, all_scorers(), Intervals(), to_db(NOW), 100)


def reviewing(engine: Engine) -> Again:
    with engine.begin() as connection:
        server = add_server(connection)
        for number in range(3):
            name = unique("m")
            monitor = add_monitor(connection, name, ip=f"10.{number}.0.1")
            set_presence(connection, name, seen=NOW)
            add_pair(connection, server, monitor, "candidate")
            add_results(connection, server, monitor, 40, now=NOW)
        REVIEWS.add(connection, [server], to_db(NOW).replace(microsecond=0))
    return partial(review_due, engine, PoolSettings(), NOW)


def pairing(engine: Engine) -> Again:
    with engine.begin() as connection:
        add_server(connection)
        add_monitor(connection, unique("m"))
    with reading(engine) as connection:
        [monitor] = read_monitors(connection, NOW).monitors
    return partial(make_pairs, engine, monitor, NOW)


def queueing(engine: Engine) -> Again:
    with engine.begin() as connection:
        add_server(connection)
    return partial(queue_servers, engine, NOW)


def noticing(engine: Engine) -> Again:
    name = unique("m")
    monitor = a_monitor(engine, name)

    def look() -> None:
        with reading(engine) as connection:
            rows = read_monitors(connection, datetime.now(UTC)).monitors
        record_monitor_changes(engine, rows, NOW)

    look()
    with engine.begin() as connection:
        server = add_server(connection)
        add_pair(connection, server, monitor)
        connection.execute(sa.update(monitors).values(status="testing"))
    return look


def ordering(engine: Engine) -> Again:
    with engine.begin() as connection:
        add_server(connection)
    return partial(make_due, engine, None, NOW)


def everything(engine: Engine) -> dict[str, list[str]]:
    with reading(engine) as connection:
        return {table.name: sorted(map(str, connection.execute(sa.select(table)))) for table in metadata.sorted_tables}


@pytest.mark.parametrize(
    "prepare",
    [storing, present, seen, removing, scoring, reviewing, pairing, queueing, noticing, ordering],
    ids=lambda prepare: prepare.__name__,
)
def test_repeating_a_commit_whose_answer_was_lost_changes_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, prepare: Callable[[Engine], Again]
) -> None:
    work = prepare(engine)
    before = everything(engine)
    with answers_lost(engine, monkeypatch), pytest.raises(DatabaseUnavailable):
        work()
    once = everything(engine)
    assert once != before, "it must have been committed"
    work()
    assert everything(engine) == once
