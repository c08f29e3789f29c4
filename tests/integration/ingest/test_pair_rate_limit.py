"""Test the rate limit of a pair, on real databases: results are too soon by stored ones, and delay no others."""

import logging
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from ingest.messages import Submission
from ingest.plan import Plan
from ingest.store import read_times
from ingest.transaction import commit
from runtime.db.engine import open_database, to_db
from runtime.db.system_settings import Intervals
from schema.messages import PairStatus, Rejection, encode
from schema.tables import assignment_changes, log_scores, result_batches, scoring_queue, server_scores, system_settings
from testbed.fixtures.batches import ARRIVED, new_batch, new_result, new_submission
from testbed.fixtures.world import add_log_score, add_monitor, add_pair, add_server, monitor_name

NOW = to_db(ARRIVED)
ALICE, BOB = monitor_name("alice"), monitor_name("bob")
IP = "192.0.2.1"
TOO_SOON = "too soon"
DAY = 86_400.0


class Ledger:
    """One server, and one monitor that measures it."""

    def __init__(self, engine: Engine, status: PairStatus = "active") -> None:
        self.engine = engine
        with engine.begin() as connection:
            self.monitor = add_monitor(connection, ALICE)
            self.server = add_server(connection, IP)
            self.pair = add_pair(connection, self.server, self.monitor, status)

    def submission(self, *ages: float) -> Submission:
        return new_submission(ALICE, *(new_result(self.server, IP, age=age) for age in ages))

    def send(self, *ages: float, intervals: Intervals | None = None) -> Plan:
        """Commit one batch of results that were measured ``ages`` seconds ago."""
        return commit(self.engine, [self.submission(*ages)], NOW, intervals or Intervals())

    def count(self, table: sa.Table = log_scores) -> int:
        with self.engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0

    def was(self, before: PairStatus, after: PairStatus, age: timedelta) -> None:
        """Record a change of the pair's status, ``age`` ago."""
        row = {"server_id": self.server, "monitor_id": self.monitor, "reason": "test", "changed_on": NOW - age}
        with self.engine.begin() as connection:
            connection.execute(sa.insert(assignment_changes).values(before_status=before, after_status=after, **row))


def stored(plan: Plan) -> list[int]:
    return [ack.stored for _, ack in plan.acks]


def reasons(plan: Plan) -> list[list[str]]:
    return [[rejection.reason for rejection in ack.rejected] for _, ack in plan.acks]


def test_only_five_results_with_the_same_timestamp_are_stored(engine: Engine) -> None:
    ledger = Ledger(engine, "candidate")
    plan = ledger.send(*[60.0] * 24)
    assert stored(plan) == [5]
    [(submission, ack)] = plan.acks
    assert ack.rejected == [Rejection(index=i, server_id=ledger.server, reason=TOO_SOON) for i in range(5, 24)]
    assert commit(engine, [submission], NOW).acks == plan.acks, "it is remembered like any other"
    assert stored(ledger.send(*[60.0] * 24)) == [0]
    assert [stored(ledger.send(60.0)) for _ in range(5)] == [[0]] * 5
    assert ledger.count() == 5


@pytest.mark.parametrize("per_batch", [1, 7, 100])
def test_flood_is_rejected_whatever_its_batch_size(engine: Engine, per_batch: int) -> None:
    """An active pair has 20 results a second for 15 seconds."""
    ledger = Ledger(engine)
    ages = [60.0 - step / 20 for step in range(300)]
    submissions = [ledger.submission(*ages[first : first + per_batch]) for first in range(0, 300, per_batch)]
    for first in range(0, len(submissions), 10):
        commit(engine, submissions[first : first + 10], NOW)
    assert ledger.count() == 5


def test_spool_drained_in_any_order_loses_nothing(engine: Engine) -> None:
    """An agent that was offline for three days has a result about every 9 minutes; some batches arrive twice."""
    ledger, chosen = Ledger(engine), random.Random(5)
    ages = [step * 540 + chosen.uniform(-27, 27) + 100 for step in range(470)]
    batches = [ledger.submission(*ages[first : first + 10]) for first in range(0, 470, 10)]
    chosen.shuffle(batches)
    batches += batches[:5]
    for first in range(0, len(batches), 7):
        commit(engine, batches[first : first + 7], NOW)
    assert (ledger.count(), ledger.count(result_batches)) == (470, 47)


