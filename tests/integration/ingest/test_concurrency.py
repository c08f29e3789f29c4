"""Test several ingest workers, a scorer and presence writes concurrently, on real database servers."""

import logging
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from ingest.last_seen import Seen, write_last_seen
from ingest.messages import Submission
from ingest.plan import Plan
from ingest.transaction import commit
from runtime.db.engine import open_database, to_db, transaction, utc_now
from runtime.db.queue import SCORING
from schema.tables import log_scores, monitors, result_batches, scoring_queue, server_scores, servers
from testbed.fixtures.batches import ARRIVED, new_result, new_submission
from testbed.fixtures.world import add_monitor, add_pair, add_server, monitor_name

NOW = to_db(ARRIVED)
NAMES = [monitor_name(f"m{i}") for i in range(6)]
IPS = [f"192.0.2.{i}" for i in range(1, 21)]


@pytest.fixture
def ids(server_engine: Engine) -> tuple[list[int], list[int]]:
    """Ids of servers and monitors, with a pair for each combination."""
    with server_engine.begin() as connection:
        monitor_ids = [add_monitor(connection, name) for name in NAMES]
        server_ids = [add_server(connection, ip) for ip in IPS]
        for server_id in server_ids:
            for monitor_id in monitor_ids:
                add_pair(connection, server_id, monitor_id)
        SCORING.add(connection, server_ids, None)
    return server_ids, monitor_ids


def some_batches(server_ids: Sequence[int], count: int) -> list[Submission]:
    chosen = random.Random(7)
    return [
        new_submission(
            chosen.choice(NAMES),
            *(
                new_result(server_ids[i], IPS[i], age=chosen.uniform(0, 200_000), offset=chosen.gauss(0, 0.2))
                for i in chosen.sample(range(len(IPS)), 8)
            ),
        )
        for _ in range(count)
    ]


def deadlocks(engine: Engine) -> int:
    """Return the number of deadlocks so far. MySQL has this counter too, but not the one in MariaDB's status."""
    count = "SELECT `COUNT` FROM `information_schema`.`INNODB_METRICS` WHERE `NAME` = 'lock_deadlocks'"
    with engine.connect() as connection:
        return int(connection.exec_driver_sql(count).scalar_one())


def last_deadlock(engine: Engine) -> str:
    """Return InnoDB's description of the last deadlock."""
    with engine.connect() as connection:
        status = str(connection.exec_driver_sql("SHOW ENGINE INNODB STATUS").one()[2])
    return status.partition("LATEST DETECTED DEADLOCK")[2].partition("\nTRANSACTIONS\n")[0]


def at_once(works: Sequence[Callable[[], object]]) -> list[object]:
    """Run all functions concurrently, starting at the same time, and return their results."""
    gate = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        gate.wait(10)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(60) for future in [pool.submit(run, work) for work in works]]


def ingest_all(engine: Engine, submissions: Sequence[Submission], seed: int) -> list[Plan]:
    """Commit all submissions as one worker, in a random order and in transactions of random size."""
    chosen = random.Random(seed)
    order = chosen.sample(submissions, len(submissions))
    plans = []
    while order:
        size = chosen.randint(1, 12)
        plans.append(commit(engine, order[:size], utc_now()))
        order = order[size:]
    return plans


def scores_follow_the_log(engine: Engine) -> None:
    """Check that the score of each pair follows from its log rows in the order of their ids."""
    with engine.connect() as connection:
        log = connection.execute(sa.select(log_scores).order_by(log_scores.c.id)).all()
        found = {(r.server_id, r.monitor_id): r for r in connection.execute(sa.select(server_scores))}
    scores: dict[tuple[int, int], float] = {}
    for row in log:
        pair = (row.server_id, row.monitor_id)
        # The row alone shows whether a score was limited to the maximum, which is far away.
        assert row.score <= 0.95 * scores.get(pair, 0.0) + row.step + 1e-9
        scores[pair] = row.score
    assert scores == {pair: found[pair].score_raw for pair in scores}
    for pair in scores:
        newest = max(row.ts for row in log if (row.server_id, row.monitor_id) == pair)
        assert found[pair].score_ts == newest


