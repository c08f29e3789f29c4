"""Test reviews in the ledger: claims, decisions and writes, alone and concurrently, on every database."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from runtime.db.engine import open_database, to_db, transaction
from runtime.db.queue import REVIEWS, SCORING
from runtime.db.system_settings import Intervals, PoolSettings, Reviews
from schema.tables import assignment_changes, log_scores, monitors, server_scores, servers, servers_monitor_review
from selector import reviews as reviews_module
from selector.reviews import BATCH, Reviewed, review_due, review_server, rule_settings
from selector.rules.model import PairStatus
from selector.rules.world import Review
from testbed.fixtures.selector import add_results, pair_statuses, set_presence, unique
from testbed.fixtures.world import add_monitor, add_pair, add_scorer, add_server
from testbed.waiting import PATIENCE

NOW = datetime(2026, 1, 2, 12, 0, 0, 250_000, tzinfo=UTC)
DUE = datetime(2026, 1, 2, 12, 0, 0)
SETTINGS = PoolSettings()


def monitors_of(connection: Connection, *server_ids: int, count: int = 9, results: int = 40) -> list[int]:
    """Add healthy monitors that are online and candidates of these servers; return their ids."""
    made = []
    for number in range(count):
        name = unique("m")
        monitor = add_monitor(connection, name, ip=f"10.{number}.0.1")
        set_presence(connection, name, seen=NOW)
        for server in server_ids:
            add_pair(connection, server, monitor, "candidate")
            add_results(connection, server, monitor, results, now=NOW)
        made.append(monitor)
    return made


def queue(connection: Connection, *server_ids: int, due: datetime = DUE) -> None:
    REVIEWS.add(connection, server_ids, due)


def row_of(engine: Engine, table: sa.Table, server: int) -> Any:
    with engine.connect() as connection:
        return connection.execute(sa.select(table).where(table.c.server_id == server)).one()


def test_review_changes_pairs_and_records_the_reasons(engine: Engine) -> None:
    with engine.begin() as connection:
        server = add_server(connection)
        monitors = monitors_of(connection, server, count=3)
        queue(connection, server)
    [done] = review_due(engine, SETTINGS, NOW)
    assert (done.server_id, done.outcome) == (server, "changed")
    promoted = [monitor for monitor, status in pair_statuses(engine, server).items() if status == "testing"]
    assert promoted
    assert set(promoted) <= set(monitors)
    assert set(done.touched) == {(server, monitor) for monitor in promoted}
    with engine.connect() as connection:
        rows = connection.execute(sa.select(assignment_changes).order_by(assignment_changes.c.id)).all()
    assert {(r.server_id, r.monitor_id, r.before_status, r.after_status) for r in rows} == {
        (server, monitor, "candidate", "testing") for monitor in promoted
    }
    for row, change in zip(rows, done.changes, strict=True):
        assert row.reason == f"{change.rule}: {change.reason}"
        assert row.changed_on.replace(tzinfo=UTC) == NOW
        assert done.name(row.monitor_id).endswith(".devel.mon.example")
    times = row_of(engine, servers_monitor_review, server)
    assert times.last_review == times.last_change == DUE
    assert times.next_review == DUE + timedelta(minutes=60, seconds=1), "rounded up to whole seconds"


def test_unchanged_server_is_reviewed_sooner_and_writes_no_pair(engine: Engine) -> None:
    with engine.begin() as connection:
        server = add_server(connection)
        monitors_of(connection, server, count=2, results=0)
        connection.execute(sa.update(server_scores).values(modified_on=datetime(2020, 1, 1), status="testing"))
        queue(connection, server)
    [done] = review_due(engine, SETTINGS, NOW)
    assert (done.outcome, done.touched) == ("unchanged", ())
    times = row_of(engine, servers_monitor_review, server)
    assert times.last_review == DUE
    assert times.last_change is None
    assert times.next_review == DUE + timedelta(minutes=20, seconds=1)
    with engine.connect() as connection:
        assert set(connection.scalars(sa.select(server_scores.c.modified_on))) == {datetime(2020, 1, 1)}
    assert review_due(engine, SETTINGS, NOW) == []
    assert review_due(engine, SETTINGS, NOW + timedelta(minutes=21)) != []


def test_operators_settings_are_used(engine: Engine) -> None:
    with engine.begin() as connection:
        server = add_server(connection)
        monitors = monitors_of(connection, server, count=4)
        connection.execute(sa.update(server_scores).values(status="testing"))
        queue(connection, server)
    settings = PoolSettings(selector=Reviews(target_active=1, target_testing=3, review_changed=5.0))
    [done] = review_due(engine, settings, NOW)
    assert [change.to_status for change in done.changes] == [PairStatus.ACTIVE]
    assert done.changes[0].monitor_id in monitors
    assert row_of(engine, servers_monitor_review, server).next_review == DUE + timedelta(seconds=6)


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        (Intervals(), (24, 9, 9)),
        (Intervals(interval_testing=90 * 60, interval_candidate=4 * 3600), (12, 4, 4)),
        (Intervals(interval_testing=2, interval_candidate=3), (24, 9, 9)),
        (Intervals(interval_testing=30 * 86_400, interval_candidate=30 * 86_400), (1, 1, 1)),
    ],
)
def test_required_results_follow_from_the_current_intervals(
    intervals: Intervals, expected: tuple[int, int, int]
) -> None:
    settings = rule_settings(PoolSettings(monitors=intervals))
    found = (settings.results_for_active, settings.results_for_testing, settings.results_for_active_in_emergency)
    assert found == expected


def test_with_longer_intervals_fewer_results_are_enough(engine: Engine) -> None:
    with engine.begin() as connection:
        server = add_server(connection)
        monitors_of(connection, server, count=2, results=12)
        connection.execute(sa.update(server_scores).values(status="testing"))
        [first, _] = connection.scalars(sa.select(server_scores.c.id).order_by(server_scores.c.id))
        connection.execute(sa.update(server_scores).where(server_scores.c.id == first).values(status="active"))
        queue(connection, server)
    [done] = review_due(engine, PoolSettings(monitors=Intervals(interval_testing=90 * 60.0)), NOW)
    assert [change.to_status for change in done.changes] == [PairStatus.ACTIVE]


def test_pause_reason_and_violation_are_written_and_cleared(engine: Engine) -> None:
    """They replace values that an older selector has left."""
    pairs = server_scores.c
    with engine.begin() as connection:
        server = add_server(connection, "192.0.2.1")
        monitor = add_monitor(connection, unique("m"), ip="192.0.2.9")
        add_pair(connection, server, monitor, "candidate")
        connection.execute(sa.update(server_scores).values(constraint_violation_type="limit", pause_reason="excess"))
        queue(connection, server)
    review_due(engine, SETTINGS, NOW)
    row = row_of(engine, server_scores, server)
    assert (row.status, row.pause_reason, row.constraint_violation_type) == (
        "paused",
        "constraint",
        "network_same_subnet",
    )
    assert (row.constraint_violation_since, row.last_constraint_check) == (DUE, DUE)
    with engine.begin() as connection:
        connection.execute(sa.update(monitors).where(monitors.c.id == monitor).values(ip="198.51.100.9"))
    review_server(engine, server, SETTINGS, NOW + timedelta(hours=8))
    with engine.connect() as connection:
        found = connection.execute(sa.select(pairs.pause_reason, pairs.constraint_violation_type)).one()
    row = row_of(engine, server_scores, server)
    assert (row.status, *found) == ("candidate", None, None)
    assert row.constraint_violation_since is None


def test_review_writes_its_own_columns_only(engine: Engine) -> None:
    with engine.begin() as connection:
        server = add_server(connection)
        monitors_of(connection, server, count=1)
        values = {"score_raw": 17.5, "score_ts": datetime(2026, 1, 1), "stratum": 2, "queue_ts": datetime(2026, 1, 1)}
        connection.execute(sa.update(server_scores).values(values))
        add_pair(connection, server, add_scorer(connection), "active", score=3.0)
        before = connection.execute(sa.select(server_scores).order_by(server_scores.c.id)).mappings().all()
        queue(connection, server)
    review_due(engine, SETTINGS, NOW)
    with engine.connect() as connection:
        after = connection.execute(sa.select(server_scores).order_by(server_scores.c.id)).mappings().all()
    ours = {"status", "last_constraint_check", "modified_on"}
    changed = {key for key in before[0] if before[0][key] != after[0][key]}
    assert {"status"} <= changed <= ours
    assert before[1] == after[1], "a scorer's row is no monitor's"


def test_violation_keeps_the_time_at_which_it_was_first_found(engine: Engine) -> None:
    with engine.begin() as connection:
        server = add_server(connection, "192.0.2.1")
        name = unique("m")
        monitor = add_monitor(connection, name, ip="192.0.2.9")
        add_pair(connection, server, monitor, "active")
        queue(connection, server)
    review_due(engine, SETTINGS, NOW)
    pair = row_of(engine, server_scores, server)
    assert (pair.status, pair.pause_reason, pair.constraint_violation_type) == (
        "paused",
        "constraint",
        "network_same_subnet",
    )
    assert pair.constraint_violation_since == pair.last_constraint_check == DUE
    review_server(engine, server, SETTINGS, NOW + timedelta(hours=9))
    pair = row_of(engine, server_scores, server)
    assert pair.constraint_violation_since == DUE, "the first time stays"
    assert pair.last_constraint_check == DUE + timedelta(hours=9)


def test_deleted_server_is_not_reviewed_but_its_assignments_are_published(engine: Engine) -> None:
    with engine.begin() as connection:
        server = add_server(connection)
        monitors = monitors_of(connection, server, count=2)
        connection.execute(sa.update(servers).values(deletion_on=NOW.date()))
        queue(connection, server)
    [done] = review_due(engine, SETTINGS, NOW)
    assert (done.outcome, set(done.touched)) == ("deleted", {(server, monitor) for monitor in monitors})
    assert set(pair_statuses(engine, server).values()) == {"candidate"}
    assert row_of(engine, servers_monitor_review, server).next_review is None


def test_invalid_server_row_does_not_stop_the_others(engine: Engine) -> None:
    with engine.begin() as connection:
        broken, sound = add_server(connection, "not an address"), add_server(connection)
        monitors_of(connection, broken, sound, count=1)
        queue(connection, broken, sound)
    done = {one.server_id: one for one in review_due(engine, SETTINGS, NOW)}
    assert done[sound].outcome == "changed"
    assert done[broken].outcome == "broken"
    assert "not an address" in done[broken].problem
    assert row_of(engine, servers_monitor_review, broken).next_review > DUE


def test_invalid_monitor_row_is_skipped_and_reported(engine: Engine) -> None:
    with engine.begin() as connection:
        server = add_server(connection)
        [sound] = monitors_of(connection, server, count=1)
        broken = add_monitor(connection, unique("b"), ip="here")
        add_pair(connection, server, broken)
        queue(connection, server)
    [done] = review_due(engine, SETTINGS, NOW)
    assert [change.monitor_id for change in done.changes] == [sound]
    [skipped] = done.skipped
    assert skipped.id == broken
    assert "here" in skipped.reason


def test_defect_in_the_review_of_one_server_does_not_stop_the_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.begin() as connection:
        unlucky, other = add_server(connection), add_server(connection)
        monitors_of(connection, unlucky, other, count=1)
        queue(connection, unlucky, other)
    real = reviews_module.review

    def review(server: Any, *rest: Any) -> Review:
        if server.id == unlucky:
            raise AssertionError("impossible")
        return real(server, *rest)

    monkeypatch.setattr(reviews_module, "review", review)
    outcomes = {one.server_id: one.outcome for one in review_due(engine, SETTINGS, NOW)}
    assert outcomes == {unlucky: "failed", other: "changed"}
    assert row_of(engine, servers_monitor_review, unlucky).next_review > DUE
    assert "impossible" in caplog.text


def test_any_server_can_be_reviewed_immediately(engine: Engine) -> None:
    with engine.begin() as connection:
        server = add_server(connection)
        monitors_of(connection, server, count=1)
    done = review_server(engine, server, SETTINGS, NOW)
    assert done is not None
    assert done.outcome == "changed"
    assert row_of(engine, servers_monitor_review, server).last_review == DUE
    assert review_server(engine, server + 1, SETTINGS, NOW) is None


class Overlaps:
    """Record when each server's review begins and ends, and prolong it a little.

    The first review of each thread waits until ``meet`` threads have begun one.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, meet: int = 1) -> None:
        self.spans: dict[int, list[tuple[float, float]]] = defaultdict(list)
        self._lock = threading.Lock()
        self._begun = threading.Barrier(meet, timeout=PATIENCE)
        self._there = threading.local()
        self._real = reviews_module.review
        monkeypatch.setattr(reviews_module, "review", self.review)

    def review(self, server: Any, *rest: Any) -> Review:
        began = time.monotonic()
        if not hasattr(self._there, "met"):
            self._there.met = self._begun.wait()
        made = self._real(server, *rest)
        time.sleep(0.002)  # gives other threads a chance to interfere
        with self._lock:
            self.spans[server.id].append((began, time.monotonic()))
        return made

    def assert_none(self) -> None:
        for server, spans in self.spans.items():
            for (_, end), (begin, _) in zip(sorted(spans), sorted(spans)[1:], strict=False):
                assert end <= begin, f"server {server} was reviewed by two at once"


