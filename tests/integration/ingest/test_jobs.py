"""Test the data that ingest stores besides results, rate limits, and retention, on all databases."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from ulid import ULID

from ingest.last_seen import Seen, write_last_seen
from ingest.messages import Presence, read_status
from ingest.presence import write_presence
from ingest.rate_limit import read_rates
from ingest.referrers import referrers_of
from ingest.retention import (
    STEP,
    Expiring,
    Retention,
    RetentionForecast,
    Round,
    cut,
    expiring,
    is_adopted,
    kept_log_scores,
)
from ingest.undecodable import RejectedMessage, keep, rejected_message
from runtime.db.engine import open_database, utc_now
from runtime.db.system_settings import Intervals
from runtime.mqtt.session import Incoming
from schema.messages import Status
from schema.tables import (
    assignment_changes,
    certificates,
    log_scores,
    monitor_hours,
    monitor_presence,
    monitors,
    rejected_messages,
    result_batches,
    score_traces,
    scorer_status,
    server_traceroutes,
    servers,
)
from testbed.fixtures.world import add_log_score, add_monitor, add_pair, add_scorer, add_server, adopt, monitor_name

NOW = datetime(2026, 1, 20, 12, 0, 0, 250_000)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
ALICE, BOB = monitor_name("alice"), monitor_name("bob")


def rows(engine: Engine, table: sa.Table) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(table).order_by(*table.primary_key.columns)))


# ---- undecodable messages ------------------------------------------------------------------------------------------


def message(payload: bytes, topic: str = "/devel/x", seen: datetime = NOW, reason: str = "why") -> RejectedMessage:
    return rejected_message(topic, payload, reason, seen)


def test_undecodable_message_is_kept_once_and_counted(engine: Engine) -> None:
    keep(engine, [message(b"a"), message(b"b"), message(b"a")])
    keep(engine, [message(b"a", seen=NOW + SECOND, reason="another reason"), message(b"a", topic="/devel/y")])
    found = {(row.topic, row.payload): row for row in rows(engine, rejected_messages)}
    assert set(found) == {("/devel/x", b"a"), ("/devel/x", b"b"), ("/devel/y", b"a")}
    again = found["/devel/x", b"a"]
    assert (again.times, again.first_seen, again.last_seen) == (3, NOW, NOW + SECOND)
    assert again.reason == "another reason"


def test_long_messages_are_truncated_but_kept_apart(engine: Engine) -> None:
    long = b"\xff" * (65_536 + 10)
    wide = "/devel/" + "ü" * 2000
    keep(engine, [message(long, wide, reason="ü" * 5000), message(long + b"1", wide)])
    one, other = rows(engine, rejected_messages)
    assert one.payload == other.payload == long[:65_536]
    assert {one.bytes, other.bytes} == {len(long), len(long) + 1}
    assert (len(one.topic), len(one.reason) <= 1000) == (500, True)


def test_one_topic_cannot_fill_the_table(engine: Engine) -> None:
    keep(engine, [message(str(number).encode()) for number in range(120)])
    keep(engine, [message(b"0"), message(b"x", topic="/devel/y")])
    found = rows(engine, rejected_messages)
    assert len(found) == 101


def test_several_workers_can_keep_the_same_message(server_engine: Engine) -> None:
    same = [message(str(number).encode()) for number in range(30)]
    gate = threading.Barrier(4)

    def one(number: int) -> None:
        gate.wait(10)
        keep(server_engine, same[number:] + same[:number])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(4)))
    assert [row.times for row in rows(server_engine, rejected_messages)] == [4] * 30


# ---- presence and times --------------------------------------------------------------------------------------------


def says(name: str, status: Status, arrived: datetime, *, retained: bool = False) -> Presence:
    return Presence(name, status, arrived.replace(tzinfo=UTC), retained)


def test_presence_is_one_row_for_both_protocols(engine: Engine) -> None:
    with engine.begin() as connection:
        ids = {add_monitor(connection, ALICE, "v4"), add_monitor(connection, ALICE, "v6")}
        add_monitor(connection, BOB)
    online = Status(online=True, ts=NOW.replace(tzinfo=UTC), version="2.0")
    seen = write_presence(engine, [says(ALICE, online, NOW), says("stranger", online, NOW)])
    assert {(s.monitor_id, s.seen, s.version) for s in seen} == {(i, NOW, "2.0") for i in ids}
    [row] = rows(engine, monitor_presence)
    assert (row.tls_name, bool(row.online), row.since, row.seen) == (ALICE, True, NOW, NOW)
    gone = Status(online=False)
    assert write_presence(engine, [says(ALICE, gone, NOW + SECOND), says(BOB, gone, NOW)]) == []
    assert write_presence(engine, [says(ALICE, gone, NOW + 9 * SECOND, retained=True)]) == []
    found = {row.tls_name: (bool(row.online), row.since) for row in rows(engine, monitor_presence)}
    assert found == {ALICE: (False, NOW + SECOND), BOB: (False, NOW)}


def test_agent_of_the_former_version_is_present_until_its_last_will(engine: Engine) -> None:
    """The messages are recorded ones: the will has the time of the start, and no offline status is sent at the end."""
    with engine.begin() as connection:
        alice = add_monitor(connection, ALICE)

    def said(online: str, arrived: datetime) -> Presence:
        version = b'{"Version":"v4.1.5","GitRev":"c06769b6"}'
        payload = b'{"Online":%s,"Version":%s,"UpdatedMQ":"2026-01-20T13:00:00+01:00"}'
        found = read_status(ALICE, Incoming("", payload % (online.encode(), version)), arrived.replace(tzinfo=UTC))
        assert isinstance(found, Presence)
        return found

    [seen] = write_presence(engine, [said("true", NOW)])
    assert (seen.monitor_id, seen.seen, seen.version) == (alice, NOW, "v4.1.5")
    [row] = rows(engine, monitor_presence)
    assert (bool(row.online), row.since, row.seen) == (True, NOW, NOW)
    assert write_presence(engine, [said("false", NOW + 90 * SECOND)]) == [], "who is gone is not seen"
    [row] = rows(engine, monitor_presence)
    assert (bool(row.online), row.since) == (False, NOW + 90 * SECOND)


def test_several_workers_can_write_the_same_presence(server_engine: Engine) -> None:
    names = [monitor_name(f"m{number}") for number in range(20)]
    with server_engine.begin() as connection:
        for name in names:
            add_monitor(connection, name)
    online = Status(online=True, ts=NOW.replace(tzinfo=UTC))
    gate = threading.Barrier(4)

    def one(number: int) -> None:
        gate.wait(10)
        write_presence(server_engine, [says(name, online, NOW + number * SECOND) for name in names[::-1]])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(4)))
    assert [bool(row.online) for row in rows(server_engine, monitor_presence)] == [True] * 20


def test_times_never_go_back_and_versions_are_kept(engine: Engine) -> None:
    with engine.begin() as connection:
        alice, bob = add_monitor(connection, ALICE), add_monitor(connection, BOB)
    write_last_seen(engine, [Seen(bob, NOW), Seen(alice, NOW, submitted=NOW, version="1" * 300)])
    write_last_seen(engine, [Seen(alice, NOW - SECOND, submitted=NOW - SECOND)])
    write_last_seen(engine, [Seen(bob, NOW + SECOND, version="2"), Seen(99_999, NOW)])
    write_last_seen(engine, [])
    found = {row.id: (row.last_seen, row.last_submit, row.client_version) for row in rows(engine, monitors)}
    assert found == {alice: (NOW, NOW, "1" * 100), bob: (NOW + SECOND, None, "2")}


def test_last_seen_time_in_the_future_is_overwritten(engine: Engine) -> None:
    with engine.begin() as connection:
        alice = add_monitor(connection, ALICE)
    now = utc_now()
    future, before = now + 2 * HOUR, now - HOUR
    write_last_seen(engine, [Seen(alice, future, submitted=future)])
    write_last_seen(engine, [Seen(alice, now)])
    [row] = rows(engine, monitors)
    assert (row.last_seen, row.last_submit) == (now, future), "of the last submission nothing new is known"
    write_last_seen(engine, [Seen(alice, before, submitted=now)])
    write_last_seen(engine, [Seen(alice, before, submitted=before)])
    [row] = rows(engine, monitors)
    assert (row.last_seen, row.last_submit) == (now, now), "what is written late turns nothing back"


def test_presence_in_the_future_is_overwritten(engine: Engine) -> None:
    with engine.begin() as connection:
        add_monitor(connection, ALICE)
    now = utc_now()
    write_presence(engine, [says(ALICE, Status(online=True), now + 2 * HOUR)])
    write_presence(engine, [says(ALICE, Status(online=False), now)])
    [row] = rows(engine, monitor_presence)
    assert (bool(row.online), row.since, row.seen) == (False, now, now)


# ---- rate limits ---------------------------------------------------------------------------------------------------


def test_rate_limit_is_derived_from_the_pairs(engine: Engine) -> None:
    with engine.begin() as connection:
        alice, bob = add_monitor(connection, ALICE), add_monitor(connection, BOB)
        servers = [add_server(connection) for _ in range(30)]
        for number, server_id in enumerate(servers):
            add_pair(connection, server_id, alice, "active" if number < 20 else "testing")
        add_pair(connection, servers[0], bob, "candidate")
        add_pair(connection, servers[1], bob, "paused")
    fast = Intervals(interval_active=2.0, interval_testing=5.0, interval_candidate=0.5)
    senders = [(ALICE, "v4"), (ALICE, "v6"), (BOB, "v4"), ("stranger", "v4"), (ALICE, "status")]
    senders += [(f"m{number}", "v4") for number in range(50)]
    rates = read_rates(engine, senders, fast)
    assert set(rates) == set(senders)
    assert rates[ALICE, "v4"] == pytest.approx(20 * (20 / 2 + 10 / 5))
    assert rates[BOB, "v4"] == 20 * 2
    assert rates[ALICE, "v6"] == rates["stranger", "v4"] == rates[ALICE, "status"] == 20


# ---- retention -----------------------------------------------------------------------------------------------------

KEPT = timedelta(days=15)


def removing(engine: Engine, name: str) -> Retention:
    [found] = [what for what in expiring(KEPT) if what.table.name == name]
    return Retention(engine, found)


def remove_round(engine: Engine, name: str, now: datetime = NOW) -> int:
    """Run one round with all of its steps, and return the number of removed rows."""
    remover = removing(engine, name)
    found = remover.round(now)
    removed = 0
    while found is not None:
        step = remover.step(found)
        removed += step.removed
        if not step.more:
            break
    return removed


@pytest.mark.parametrize(
    ("oldest", "newest", "expected"),
    [
        (NOW - KEPT, NOW, None),
        (NOW - KEPT - SECOND, NOW, NOW - KEPT),
        (NOW - KEPT - 2 * HOUR, NOW, NOW - KEPT),
        # Much older rows are removed two hours at a time.
        (NOW - KEPT - 3 * HOUR, NOW, NOW - KEPT - HOUR),
        (NOW - timedelta(days=700), NOW, NOW - timedelta(days=700) + 2 * HOUR),
        # A clock that is ahead of all rows does not make them older.
        (NOW - KEPT - SECOND, NOW - 20 * 24 * HOUR, None),
        (NOW - 30 * 24 * HOUR, NOW - 14 * 24 * HOUR, NOW - 30 * 24 * HOUR + 2 * HOUR),
        # Rows in the future do not make others older.
        (NOW - KEPT + HOUR, NOW + 20 * 24 * HOUR, None),
    ],
)
def test_age_is_relative_to_the_newest_row_and_rounds_cover_two_hours(
    oldest: datetime, newest: datetime, expected: datetime | None
) -> None:
    assert cut(oldest, newest, KEPT, NOW) == expected


def test_old_log_rows_are_removed_unless_referenced(engine: Engine) -> None:
    with engine.begin() as connection:
        alice, scorer = add_monitor(connection, ALICE), add_scorer(connection)
        server = add_server(connection)
        old, edge = NOW - KEPT - SECOND, (NOW - KEPT).replace(microsecond=0) + SECOND
        ids = [add_log_score(connection, server, alice, ts) for ts in (old, old, edge, NOW)]
        status = {"scorer_id": scorer, "log_score_id": ids[1]}
        connection.execute(sa.insert(scorer_status).values(status))
    assert remove_round(engine, "log_scores") == 1
    assert [row.id for row in rows(engine, log_scores)] == ids[1:]


def test_host_with_a_clock_twenty_days_ahead_removes_nothing(engine: Engine) -> None:
    fill(engine, 30, days=14)
    add_newest(engine)
    assert remove_round(engine, "log_scores", NOW + timedelta(days=20)) == 0
    assert len(rows(engine, log_scores)) == 31


@pytest.fixture
def archive(engine: Engine) -> Iterator[sa.Table]:
    """A table of the pool that is not defined in this project, and refers to the log."""
    name, key = "log_scores_archive_status", "INTEGER" if engine.dialect.name == "sqlite" else "BIGINT UNSIGNED"
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE `{name}` (`id` INTEGER PRIMARY KEY, `archiver` VARCHAR(255), `log_score_id` {key}, "
            "FOREIGN KEY (`log_score_id`) REFERENCES `log_scores` (`id`))"
        )
    yield sa.table(name, *(sa.column(c) for c in ("id", "archiver", "log_score_id")))  # type: ignore[misc]
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE `{name}`")


def test_rows_referenced_by_an_unknown_table_stay_and_block_nothing(engine: Engine, archive: sa.Table) -> None:
    fill(engine, 2 * STEP + 10)
    first = add_newest(engine)
    with engine.begin() as connection:
        referred = [first.id + number for number in range(1, STEP + 5)]
        connection.execute(
            sa.insert(archive), [{"id": n, "archiver": "s3", "log_score_id": id_} for n, id_ in enumerate(referred)]
        )
    forecast = str(removing(engine, "log_scores").forecast(NOW))
    assert "unless log_scores_archive_status.log_score_id or scorer_status.log_score_id refers to them" in forecast
    assert remove_round(engine, "log_scores") == STEP + 6
    assert [row.id for row in rows(engine, log_scores)][:-1] == referred
    assert remove_round(engine, "log_scores") == 0, "and the next round does not fail either"


def test_invisible_reference_keeps_only_its_own_row(
    engine: Engine, archive: sa.Table, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The reference may be in another database that the account has no access to."""
    monkeypatch.setattr("ingest.retention.referrers_of", lambda connection, table: ())
    fill(engine, STEP + 10)
    first = add_newest(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(archive).values(id=1, archiver="s3", log_score_id=first.id + 3))
    assert remove_round(engine, "log_scores") == STEP + 9
    assert [row.id for row in rows(engine, log_scores)][:-1] == [first.id + 3]
    [said] = [record.getMessage() for record in caplog.records if record.name == "ingest.retention"]
    assert said == f"log_scores: the row with key ({first.id + 3},) stays, since it is referenced"


