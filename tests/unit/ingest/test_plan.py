"""Test the changes by a group of batches: scores build on each other, nothing counts twice, no result is dropped."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from ingest import validate
from ingest.messages import Submission
from ingest.plan import (
    Known,
    LogRow,
    Plan,
    StoredMonitor,
    StoredPair,
    make_plan,
    rejections_from_text,
    rejections_to_text,
)
from schema.messages import Rejection, Result, encode
from scorer.formula import next_score, step
from testbed.fixtures.batches import ARRIVED, new_batch, new_result, new_submission

ALICE, BOB, PAUSED, PENDING = "alice", "bob", "paused", "pending"
IPS = {1: "192.0.2.1", 2: "192.0.2.2", 3: "192.0.2.3"}
NOON = datetime(2026, 1, 2, 12)


def pair(number: int, status: Any = "active", **fields: Any) -> StoredPair:
    return StoredPair(number, status, **{"score": 0.0, "score_ts": None, "stratum": None, **fields})


WORLD = Known(
    monitors={
        (ALICE, "v4"): StoredMonitor(10, "active"),
        (BOB, "v4"): StoredMonitor(20, "testing"),
        (PAUSED, "v4"): StoredMonitor(30, "paused"),
        (PENDING, "v4"): StoredMonitor(40, "pending"),
    },
    servers=IPS,
    pairs={
        (1, 10): pair(1),
        (2, 10): pair(2, "paused", ended=NOON - timedelta(hours=1)),
        (1, 20): pair(3, "candidate", score=12.5),
        (1, 30): pair(4, "candidate", ended=NOON - timedelta(hours=1)),
        (2, 30): pair(5, "testing"),
        (3, 30): pair(6, "paused"),
        (1, 40): pair(7),
    },
    batches={},
)


def after(known: Known, plan: Plan) -> Known:
    """Return the ledger once ``plan`` is written."""
    return replace(known, pairs={**known.pairs, **plan.pairs}, batches={**known.batches, **plan.batches})


def good(server_id: int = 1, **fields: Any) -> Result:
    return new_result(server_id, IPS.get(server_id, "192.0.2.9"), **fields)


def reasons(plan: Plan, index: int = 0) -> list[str]:
    return [rejection.reason for rejection in plan.acks[index][1].rejected]


def test_result_changes_its_pair_and_adds_a_log_row() -> None:
    submission = new_submission(BOB, good())
    plan = make_plan(WORLD, [submission])
    score = 0.95 * 12.5 + 1
    assert plan.pairs == {(1, 20): pair(3, "candidate", score=score, score_ts=NOON - timedelta(seconds=1), stratum=2)}
    assert plan.log_rows == [
        LogRow(
            monitor_id=20,
            server_id=1,
            ts=NOON - timedelta(seconds=1),
            score=score,
            step=1.0,
            offset=0.0012,
            rtt=25_000,
            attributes='{"leap":0,"stratum":2}',
        )
    ]
    assert plan.acks[0][1].stored == 1
    assert plan.acks[0][1].rejected == []
    [event] = plan.events()
    assert (event.server_id, event.monitor, event.score, event.step) == (1, BOB, score, 1.0)


def test_results_of_a_pair_are_applied_in_sequence() -> None:
    first = new_submission(ALICE, good(), good(no_response=True, offset=None), good(offset=0.4))
    second = new_submission(ALICE, good())
    plan = make_plan(WORLD, [first, second])
    expected, score = [], 0.0
    for moved in (1.0, -5.0, -2.308 * 0.4 + 0.731, 1.0):
        score = 0.95 * score + moved
        expected.append(score)
    assert [row.score for row in plan.log_rows] == pytest.approx(expected)
    assert plan.pairs[1, 10].score == pytest.approx(score)
    assert set(plan.pairs) == {(1, 10)}


def test_late_result_counts_but_keeps_the_newer_time_and_stratum() -> None:
    plan = make_plan(WORLD, [new_submission(ALICE, good(stratum=3), good(age=3600.0, stratum=1))])
    moved = plan.pairs[1, 10]
    assert moved.score == 1.95
    assert moved.score_ts == NOON - timedelta(seconds=1)
    assert moved.stratum == 3
    assert [row.ts for row in plan.log_rows] == [NOON - timedelta(seconds=1), NOON - timedelta(seconds=3600)]


@pytest.mark.parametrize("stratum", [None, 0])
def test_result_without_a_stratum_keeps_the_previous_one(stratum: int | None) -> None:
    world = replace(WORLD, pairs={(1, 10): pair(1, stratum=4)})
    plan = make_plan(world, [new_submission(ALICE, good(stratum=stratum, error="RATE", offset=None))])
    assert plan.pairs[1, 10].stratum == 4


def test_log_rows_are_ordered_by_monitor() -> None:
    plan = make_plan(WORLD, [new_submission(BOB, good(offset=0.1)), new_submission(ALICE, good(), good(offset=0.2))])
    assert [(row.monitor_id, row.offset) for row in plan.log_rows] == [(10, 0.0012), (10, 0.2), (20, 0.1)]


@pytest.mark.parametrize(
    ("name", "result", "reason"),
    [
        ("nobody", good(), validate.UNKNOWN_MONITOR),
        (PENDING, good(), validate.MONITOR_PENDING),
        (ALICE, good(9), validate.UNKNOWN_SERVER),
        (ALICE, good(3), validate.NO_PAIR),
        (ALICE, new_result(1, "192.0.2.2"), validate.OTHER_ADDRESS),
        (ALICE, good(age=-61.0), validate.IN_THE_FUTURE),
        (ALICE, good(2), validate.NOT_ASSIGNED),
        (PAUSED, good(1), validate.NOT_ASSIGNED),
        (PAUSED, good(3, age=9000.0), validate.NOT_ASSIGNED),
    ],
)
def test_invalid_result_is_rejected_without_affecting_others(name: str, result: Result, reason: str) -> None:
    plan = make_plan(WORLD, [new_submission(name, result), new_submission(ALICE, good())])
    assert reasons(plan) == [reason]
    assert plan.acks[0][1].stored == 0
    assert plan.acks[1][1].stored == 1
    assert plan.rejected == {reason: 1}
    assert len(plan.log_rows) == 1


@pytest.mark.parametrize(
    ("name", "result"), [(ALICE, good(2, age=3600.0)), (PAUSED, good(1, age=3600.0)), (PAUSED, good(2))]
)
def test_result_measured_while_assigned_is_stored_even_later(name: str, result: Result) -> None:
    assert make_plan(WORLD, [new_submission(name, result)]).acks[0][1].stored == 1


def test_the_other_protocol_is_another_monitor() -> None:
    plan = make_plan(WORLD, [new_submission(ALICE, good(), ipv="v6")])
    assert reasons(plan) == [validate.UNKNOWN_MONITOR]
    assert plan.batches == {}, "there is no monitor to remember it by"


def test_repeated_batch_is_acknowledged_again_but_counts_once() -> None:
    submission = new_submission(ALICE, good(), good(9))
    plan = make_plan(WORLD, [submission, submission])
    assert len(plan.log_rows) == 1
    assert plan.acks[0] == plan.acks[1]
    assert plan.duplicates == 1
    again = make_plan(after(WORLD, plan), [submission])
    assert again.acks == plan.acks[:1]
    assert (again.log_rows, again.pairs, again.batches, again.rejected) == ([], {}, {}, {})


def test_two_monitors_may_use_the_same_ulid() -> None:
    ulid = str(ULID())
    plan = make_plan(WORLD, [new_submission(ALICE, good(), id=ulid), new_submission(BOB, good(), id=ulid)])
    assert [ack.stored for _, ack in plan.acks] == [1, 1]
    assert len(plan.log_rows) == 2


def test_ids_out_of_range_are_rejected_with_an_encodable_ack() -> None:
    plan = make_plan(WORLD, [new_submission(ALICE, good(2**64 - 1), good(-5), good(0))])
    assert reasons(plan) == [validate.UNKNOWN_SERVER] * 3
    assert {rejection.server_id for rejection in plan.acks[0][1].rejected} == {0}
    assert encode(plan.acks[0][1])


@pytest.mark.parametrize(
    ("seconds", "microseconds"),
    [(0.0, 1), (2e-7, 1), (0.0123456, 12346), (8.388607, 8_388_607), (9.0, 8_388_607), (1e9, 8_388_607), (None, 0)],
)
def test_rtt_is_limited_to_the_columns_range_and_0_means_none(seconds: float | None, microseconds: int) -> None:
    [row] = make_plan(WORLD, [new_submission(ALICE, good(rtt=seconds))]).log_rows
    assert row.rtt == microseconds


@pytest.mark.parametrize(
    ("fields", "attributes"),
    [
        ({"leap": None, "stratum": None}, None),
        ({"leap": 3, "stratum": 0, "error": "RATE"}, {"leap": 3, "stratum": 0, "error": "RATE"}),
        ({"leap": None, "stratum": None, "no_response": True}, {"no_response": True}),
        ({"error": ""}, {"leap": 0, "stratum": 2}),
        ({"error": "x" * 200}, {"leap": 0, "stratum": 2, "error": "x" * 200}),
        ({"error": "ü" * 201}, {"leap": 0, "stratum": 2, "error": "ü" * 199 + "…"}),
    ],
)
def test_attributes_omit_empty_fields(fields: dict[str, Any], attributes: dict[str, Any] | None) -> None:
    [row] = make_plan(WORLD, [new_submission(ALICE, good(**fields))]).log_rows
    text = row.attributes
    assert (text and json.loads(text)) == attributes
    assert text is None or text.isascii()


@pytest.mark.parametrize(
    ("fields", "error"),
    [({"leap": 3}, "not synchronised"), ({"root_delay": 0.2, "root_dispersion": 4.0}, "root distance 4.1 s")],
)
def test_error_of_an_unusable_server_is_stored_if_the_agent_sent_none(fields: dict[str, Any], error: str) -> None:
    plan = make_plan(WORLD, [new_submission(ALICE, good(**fields))])
    [row] = plan.log_rows
    assert (row.step, json.loads(row.attributes or "")["error"]) == (-4.0, error)
    assert [event.error for event in plan.events()] == [error]


def test_result_without_a_response_has_no_offset_or_rtt() -> None:
    [row] = make_plan(WORLD, [new_submission(ALICE, good(no_response=True))]).log_rows
    assert (row.offset, row.rtt, row.step) == (None, 0, -5.0)


def test_a_thousand_rejections_fit_in_64_kib() -> None:
    results = [good(2**32 - 1 - i, age=float(-61 * (i % 2))) for i in range(1_000)]
    plan = make_plan(WORLD, [new_submission(ALICE, *results)])
    [remembered] = plan.batches.values()
    text = rejections_to_text(remembered.rejected)
    assert text is not None
    assert len(text.encode()) < 65_536
    assert rejections_from_text(text) == remembered.rejected


@given(
    st.lists(
        st.builds(
            Rejection,
            index=st.integers(0, 999),
            server_id=st.integers(0, 2**32 - 1),
            reason=st.sampled_from([validate.NO_PAIR, validate.TOO_OLD]),
        ),
        unique_by=lambda rejection: rejection.index,
    )
)
def test_rejections_survive_the_conversion_to_text(rejected: list[Rejection]) -> None:
    rejected.sort(key=lambda rejection: rejection.index)
    assert rejections_from_text(rejections_to_text(rejected)) == tuple(rejected)


# ---- random submissions --------------------------------------------------------------------------------------------

ulids = st.sampled_from([str(ULID()) for _ in range(6)])
results = st.builds(
    new_result,
    st.sampled_from([0, 1, 2, 3, 9]),
    st.sampled_from(list(IPS.values())),
    age=st.floats(-100, 300_000),
    offset=st.none() | st.floats(-4, 4),
    stratum=st.none() | st.integers(0, 16),
    error=st.none() | st.sampled_from(["RATE", "DENY", "bad stratum 16"]),
    no_response=st.booleans(),
)


@st.composite
def intakes(draw: st.DrawFn) -> list[Submission]:
    """Batches of several senders, some of them sent again (a ULID always names the same batch)."""
    batches = {}
    submissions = []
    for _ in range(draw(st.integers(0, 12))):
        name, ulid = draw(st.sampled_from([ALICE, BOB, PAUSED, PENDING, "nobody"])), draw(ulids)
        if (name, ulid) not in batches:
            batches[name, ulid] = new_batch(*draw(st.lists(results, max_size=4)), id=ulid)
        submissions.append(Submission(name, "v4", batches[name, ulid], ARRIVED))
    return submissions


@given(intakes())
def test_each_result_is_stored_or_rejected(submissions: list[Submission]) -> None:
    plan = make_plan(WORLD, submissions)
    assert [submission for submission, _ in plan.acks] == submissions
    for submission, ack in plan.acks:
        assert ack.batch == submission.batch.id
        assert ack.stored + len(ack.rejected) == len(submission.batch.results)
    stored = sum(remembered.stored for remembered in plan.batches.values())
    assert stored == len(plan.log_rows)
    assert set(plan.newest) == {server_id for server_id, _ in plan.pairs}


@given(intakes(), st.integers(0, 12))
def test_splitting_batches_over_transactions_changes_nothing(submissions: list[Submission], cut: int) -> None:
    whole = make_plan(WORLD, submissions)
    first = make_plan(WORLD, submissions[:cut])
    second = make_plan(after(WORLD, first), submissions[cut:])
    assert whole.acks == first.acks + second.acks
    assert {**first.pairs, **second.pairs} == whole.pairs
    assert first.duplicates + second.duplicates == whole.duplicates
    assert first.rejected + second.rejected == whole.rejected
    for monitor_id in (10, 20, 30):
        rows = [row for row in first.log_rows + second.log_rows if row.monitor_id == monitor_id]
        assert rows == [row for row in whole.log_rows if row.monitor_id == monitor_id]


@given(intakes())
def test_sending_everything_again_changes_nothing(submissions: list[Submission]) -> None:
    plan = make_plan(WORLD, submissions)
    again = make_plan(after(WORLD, plan), submissions)
    assert again.acks == plan.acks
    assert (again.log_rows, again.pairs, again.batches) == ([], {}, {})


@given(intakes())
def test_score_accumulates_its_steps_and_has_the_latest_time(submissions: list[Submission]) -> None:
    plan = make_plan(WORLD, submissions)
    for (server_id, monitor_id), moved in plan.pairs.items():
        score = WORLD.pairs[server_id, monitor_id].score
        rows = [r for r in plan.log_rows if (r.server_id, r.monitor_id) == (server_id, monitor_id)]
        for row in rows:
            assert row.score <= 0.95 * score + row.step
            score = row.score
        assert moved.score == score
        assert moved.score_ts == max(row.ts for row in rows)


@given(st.lists(st.builds(good, offset=st.floats(-4, 4), age=st.floats(0, 200_000)), min_size=1, max_size=20))
def test_results_are_applied_in_the_order_of_the_batch(series: list[Result]) -> None:
    score = 0.0
    for each in series:
        score = next_score(score, step(each))
    plan = make_plan(WORLD, [new_submission(ALICE, *series)])
    assert plan.pairs[1, 10].score == score
    assert plan.pairs[1, 10].score_ts == max(r.ts for r in series).astimezone(UTC).replace(tzinfo=None, microsecond=0)
