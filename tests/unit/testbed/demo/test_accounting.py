"""Test that the account at the end of a demo detects every kind of loss and duplication."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from schema.messages import Result
from scorer.formula import next_score, step
from testbed.checker.replay import LogRow, Replay
from testbed.demo.accounting import Account, Evidence, settle
from testbed.spools import Spooled

MONITOR, SERVER = 3, 7
BATCHES = {(MONITOR, "B1"): (2, 0), (MONITOR, "B2"): (3, 0)}
WITNESSED = {(MONITOR, "B1"): 2, (MONITOR, "B2"): 3}


def rows(count: int = 5) -> list[LogRow]:
    """Return ingest's log rows for ``count`` results: in turn a good offset, a large one, and no response."""
    made: list[LogRow] = []
    score = 0.0
    offsets = itertools.cycle([0.001, 4.0, None])
    for index in range(count):
        offset = next(offsets)
        offset = None if offset is None else offset + index * 1e-6
        ts = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=2 * index)
        result = Result(server_id=SERVER, ip="", ts=ts, offset=offset, stratum=2, no_response=offset is None)
        score = next_score(score, step(result))
        made.append(
            LogRow(
                server_id=SERVER,
                monitor_id=MONITOR,
                ts=ts,
                score=score,
                step=step(result).step,
                offset=offset,
                rtt=None if offset is None else 900 + index,
                stratum=2,
                error=None,
                no_response=offset is None,
            )
        )
    return made


def account(logged: list[LogRow], pair_score: float | None = None, **given: Any) -> Account:
    score = rows()[-1].score if pair_score is None else pair_score
    pairs = {(SERVER, MONITOR): score}
    defaults = {"batches": BATCHES, "witnessed": WITNESSED, "measured": {}}
    return settle(Evidence(replay=Replay().all(logged), pair_scores=pairs, **(defaults | given)))


def test_sound_ledger_has_no_loss_and_no_duplicate() -> None:
    assert account(rows()) == Account(committed=5, lost=0, duplicated=0, rejected=0, waiting=0, unscored=0, reasons=())


def test_published_batch_missing_from_the_ledger_is_lost() -> None:
    found = account(rows(), witnessed=WITNESSED | {(MONITOR, "B3"): 4})
    assert (found.lost, found.good) == (4, False)
    assert found.reasons == ("4 results of 1 batches that were sent are not in the ledger",)


def test_batch_still_in_its_spool_is_waiting_and_not_lost() -> None:
    found = account(rows(), witnessed=WITNESSED | {(MONITOR, "B3"): 4}, spooled=Spooled(waiting={(MONITOR, "B3"): 4}))
    assert (found.lost, found.waiting, found.good) == (0, 1, True)


def test_partly_stored_batch_is_partly_lost() -> None:
    assert account(rows(), witnessed=WITNESSED | {(MONITOR, "B2"): 5}).lost == 2


def test_a_result_without_its_log_row_is_lost() -> None:
    found = account(rows(4), pair_score=rows(4)[-1].score)
    assert (found.lost, found.duplicated) == (1, 0)


def test_rejected_dropped_and_refused_results_are_reported() -> None:
    batches = BATCHES | {(MONITOR, "B3"): (0, 2)}
    assert (account(rows(), batches=batches).rejected, account(rows(), batches=batches).lost) == (2, 2)
    assert account(rows(), spooled=Spooled(dropped={MONITOR: 3})).lost == 3
    assert not account(rows(), spooled=Spooled(set_aside=1)).good


def test_measurement_stored_again_in_a_new_batch_is_a_duplicate() -> None:
    logged = rows()
    again = replace(logged[4], score=next_score(logged[4].score, step(logged[4].result())))
    twice = [*logged[:4], logged[4], again]
    found = account(twice, batches=BATCHES | {(MONITOR, "B3"): (1, 0)}, pair_score=again.score)
    assert (found.lost, found.duplicated) == (0, 1)


def test_a_log_row_without_a_batch_is_a_duplicate() -> None:
    assert account(rows(6), pair_score=rows(6)[-1].score).duplicated == 1


def test_result_applied_twice_to_the_score_alone_is_detected() -> None:
    found = account(rows(), pair_score=next_score(rows()[-1].score, step(rows()[-1].result())))
    assert (found.unscored, found.duplicated, found.good) == (1, 0, False)


def test_score_that_does_not_follow_from_the_previous_one_is_detected() -> None:
    logged = rows()
    logged[2] = replace(logged[2], score=logged[2].score + 0.01)
    assert account(logged).unscored == 2, "its own row, and the next that builds on it"


def test_step_that_does_not_match_its_result_is_detected() -> None:
    logged = rows(1)
    better = replace(logged[0], step=0.5, score=0.5)
    assert account([better], batches={(MONITOR, "B1"): (1, 0)}, witnessed={}, pair_score=0.5).unscored == 1


def test_measured_results_must_be_in_the_ledger_or_a_spool() -> None:
    assert account(rows(), measured={MONITOR: 5}).good
    found = account(rows(), measured={MONITOR: 7})
    assert (found.lost, found.reasons) == (2, ("2 results that agents measured have disappeared",))
    waiting = Spooled(waiting={(MONITOR, "B3"): 2})
    assert account(rows(), measured={MONITOR: 7}, spooled=waiting).good


def test_loss_of_measured_and_published_results_is_counted_once() -> None:
    assert account(rows(), witnessed=WITNESSED | {(MONITOR, "B3"): 2}, measured={MONITOR: 7}).lost == 2


def test_more_results_than_an_agent_measured_are_duplicates() -> None:
    assert account(rows(), measured={MONITOR: 4}).duplicated == 1