def test_cascading_foreign_keys_do_not_keep_a_row(engine: Engine) -> None:
    with engine.connect() as connection:
        assert [str(r) for r in referrers_of(connection, servers)] == []
        assert [str(r) for r in referrers_of(connection, log_scores)] == ["scorer_status.log_score_id"]


def test_other_tables_have_their_own_retention_periods(engine: Engine) -> None:
    with engine.begin() as connection:
        server = add_server(connection)
        for age in (timedelta(0), timedelta(days=4) - SECOND, timedelta(days=4) + SECOND):
            batch = {"monitor_id": 1, "batch": str(ULID()), "received_on": NOW - age, "stored": 1}
            connection.execute(sa.insert(result_batches).values(batch))
        for age in (timedelta(0), timedelta(days=89), timedelta(days=90, seconds=1)):
            change = {"server_id": server, "monitor_id": 1, "after_status": "active", "reason": "x"}
            connection.execute(sa.insert(assignment_changes).values(**change, changed_on=NOW - age))
        for age in (timedelta(0), timedelta(days=90), timedelta(days=90, seconds=1)):
            text = dict.fromkeys(("kind", "name", "request_hash", "chain"), "x")
            ended = {"serial": f"{age.total_seconds():.0f}", **text, "not_before": NOW, "issued_on": NOW}
            connection.execute(sa.insert(certificates).values(**ended, not_after=NOW - age))
        counts = dict.fromkeys(("servers", "probes", "judged", "lost", "expected_lost", "clock_servers"), 1)
        for age in (timedelta(0), timedelta(days=32), timedelta(days=32, seconds=1)):
            connection.execute(sa.insert(monitor_hours).values(hour=NOW - age, monitor_id=1, **counts))
        for age in (timedelta(0), timedelta(days=15), timedelta(days=15, seconds=1)):
            route = {"server_id": server, "monitor_id": 1, "ip": "192.0.2.1", "answered": True, "traces": "[]"}
            connection.execute(sa.insert(server_traceroutes).values(**route, traced_on=NOW - age))
        for age in (timedelta(0), timedelta(hours=1), timedelta(hours=1, seconds=1)):
            trace = {"server_id": add_server(connection), "trace_context": "x"}
            connection.execute(sa.insert(score_traces).values(**trace, stored_on=NOW - age))
    ages = (timedelta(0), timedelta(days=7), timedelta(days=7, seconds=1))
    keep(engine, [message(b"%d" % n, seen=NOW - age) for n, age in enumerate(ages)])
    removed = {what.table.name: remove_round(engine, what.table.name) for what in expiring(KEPT)}
    ours = (
        *(result_batches, rejected_messages, assignment_changes, certificates),
        *(monitor_hours, server_traceroutes, score_traces),
    )
    assert removed == {"log_scores": 0} | {table.name: 1 for table in ours}
    for table in ours:
        assert len(rows(engine, table)) == 2