def test_offline_agent_may_continue_at_its_last_known_interval(engine: Engine) -> None:
    """The pair has meanwhile become a candidate, with an interval of two hours."""
    ledger = Ledger(engine, "candidate")
    ledger.was("active", "testing", timedelta(hours=20))
    ledger.was("testing", "candidate", timedelta(hours=19))
    ages = [step * 540.0 + 100 for step in range(100)]
    assert stored(ledger.send(*ages[50:])) == [50]
    assert stored(ledger.send(*ages[:50])) == [50]


def test_pair_that_was_always_a_candidate_must_keep_its_long_interval(engine: Engine) -> None:
    ledger = Ledger(engine, "candidate")
    assert stored(ledger.send(*(step * 540.0 + 100 for step in range(100)))) < [36]


@pytest.mark.parametrize(("modified", "all_stored"), [(timedelta(days=2), True), (timedelta(days=4), False)])
def test_results_at_former_intervals_count_while_a_spool_may_hold_them(
    engine: Engine, modified: timedelta, all_stored: bool
) -> None:
    """The interval was 2 minutes until an operator increased it to 9."""
    ledger = Ledger(engine)
    row = {"key": "monitors", "value": "{}", "created_on": NOW - timedelta(days=99), "modified_on": NOW - modified}
    with engine.begin() as connection:
        connection.execute(sa.insert(system_settings).values(row))
    assert (stored(ledger.send(*(step * 120.0 + 100 for step in range(100)))) == [100]) is all_stored


def test_short_configured_intervals_raise_the_rate_limit(engine: Engine) -> None:
    fast = Intervals(interval_active=2.0, interval_testing=2.0, interval_candidate=3.0)
    ledger = Ledger(engine)
    assert stored(ledger.send(*(100.0 - step * 2 for step in range(50)), intervals=fast)) == [50]


def test_otherwise_rejected_results_do_not_use_up_the_rate_limit(engine: Engine) -> None:
    ledger = Ledger(engine)
    bad = [new_result(ledger.server, IP, age=60.0, rtt=-0.5) for _ in range(30)]
    plan = commit(engine, [new_submission(ALICE, *bad, new_result(ledger.server, IP, age=60.0))], NOW)
    assert (stored(plan), reasons(plan)) == ([1], [["impossible rtt"] * 30])


def test_rate_limit_of_one_pair_does_not_affect_others(engine: Engine) -> None:
    ledger = Ledger(engine)
    with engine.begin() as connection:
        bob = add_monitor(connection, BOB)
        other = add_server(connection, "192.0.2.2")
        add_pair(connection, ledger.server, bob)
        add_pair(connection, other, ledger.monitor)
    ledger.send(*[60.0] * 24)
    of_bob = new_submission(BOB, new_result(ledger.server, IP, age=60.0))
    of_other = new_submission(ALICE, new_result(other, "192.0.2.2", age=60.0))
    assert stored(commit(engine, [of_bob, of_other], NOW)) == [1, 1]
    again = new_submission(BOB, *[new_result(ledger.server, IP, age=60.0)] * 9)
    assert stored(commit(engine, [ledger.submission(60.0), again], NOW)) == [0, 4], "each by its own results"


def test_read_times_returns_only_the_requested_ranges(engine: Engine) -> None:
    ledger = Ledger(engine)
    noon = NOW.replace(microsecond=0)
    with engine.begin() as connection:
        bob = add_monitor(connection, BOB)
        for minute in range(500):
            for monitor in (ledger.monitor, bob):
                add_log_score(connection, ledger.server, monitor, noon - timedelta(minutes=minute))
    places = [noon - timedelta(minutes=minute) for minute in range(0, 500, 2)]
    second = timedelta(seconds=1)
    wanted = [(ledger.server, ledger.monitor, place - second, place + second) for place in places]
    with engine.connect() as connection:
        found = list(read_times(connection, wanted))
        edge = list(read_times(connection, [(ledger.server, bob, noon - timedelta(minutes=2), noon)]))
    assert sorted(found) == sorted((ledger.server, ledger.monitor, place) for place in places)
    assert (ledger.server, bob, noon - timedelta(minutes=1)) in edge
    assert len(edge) <= 2, "SQLite compares texts, of which one is the longer"


def test_several_workers_together_do_not_exceed_the_rate_limit(server_engine: Engine) -> None:
    ledger = Ledger(server_engine)
    shares: Sequence[Sequence[Submission]] = [[ledger.submission(60.0, 60.0) for _ in range(8)] for _ in range(4)]
    engines = [open_database(server_engine.url) for _ in shares]
    gate = threading.Barrier(len(shares))

    def work(engine: Engine, share: Sequence[Submission]) -> list[Plan]:
        gate.wait(10)
        return [commit(engine, [submission], NOW) for submission in share]

    with ThreadPoolExecutor(len(shares)) as pool:
        futures = [pool.submit(work, *pair) for pair in zip(engines, shares, strict=True)]
        plans = [plan for future in futures for plan in future.result(60)]
    for engine in engines:
        engine.dispose()
    assert sum(stored(plan)[0] for plan in plans) == ledger.count() == 5


