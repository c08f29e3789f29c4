"""Test the transaction that stores queued batches, on all databases: all or nothing, and never twice."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from ulid import ULID

from ingest import validate
from ingest.plan import Plan
from ingest.transaction import commit
from runtime.db.engine import to_db, utc_now
from schema.messages import Result
from schema.tables import (
    assignment_changes,
    log_scores,
    monitors,
    result_batches,
    score_traces,
    scoring_queue,
    server_scores,
    servers,
)
from scorer.formula import next_score, step
from testbed.fixtures.batches import ARRIVED, new_result, new_submission
from testbed.fixtures.world import add_monitor, add_pair, add_server, monitor_name

NOW = to_db(ARRIVED)
ALICE, BOB = monitor_name("alice"), monitor_name("bob")


@dataclass(frozen=True)
class World:
    alice: int
    bob: int
    servers: list[int]
    ips: list[str]

    def good(self, index: int, **fields: Any) -> Result:
        return new_result(self.servers[index], self.ips[index], **fields)


@pytest.fixture
def world(engine: Engine) -> World:
    with engine.begin() as connection:
        alice, bob = add_monitor(connection, ALICE), add_monitor(connection, BOB, status="testing")
        ips = [f"192.0.2.{i}" for i in range(1, 7)]
        ids = [add_server(connection, ip) for ip in ips]
        for server_id in ids[:4]:
            add_pair(connection, server_id, alice)
            add_pair(connection, server_id, bob, "testing", score=10.0)
        return World(alice, bob, ids, ips)


def rows(engine: Engine, table: sa.Table, *where: Any) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        query = sa.select(table).where(*where).order_by(*table.primary_key.columns)
        return [dict(row) for row in connection.execute(query).mappings()]


def pair_of(engine: Engine, server_id: int, monitor_id: int) -> dict[str, Any]:
    p = server_scores.c
    [row] = rows(engine, server_scores, p.server_id == server_id, p.monitor_id == monitor_id)
    return row


def stored(plan: Plan) -> list[int]:
    return [ack.stored for _, ack in plan.acks]


def test_batch_stores_its_id_log_rows_scores_and_due_servers(engine: Engine, world: World) -> None:
    submission = new_submission(
        BOB,
        world.good(0, offset=0.4, rtt=0.0301234, stratum=3, leap=1),
        world.good(1, no_response=True, offset=None, rtt=None, stratum=None, leap=None),
        world.good(4),
    )
    plan = commit(engine, [submission], NOW)
    assert stored(plan) == [2]
    [batch] = rows(engine, result_batches)
    assert (batch["monitor_id"], batch["batch"], batch["stored"]) == (world.bob, submission.batch.id, 2)
    first, second = rows(engine, log_scores)
    step_first = -2.308 * 0.4 + 0.731
    assert first == {
        "id": first["id"],
        "monitor_id": world.bob,
        "server_id": world.servers[0],
        "ts": NOW.replace(microsecond=0) - timedelta(seconds=1),
        "score": 0.95 * 10 + step_first,
        "step": step_first,
        "offset": 0.4,
        "rtt": 30_123,
        "attributes": '{"leap":1,"stratum":3}',
    }
    assert (second["offset"], second["rtt"], second["score"]) == (None, 0, 4.5)
    assert second["attributes"] == '{"no_response":true}'
    moved = pair_of(engine, world.servers[0], world.bob)
    assert (moved["score_raw"], moved["score_ts"], moved["stratum"]) == (first["score"], first["ts"], 3)
    assert moved["queue_ts"] == first["ts"], "when the pair was last in turn"
    assert moved["status"] == "testing"
    silent = pair_of(engine, world.servers[1], world.bob)
    assert (silent["score_raw"], silent["score_ts"], silent["stratum"]) == (4.5, second["ts"], None)
    queue = rows(engine, scoring_queue)
    due = {row["server_id"]: row["due_on"] for row in queue if row["due_on"]}
    assert due.items() >= {world.servers[0]: NOW, world.servers[1]: NOW}.items()


def test_scores_are_stored_exactly(engine: Engine, world: World) -> None:
    score = 0.0
    for number in range(40):
        result = world.good(0, offset=0.0251 + number * 0.0173, age=540.0 * (50 - number))
        commit(engine, [new_submission(ALICE, result)], NOW)
        score = next_score(score, step(result))
        assert pair_of(engine, world.servers[0], world.alice)["score_raw"] == score


def test_resent_batch_gets_the_same_ack_and_changes_nothing(engine: Engine, world: World) -> None:
    submission = new_submission(ALICE, world.good(0), world.good(5), world.good(1), new_result(999, "192.0.2.9"))
    first = commit(engine, [submission], NOW)
    before = [rows(engine, table) for table in (result_batches, log_scores, server_scores, scoring_queue)]
    again = commit(engine, [submission], NOW + timedelta(hours=1))
    assert again.acks == first.acks
    assert (again.duplicates, again.log_rows) == (1, [])
    assert [rows(engine, table) for table in (result_batches, log_scores, server_scores, scoring_queue)] == before


def test_batches_in_one_transaction_count_as_if_committed_one_by_one(engine: Engine, world: World) -> None:
    submissions = [
        new_submission(name, *(world.good(i, offset=0.03 * number, age=50.0 - number) for i in range(4)))
        for number, name in enumerate([ALICE, BOB, ALICE, ALICE, BOB])
    ]
    commit(engine, submissions, NOW)
    score = 0.0
    for number in (0, 2, 3):
        score = next_score(score, step(world.good(0, offset=0.03 * number)))
    assert pair_of(engine, world.servers[0], world.alice)["score_raw"] == score
    of_pair = rows(
        engine, log_scores, log_scores.c.monitor_id == world.alice, log_scores.c.server_id == world.servers[0]
    )
    assert [row["offset"] for row in of_pair] == [0.0, 0.06, 0.09]
    assert len(rows(engine, result_batches)) == 5


def test_unknown_sender_gets_an_ack_and_nothing_is_stored(engine: Engine, world: World) -> None:
    plan = commit(engine, [new_submission("ghost.devel.mon.example", world.good(0))], NOW)
    [(_, ack)] = plan.acks
    assert [rejection.reason for rejection in ack.rejected] == [validate.UNKNOWN_MONITOR]
    assert [rows(engine, table) for table in (result_batches, log_scores, scoring_queue)] == [[], [], []]


@pytest.mark.parametrize(
    ("status", "reason"), [("pending", validate.MONITOR_PENDING), ("deleted", validate.MONITOR_DELETED)]
)
def test_results_of_pending_or_deleted_monitors_are_rejected(
    engine: Engine, world: World, status: str, reason: str
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(monitors).where(monitors.c.id == world.alice).values(status=status))
    plan = commit(engine, [new_submission(ALICE, world.good(0)), new_submission(BOB, world.good(0))], NOW)
    assert stored(plan) == [0, 1]
    assert plan.acks[0][1].rejected[0].reason == reason
    assert len(rows(engine, log_scores)) == 1


@pytest.mark.parametrize("name", [ALICE.upper(), ALICE.replace("a", "á", 1), f"{ALICE} "])
def test_monitor_names_are_distinguished_by_case_accent_and_blank(engine: Engine, world: World, name: str) -> None:
    """The collation of a database may treat them as equal."""
    plan = commit(engine, [new_submission(name, world.good(0)), new_submission(ALICE, world.good(1))], NOW)
    assert plan.rejected == {validate.UNKNOWN_MONITOR: 1}
    assert stored(plan) == [0, 1]


def test_scorer_is_not_accepted_as_a_monitor(engine: Engine, world: World) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(monitors).where(monitors.c.id == world.alice).values(type="score"))
    assert commit(engine, [new_submission(ALICE, world.good(0))], NOW).rejected == {validate.UNKNOWN_MONITOR: 1}


def test_server_ids_that_fit_no_column_are_unknown(engine: Engine, world: World) -> None:
    wild = [new_result(i, "192.0.2.1") for i in (0, -1, 2**31, 2**32, 2**63, 2**64 - 1)]
    plan = commit(engine, [new_submission(ALICE, *wild, world.good(0))], NOW)
    assert stored(plan) == [1]
    assert plan.rejected == {validate.UNKNOWN_SERVER: 6}


def change(connection: Connection, world: World, monitor_id: int, after: str, on: datetime) -> None:
    p = server_scores.c
    connection.execute(
        sa.update(server_scores).where(p.server_id == world.servers[0], p.monitor_id == monitor_id).values(status=after)
    )
    connection.execute(
        sa.insert(assignment_changes).values(
            server_id=world.servers[0],
            monitor_id=monitor_id,
            before_status="active",
            after_status=after,
            reason="test",
            changed_on=on,
        )
    )


def test_results_measured_before_the_pair_was_paused_count(engine: Engine, world: World) -> None:
    with engine.begin() as connection:
        change(connection, world, world.alice, "candidate", NOW - timedelta(hours=9))
        change(connection, world, world.alice, "paused", NOW - timedelta(hours=1))
    plan = commit(engine, [new_submission(ALICE, world.good(0, age=3700.0), world.good(0, age=10.0))], NOW)
    assert stored(plan) == [1]
    assert plan.rejected == {validate.NOT_ASSIGNED: 1}


def test_results_of_a_paused_monitor_count_until_its_assignment_ended(engine: Engine, world: World) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(monitors).where(monitors.c.id == world.alice).values(status="paused"))
        change(connection, world, world.alice, "candidate", NOW - timedelta(hours=1))
    early, late = world.good(0, age=3700.0), world.good(0, age=10.0)
    plan = commit(engine, [new_submission(ALICE, early, late, world.good(1, age=10.0))], NOW)
    assert [rejection.index for rejection in plan.acks[0][1].rejected] == [1]
    assert stored(plan) == [2]


def test_failure_within_the_transaction_stores_nothing(engine: Engine, world: World) -> None:
    def fail(*args: Any) -> None:
        if args[2].lstrip().startswith("UPDATE") and "server_scores" in args[2]:
            raise ZeroDivisionError

    sa.event.listen(engine, "before_cursor_execute", fail)
    try:
        with pytest.raises(ZeroDivisionError):
            commit(engine, [new_submission(ALICE, world.good(0))], NOW)
    finally:
        sa.event.remove(engine, "before_cursor_execute", fail)
    assert [rows(engine, table) for table in (result_batches, log_scores)] == [[], []]
    assert pair_of(engine, world.servers[0], world.alice)["score_raw"] == 0.0


def test_rows_of_a_deleted_server_are_deleted_and_it_is_unknown(engine: Engine, world: World) -> None:
    commit(engine, [new_submission(ALICE, world.good(0))], NOW)
    with engine.begin() as connection:
        connection.execute(sa.delete(servers).where(servers.c.id == world.servers[0]))
    plan = commit(engine, [new_submission(ALICE, world.good(0), world.good(1))], NOW)
    assert plan.rejected == {validate.UNKNOWN_SERVER: 1}
    assert [row["server_id"] for row in rows(engine, log_scores)] == [world.servers[1]]


def test_largest_possible_transaction_is_stored(engine: Engine, world: World) -> None:
    results = [world.good(i % 4, age=i // 4 * 300.0) for i in range(1000)]
    bad = [new_result(2**32 - 1 - i, "192.0.2.1", error="x" * 5000) for i in range(1000)]
    plan = commit(engine, [new_submission(ALICE, *results), new_submission(ALICE, *bad)], NOW)
    assert stored(plan) == [1000, 0]
    again = commit(engine, [submission for submission, _ in plan.acks], utc_now())
    assert again.acks == plan.acks


def test_two_monitors_may_use_the_same_batch_id(engine: Engine, world: World) -> None:
    """Ids are unique per monitor, so a batch is never taken for that of another monitor."""
    ulid = str(ULID())
    plans = [
        commit(engine, [new_submission(name, world.good(0, age=age), id=ulid)], NOW)
        for name, age in ((ALICE, 600.0), (BOB, 600.0), (ALICE, 1.0))
    ]
    assert [(stored(plan), plan.duplicates) for plan in plans] == [([1], 0), ([1], 0), ([1], 1)]
    assert {row["monitor_id"] for row in rows(engine, result_batches)} == {world.alice, world.bob}
    assert len(rows(engine, log_scores)) == 2


def test_empty_batch_is_stored(engine: Engine, world: World) -> None:
    plan = commit(engine, [new_submission(ALICE, id=str(ULID()))], NOW)
    assert stored(plan) == [0]
    assert len(rows(engine, result_batches)) == 1


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_trace_goes_on_with_the_servers_whose_results_were_stored(engine: Engine, world: World) -> None:
    traced = new_submission(ALICE, world.good(0), world.good(1, rtt=-1.0))
    commit(engine, [replace(traced, trace=TRACE), new_submission(BOB, world.good(1), world.good(2))], NOW)
    [kept] = rows(engine, score_traces)
    assert kept == {"server_id": world.servers[0], "trace_context": TRACE, "stored_on": NOW}


def test_the_newest_trace_of_a_server_replaces_another(engine: Engine, world: World) -> None:
    first, second = (new_submission(ALICE, world.good(0, age=age)) for age in (600.0, 1.0))
    commit(engine, [replace(first, trace=TRACE)], NOW - timedelta(minutes=9))
    newer = TRACE.replace("b7ad", "beef")
    commit(engine, [replace(second, trace=newer)], NOW)
    assert [(row["trace_context"], row["stored_on"]) for row in rows(engine, score_traces)] == [(newer, NOW)]


def test_a_batch_that_was_stored_before_continues_no_trace(engine: Engine, world: World) -> None:
    submission = new_submission(ALICE, world.good(0))
    commit(engine, [submission], NOW)
    commit(engine, [replace(submission, trace=TRACE)], NOW)
    assert rows(engine, score_traces) == []


def test_a_trace_goes_on_with_a_few_servers_only(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.tracing.MOST_SERVERS", 2)
    with sqlite_engine.begin() as connection:
        alice = add_monitor(connection, ALICE)
        ips = [f"192.0.2.{number}" for number in range(1, 6)]
        ids = [add_server(connection, ip) for ip in ips]
        for server_id in ids:
            add_pair(connection, server_id, alice)
    submission = new_submission(ALICE, *(new_result(id_, ip) for id_, ip in zip(ids, ips, strict=True)))
    commit(sqlite_engine, [replace(submission, trace=TRACE)], NOW)
    assert len(rows(sqlite_engine, score_traces)) == 2