def add_newest(engine: Engine) -> Any:
    """Add a row of the current time, and return the first row."""
    first = rows(engine, log_scores)[0]
    with engine.begin() as connection:
        add_log_score(connection, first.server_id, first.monitor_id, NOW)
    return first


def fill(engine: Engine, count: int, days: int = 20) -> None:
    with engine.begin() as connection:
        alice, server = add_monitor(connection, ALICE), add_server(connection)
        row = {"monitor_id": alice, "server_id": server, "ts": NOW - timedelta(days=days)}
        connection.execute(sa.insert(log_scores), [row] * count)


def test_retention_step_is_limited(engine: Engine) -> None:
    fill(engine, STEP + 5)
    remover = removing(engine, "log_scores")
    found = Round(NOW - KEPT, ())
    assert [remover.step(found) for _ in range(3)] == [(STEP, True), (5, False), (0, False)]


def test_forecast_describes_the_rows_to_be_removed(engine: Engine) -> None:
    assert str(removing(engine, "log_scores").forecast(NOW)) == "log_scores: rows are kept for 15 days; none is older"
    fill(engine, 5)
    add_newest(engine)
    assert str(removing(engine, "log_scores").forecast(NOW)) == (
        "log_scores: rows are kept for 15 days; 5 are older, since 2025-12-31 12:00, and will be removed, "
        "at most 2 hours of them per round, unless scorer_status.log_score_id refers to them"
    )


