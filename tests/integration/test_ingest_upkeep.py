"""What ingest keeps beside the results, on MariaDB and SQLite, and for how long."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from fixtures.world import add_log_score, add_monitor, add_pair, add_scorer, add_server, monitor_name
from sqlalchemy.engine import Engine
from ulid import ULID

from ingest.decode import Presence, read_status
from ingest.presence import write_presence
from ingest.rates import read_rates
from ingest.rejected import MOST_PER_TOPIC, RejectedMessage, keep, rejected_message
from ingest.retention import STEP, Expiring, expiring, remove_step
from ingest.sightings import Sighting, write_sightings
from ingest.throttle import DRAINING, LEAST_RATE
from runtime.broker import Incoming
from runtime.database import open_database
from runtime.pool_settings import Intervals
from schema.limits import BATCH_MEMORY, MAX_REJECTED_PAYLOAD, REJECTED_MEMORY
from schema.messages import Status
from schema.tables import (
    assignment_changes,
    log_scores,
    monitor_presence,
    monitors,
    rejected_messages,
    result_batches,
    scorer_status,
)

NOW = datetime(2026, 1, 20, 12, 0, 0, 250_000)
SECOND = timedelta(seconds=1)
ALICE, BOB = monitor_name("alice"), monitor_name("bob")


def rows(engine: Engine, table: sa.Table) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(table).order_by(*table.primary_key.columns)))


# ---- rejected messages ---------------------------------------------------------------------------------------------


def message(payload: bytes, topic: str = "/devel/x", seen: datetime = NOW, reason: str = "why") -> RejectedMessage:
    return rejected_message(topic, payload, reason, seen)


def test_a_rejected_message_is_kept_once_and_counted(engine: Engine) -> None:
    keep(engine, [message(b"a"), message(b"b"), message(b"a")])
    keep(engine, [message(b"a", seen=NOW + SECOND, reason="another reason"), message(b"a", topic="/devel/y")])
    found = {(row.topic, row.payload): row for row in rows(engine, rejected_messages)}
    assert set(found) == {("/devel/x", b"a"), ("/devel/x", b"b"), ("/devel/y", b"a")}
    again = found["/devel/x", b"a"]
    assert (again.times, again.first_seen, again.last_seen) == (3, NOW, NOW + SECOND)
    assert again.reason == "another reason"


def test_what_is_too_long_is_cut_but_told_apart(engine: Engine) -> None:
    long = b"\xff" * (MAX_REJECTED_PAYLOAD + 10)
    wide = "/devel/" + "ü" * 2000
    keep(engine, [message(long, wide, reason="ü" * 5000), message(long + b"1", wide)])
    one, other = rows(engine, rejected_messages)
    assert one.payload == other.payload == long[:MAX_REJECTED_PAYLOAD]
    assert {one.bytes, other.bytes} == {len(long), len(long) + 1}
    assert (len(one.topic), len(one.reason) <= 1000) == (500, True)


def test_one_topic_cannot_fill_the_table(engine: Engine) -> None:
    keep(engine, [message(str(number).encode()) for number in range(MOST_PER_TOPIC + 20)])
    keep(engine, [message(b"0"), message(b"x", topic="/devel/y")])
    found = rows(engine, rejected_messages)
    assert len(found) == MOST_PER_TOPIC + 1


def test_two_workers_keep_the_same_message(server_engine: Engine) -> None:
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


def test_an_agent_of_the_former_kind_is_present_until_its_last_will(engine: Engine) -> None:
    """As such agents were recorded: their will has the time of their start, and they say no goodbye."""
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


def test_two_workers_write_the_same_presence(server_engine: Engine) -> None:
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
    write_sightings(engine, [Sighting(bob, NOW), Sighting(alice, NOW, submitted=NOW, version="1" * 300)])
    write_sightings(engine, [Sighting(alice, NOW - SECOND, submitted=NOW - SECOND)])
    write_sightings(engine, [Sighting(bob, NOW + SECOND, version="2"), Sighting(99_999, NOW)])
    write_sightings(engine, [])
    found = {row.id: (row.last_seen, row.last_submit, row.client_version) for row in rows(engine, monitors)}
    assert found == {alice: (NOW, NOW, "1" * 100), bob: (NOW + SECOND, None, "2")}


# ---- rates ---------------------------------------------------------------------------------------------------------


def test_a_rate_follows_from_the_pairs(engine: Engine) -> None:
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
    assert rates[ALICE, "v4"] == pytest.approx(DRAINING * (20 / 2 + 10 / 5))
    assert rates[BOB, "v4"] == DRAINING * 2
    assert rates[ALICE, "v6"] == rates["stranger", "v4"] == rates[ALICE, "status"] == LEAST_RATE


# ---- retention -----------------------------------------------------------------------------------------------------

KEPT = timedelta(days=15)


def by_name(name: str) -> Expiring:
    [found] = [what for what in expiring(KEPT) if what.table.name == name]
    return found


def test_log_rows_go_when_they_are_old_unless_somebody_needs_them(engine: Engine) -> None:
    with engine.begin() as connection:
        alice, scorer = add_monitor(connection, ALICE), add_scorer(connection)
        server = add_server(connection)
        old, edge = NOW - KEPT - SECOND, (NOW - KEPT).replace(microsecond=0) + SECOND
        ids = [add_log_score(connection, server, alice, ts) for ts in (old, old, edge, NOW)]
        status = {"scorer_id": scorer, "log_score_id": ids[1]}
        connection.execute(sa.insert(scorer_status).values(status))
    assert remove_step(engine, by_name("log_scores"), NOW) == 1
    assert [row.id for row in rows(engine, log_scores)] == ids[1:]


def test_the_other_tables_have_their_own_times(engine: Engine) -> None:
    with engine.begin() as connection:
        server = add_server(connection)
        for age in (BATCH_MEMORY - SECOND, BATCH_MEMORY + SECOND):
            batch = {"monitor_id": 1, "batch": str(ULID()), "received_on": NOW - age, "stored": 1}
            connection.execute(sa.insert(result_batches).values(batch))
        for age in (timedelta(days=89), timedelta(days=91)):
            change = {"server_id": server, "monitor_id": 1, "after_status": "active", "reason": "x"}
            connection.execute(sa.insert(assignment_changes).values(**change, changed_on=NOW - age))
    keep(engine, [message(b"a", seen=NOW - REJECTED_MEMORY - SECOND), message(b"b", seen=NOW - REJECTED_MEMORY)])
    removed = {what.table.name: remove_step(engine, what, NOW) for what in expiring(KEPT)}
    assert removed == {"log_scores": 0, "result_batches": 1, "rejected_messages": 1, "assignment_changes": 1}
    for table in (result_batches, rejected_messages, assignment_changes):
        assert len(rows(engine, table)) == 1


def fill(engine: Engine, count: int) -> None:
    with engine.begin() as connection:
        alice, server = add_monitor(connection, ALICE), add_server(connection)
        row = {"monitor_id": alice, "server_id": server, "ts": NOW - timedelta(days=20)}
        connection.execute(sa.insert(log_scores), [row] * count)


def test_a_step_is_small(engine: Engine) -> None:
    fill(engine, STEP + 5)
    what = by_name("log_scores")
    assert [remove_step(engine, what, NOW) for _ in range(3)] == [STEP, 5, 0]


def fill_batches(engine: Engine, count: int) -> None:
    with engine.begin() as connection:
        alice = add_monitor(connection, ALICE)
        row = {"monitor_id": alice, "received_on": NOW - timedelta(days=20), "stored": 1}
        connection.execute(sa.insert(result_batches), [{**row, "batch": f"{n:026}"} for n in range(count)])


@pytest.mark.parametrize(("table", "make"), [(log_scores, fill), (result_batches, fill_batches)], ids=("ids", "pairs"))
def test_several_workers_share_the_removing(
    server_engine: Engine, table: sa.Table, make: Callable[[Engine, int], None]
) -> None:
    """What one has taken, another passes over without waiting."""
    make(server_engine, 2 * STEP)
    with server_engine.connect() as connection:  # so that it knows that a step is half of the table
        connection.execute(sa.text(f"ANALYZE TABLE `{table.name}`")).all()
    what = by_name(table.name)
    other = open_database(server_engine.url)
    with server_engine.begin() as connection:
        held = sa.select(*table.primary_key.columns).order_by(what.age).limit(STEP).with_for_update()
        assert len(connection.execute(held).all()) == STEP
        assert remove_step(other, what, NOW) == STEP
        assert remove_step(other, what, NOW) == 0
    assert remove_step(other, what, NOW) == STEP
    other.dispose()