def test_each_batch_counts_once_if_several_workers_commit_it(
    server_engine: Engine, ids: tuple[list[int], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="runtime.db.retry")
    submissions = some_batches(ids[0], 60)
    engines = [open_database(server_engine.url) for _ in range(3)]
    before = deadlocks(server_engine)
    try:
        results = at_once([partial(ingest_all, engine, submissions, seed) for seed, engine in enumerate(engines)])
    finally:
        for engine in engines:
            engine.dispose()
    acks = [{s.batch.id: ack for plan in plans for s, ack in plan.acks} for plans in results]
    assert acks[0] == acks[1] == acks[2]
    assert all(ack.stored == 8 and not ack.rejected for ack in acks[0].values())
    with server_engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(log_scores)) == 60 * 8
        assert connection.scalar(sa.select(sa.func.count()).select_from(result_batches)) == 60
    scores_follow_the_log(server_engine)
    assert deadlocks(server_engine) == before
    assert not caplog.messages, "who waited for the other's batch sees it, and needs no second attempt"


def test_ingest_scoring_and_presence_do_not_deadlock(server_engine: Engine, ids: tuple[list[int], list[int]]) -> None:
    server_ids, monitor_ids = ids
    submissions = some_batches(server_ids, 120)
    ended = threading.Event()

    def ingest(share: Sequence[Submission], seed: int) -> None:
        try:
            ingest_all(server_engine, share, seed)
        finally:
            ended.set()

    def score() -> None:
        """Do as the scorer does: claim servers, update their rows, and complete them."""
        while not ended.is_set():

            def work(connection: sa.Connection) -> None:
                claimed = SCORING.claim(connection, utc_now(), 10)
                for server_id in claimed:
                    row = sa.update(servers).where(servers.c.id == server_id)
                    connection.execute(row.values(score_raw=1.0, score_ts=NOW))
                SCORING.done(connection, claimed)

            transaction(server_engine, work)

    def see() -> None:
        while not ended.is_set():
            now = utc_now()
            shuffled = random.sample(monitor_ids, len(monitor_ids))
            write_last_seen(server_engine, [Seen(i, now, submitted=now) for i in shuffled])

    before = deadlocks(server_engine)
    at_once([partial(ingest, submissions[:60], 1), partial(ingest, submissions[60:], 2), score, see, see])
    scores_follow_the_log(server_engine)
    assert deadlocks(server_engine) == before, last_deadlock(server_engine)
    with server_engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).where(monitors.c.last_submit.is_(None))) == 0
        # Servers that were not scored are still due: none is forgotten.
        due = set(connection.scalars(sa.select(scoring_queue.c.server_id).where(scoring_queue.c.due_on.is_not(None))))
        scored = set(connection.scalars(sa.select(servers.c.id).where(servers.c.score_ts == NOW)))
        assert due | scored == set(server_ids)


def test_several_workers_insert_queue_rows_of_new_servers(server_engine: Engine) -> None:
    """The first worker inserts a missing row; this may take a second attempt, but loses nothing."""
    with server_engine.begin() as connection:
        monitor_ids = [add_monitor(connection, name) for name in NAMES]
        server_ids = [add_server(connection, ip) for ip in IPS]
        for server_id in server_ids:
            for monitor_id in monitor_ids:
                add_pair(connection, server_id, monitor_id)
    submissions = some_batches(server_ids, 40)
    at_once([partial(ingest_all, server_engine, submissions, seed) for seed in range(4)])
    with server_engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(log_scores)) == 40 * 8
    scores_follow_the_log(server_engine)


def test_batches_without_a_stored_result_count_once(server_engine: Engine, ids: tuple[list[int], list[int]]) -> None:
    """Only the key of the batch prevents duplicates, since there is no server to lock."""
    submissions = [new_submission(NAMES[0], new_result(99_999, "192.0.2.99")) for _ in range(30)]
    results = at_once([partial(ingest_all, server_engine, submissions, seed) for seed in range(4)])
    acks = [{s.batch.id: ack for plan in plans for s, ack in plan.acks} for plans in results]
    assert acks[0] == acks[1] == acks[2] == acks[3]
    with server_engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(result_batches)) == 30