def test_forecast_gives_a_short_period_in_hours() -> None:
    short = Expiring(score_traces, score_traces.c.stored_on, timedelta(hours=1))
    assert str(RetentionForecast(short, 0, None, ())) == "score_traces: rows are kept for 1h; none is older"


@pytest.mark.parametrize(
    ("days", "adopted", "kept"),
    [(None, False, 15), (None, True, None), (30, True, 30), (30, False, 30), (2, True, 2)],
)
def test_adopted_log_is_kept_unless_a_retention_period_is_set(
    days: int | None, adopted: bool, kept: int | None
) -> None:
    found = kept_log_scores(days, adopted=adopted)
    assert found == (None if kept is None else timedelta(days=kept))
    assert ("log_scores" in {what.table.name for what in expiring(found)}) == (kept is not None)


def test_adopted_ledger_is_detected(engine: Engine) -> None:
    assert not is_adopted(engine)
    with engine.begin() as connection:
        adopt(connection)
    assert is_adopted(engine)


def fill_batches(engine: Engine, count: int) -> None:
    with engine.begin() as connection:
        alice = add_monitor(connection, ALICE)
        row = {"monitor_id": alice, "received_on": NOW - timedelta(days=20), "stored": 1}
        connection.execute(sa.insert(result_batches), [{**row, "batch": f"{n:026}"} for n in range(count)])


@pytest.mark.parametrize(("table", "make"), [(log_scores, fill), (result_batches, fill_batches)], ids=("ids", "pairs"))
def test_retention_skips_rows_locked_by_another_worker(
    server_engine: Engine, table: sa.Table, make: Callable[[Engine, int], None]
) -> None:
    """A worker skips rows that another has locked, without waiting."""
    make(server_engine, 2 * STEP)
    with server_engine.connect() as connection:  # so that the optimizer knows that a step is half of the table
        connection.execute(sa.text(f"ANALYZE TABLE `{table.name}`")).all()
    other = open_database(server_engine.url)
    remover = removing(other, table.name)
    with other.connect() as connection:
        found = Round(NOW - KEPT, referrers_of(connection, table))
    with server_engine.begin() as connection:
        held = sa.select(*table.primary_key.columns).order_by(remover.what.age).limit(STEP).with_for_update()
        assert len(connection.execute(held).all()) == STEP
        assert remover.step(found) == (STEP, True)
        assert remover.step(found) == (0, False)
    assert remover.step(found) == (STEP, True)
    other.dispose()