@contextmanager
def selectors(engine: Engine, count: int) -> Iterator[list[Engine]]:
    """Open one engine for each selector, as separate processes would."""
    engines = [open_database(engine.url) for _ in range(count)]
    yield engines
    for one in engines:
        one.dispose()


def review_all(engine: Engine, now: datetime) -> list[Reviewed]:
    """Review as a worker does: until nothing is due, including servers that another one has claimed meanwhile."""
    done: list[Reviewed] = []
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        some = review_due(engine, SETTINGS, now, 3)
        done += some
        with engine.connect() as connection:
            if not some and REVIEWS.backlog(connection, to_db(now)).due == 0:
                break
    return done


def test_two_selectors_share_the_servers_and_review_each_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine.begin() as connection:
        ids = [add_server(connection) for _ in range(4 * BATCH)]
        monitors_of(connection, *ids, count=3, results=10)
        queue(connection, *ids)
    # SQLite allows one writer at a time.
    overlaps = Overlaps(monkeypatch, meet=1 if engine.dialect.name == "sqlite" else 2)
    with selectors(engine, 2) as engines, ThreadPoolExecutor(2) as threads:
        shares = [job.result() for job in [threads.submit(review_all, one, NOW) for one in engines]]
    assert sorted(one.server_id for share in shares for one in share) == ids
    if engine.dialect.name != "sqlite":
        assert all(shares), "both had a part"
    overlaps.assert_none()
    with engine.connect() as connection:
        [changes] = connection.execute(sa.select(sa.func.count()).select_from(assignment_changes)).one()
    assert changes == sum(len(one.changes) for share in shares for one in share)