def held_up(engine: Engine, server: int, submissions: Sequence[Submission]) -> Plan | None:
    """Commit while another transaction locks the server's row of the queue; return None if the commit waits for it."""
    queue = sa.select(scoring_queue).where(scoring_queue.c.server_id == server).with_for_update()
    other = open_database(engine.url)
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as connection:
            assert connection.execute(queue).one()
            future = pool.submit(partial(commit, other, submissions, NOW))
            try:
                found = future.result(2)
            except TimeoutError:
                found = None
        future.result(60)
    other.dispose()
    return found


def test_rejected_results_neither_wait_for_nor_lock_servers(server_engine: Engine) -> None:
    ledger = Ledger(server_engine)
    ledger.send(*[60.0] * 24)
    with server_engine.begin() as connection:
        add_monitor(connection, BOB)
        connection.execute(sa.update(scoring_queue).values(due_on=None))
    foreign = new_submission(BOB, new_result(ledger.server, IP), new_result(ledger.server, "192.0.2.9"))
    impossible = new_submission(ALICE, new_result(ledger.server, IP, leap=7, age=5000.0))
    flood = ledger.submission(*[60.0] * 24)
    plan = held_up(server_engine, ledger.server, [foreign, impossible, flood])
    assert plan is not None, "what is refused needs no lock"
    assert stored(plan) == [0, 0, 0]
    with server_engine.connect() as connection:
        [row] = connection.execute(sa.select(scoring_queue)).all()
    assert row.due_on is None, "there is nothing new to score"
    assert held_up(server_engine, ledger.server, [ledger.submission(5000.0)]) is None, "what is stored waits its turn"


def test_servers_changed_by_another_worker_since_the_read_are_read_again(
    server_engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each score depends on the previous one, so the other worker's results count; the transaction is not restarted."""
    caplog.set_level(logging.DEBUG, logger="runtime.db.retry")
    ledger, other = Ledger(server_engine), open_database(server_engine.url)
    same = ledger.submission(60.0)
    overtaking = [same, ledger.submission(*[60.0] * 4), ledger.submission(40_000.0)]
    from ingest import transaction as module

    real, times = module.make_plan, []

    def overtaken(*args: object) -> Plan:
        plan = real(*args)  # type: ignore[arg-type]
        times.append(1)
        if len(times) == 1:
            with monkeypatch.context() as without:
                without.setattr(module, "make_plan", real)
                commit(other, overtaking, NOW)
        return plan

    monkeypatch.setattr(module, "make_plan", overtaken)
    plan = commit(server_engine, [same, ledger.submission(60.0), ledger.submission(20_000.0)], NOW)
    other.dispose()
    assert len(times) == 2
    assert not caplog.messages
    assert stored(plan) == [1, 0, 1]
    assert (plan.duplicates, reasons(plan)[1]) == (1, [TOO_SOON])
    assert ledger.count() == 7
    with server_engine.connect() as connection:
        score = connection.scalar(sa.select(server_scores.c.score_raw).where(server_scores.c.id == ledger.pair))
    assert score == pytest.approx(sum(0.95**power for power in range(7)))


def test_short_batch_is_not_answered_with_a_long_ack(engine: Engine) -> None:
    """Otherwise 67 bytes with the id of a rejected batch would be answered with 63 kB, as often as they are sent."""
    ledger = Ledger(engine)
    foreign = [new_result(4_000_000_000 - number, "192.0.2.9") for number in range(1000)]
    batch = new_batch(*foreign)
    [(_, long)] = commit(engine, [new_submission(ALICE, *foreign, id=batch.id)], NOW).acks
    assert len(long.rejected) == 1000
    [(_, short)] = commit(engine, [new_submission(ALICE, id=batch.id)], NOW).acks
    assert len(encode(short)) < 100
    [(_, again)] = commit(engine, [new_submission(ALICE, *foreign, id=batch.id)], NOW).acks
    assert again == long
    assert ledger.count(result_batches) == 1


def test_score_time_without_stored_results_rejects_nothing(engine: Engine) -> None:
    """The results may have been removed by retention."""
    ledger = Ledger(engine)
    with engine.begin() as connection:
        connection.execute(sa.update(server_scores).values(score_ts=datetime(2026, 1, 2, 11, 59)))
    assert stored(ledger.send(60.0, 700.0)) == [2]