def test_requested_review_waits_for_a_running_one_of_the_same_server(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        ids = [add_server(connection) for _ in range(6)]
        monitors_of(connection, *ids, count=3, results=10)
        queue(connection, *ids)
    overlaps = Overlaps(monkeypatch)

    def by_hand(own: Engine) -> None:
        for server in reversed(ids):
            assert review_server(own, server, SETTINGS, NOW) is not None

    with selectors(engine, 2) as (one, other), ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(review_all, one, NOW), threads.submit(by_hand, other)]
        for job in jobs:
            job.result()
    assert set(overlaps.spans) == set(ids)
    overlaps.assert_none()


def test_results_and_scores_are_stored_while_servers_are_reviewed(server_engine: Engine) -> None:
    """Ingest and scorer first lock another table; neither they nor reviews lose anything."""
    with server_engine.begin() as connection:
        ids = [add_server(connection) for _ in range(12)]
        monitors = monitors_of(connection, *ids, count=8, results=30)
        scorer = add_scorer(connection)
        for server in ids:
            add_pair(connection, server, scorer)
        queue(connection, *ids)
        SCORING.add(connection, ids, None)
    stop = threading.Event()
    scores, failed = server_scores.c, list[BaseException]()

    def ingest(connection: Connection, some: list[int], monitor: int) -> None:
        SCORING.hold(connection, some)
        for server in some:
            row = {"server_id": server, "monitor_id": monitor, "ts": to_db(NOW), "step": 1, "rtt": 20_000}
            connection.execute(sa.insert(log_scores).values(row))
            pair = sa.and_(scores.server_id == server, scores.monitor_id == monitor)
            connection.execute(sa.update(server_scores).where(pair).values(score_raw=scores.score_raw + 1))
        SCORING.make_due(connection, some, to_db(NOW))

    def score(connection: Connection) -> None:
        due = sorted(SCORING.claim(connection, to_db(NOW), 4))
        REVIEWS.make_due(connection, due, DUE)
        for server in due:
            pair = sa.and_(scores.server_id == server, scores.monitor_id == scorer)
            connection.execute(sa.update(server_scores).where(pair).values(score_raw=scores.score_raw + 1))
            connection.execute(sa.update(servers).where(servers.c.id == server).values(score_ts=to_db(NOW)))
        SCORING.done(connection, due)

    written: dict[int, int] = defaultdict(int)

    def until_stopped(work: Any) -> None:
        own = open_database(server_engine.url)
        try:
            turn = 0
            while not stop.is_set():
                turn += 1
                work(own, turn)
        except BaseException as error:
            failed.append(error)
        finally:
            own.dispose()

    def ingest_some(own: Engine, turn: int) -> None:
        monitor, some = monitors[turn % len(monitors)], [ids[turn % 12], ids[(turn * 5 + 1) % 12]]
        some = sorted(set(some))
        transaction(own, lambda connection: ingest(connection, some, monitor))
        written[monitor] += len(some)

    def score_some(own: Engine, turn: int) -> None:
        transaction(own, score)

    threads = [threading.Thread(target=until_stopped, args=(work,)) for work in (ingest_some, score_some)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(30):
            now = NOW + timedelta(hours=2 * turn)
            review_due(server_engine, SETTINGS, now, 5)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert failed == []
    with server_engine.connect() as connection:
        total = sa.select(scores.monitor_id, sa.func.sum(scores.score_raw)).group_by(scores.monitor_id)
        found = {row[0]: int(row[1]) for row in connection.execute(total) if row[0] != scorer}
    assert found == {monitor: written[monitor] for monitor in monitors}
    assert sum(written.values()) > 0
