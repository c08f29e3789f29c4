"""Test the records for the ledger: violations with their first time, checks of paused pairs, and nothing more."""

from datetime import timedelta

import pytest

from selector.rules.model import PairRecord, PairStatus, ViolationType
from selector.rules.world import Review
from testbed.selection.worlds import NOW, Scene, many, monitor, scene

EARLIER = NOW - timedelta(days=3)
SEVEN = many(range(11, 18), "active")
FIVE = many(range(21, 26), "testing", global_status="testing")
CLOSE = "192.0.2.77"


def record(of: Scene, number: int) -> PairRecord | None:
    return next((row for row in of.review().records if row.monitor_id == number), None)


def test_a_settled_server_needs_no_write() -> None:
    review: Review = scene(*SEVEN, *FIVE).review()
    assert (review.changed, review.records, dict(review.violations)) == (False, (), {})


def test_a_change_writes_the_new_status_and_the_time_of_the_check() -> None:
    row = record(scene(monitor(1, "testing"), *SEVEN[:6]), 1)
    assert row == PairRecord(1, PairStatus.ACTIVE, None, None, NOW, None)


@pytest.mark.parametrize(
    ("stored", "since"),
    [(("limit", EARLIER), EARLIER), ((None, None), NOW), (("account", EARLIER), NOW), (("limit", None), NOW)],
)
def test_a_violation_keeps_its_first_time(stored: tuple[str | None, object], since: object) -> None:
    one = monitor(1, "active", account_id=5, limit=0, violation_type=stored[0], violation_since=stored[1])
    alone = scene(one)  # the last active monitor stays, and so does its violation
    assert alone.review().violations[1].type is ViolationType.LIMIT
    assert alone.review().violations[1].since == since
    expected = None if since == stored[1] else PairRecord(1, PairStatus.ACTIVE, "limit", NOW, NOW, None)
    assert record(alone, 1) == expected


def test_resolved_violation_is_cleared() -> None:
    one = monitor(11, "active", violation_type="limit", violation_since=EARLIER)
    assert record(scene(one, *SEVEN[1:], *FIVE), 11) == PairRecord(11, PairStatus.ACTIVE, None, None, NOW, None)


def test_move_because_of_a_violation_clears_it() -> None:
    over = [monitor(number, "active", account_id=5, limit=1) for number in (1, 2)]
    there = scene(*over, *SEVEN[:4])
    assert there.review().violations[2].type is ViolationType.LIMIT
    assert record(there, 2) == PairRecord(2, PairStatus.TESTING, None, None, NOW, None)


def test_violation_accepted_in_an_emergency_is_stored() -> None:
    row = record(scene(monitor(1, "testing", account_id=5, limit=0)), 1)
    assert row == PairRecord(1, PairStatus.ACTIVE, "limit", NOW, NOW, None)


def test_pausing_stores_the_reason_and_the_violation() -> None:
    row = record(scene(monitor(1, "candidate", ip=CLOSE), *SEVEN, *FIVE), 1)
    assert row == PairRecord(1, PairStatus.PAUSED, "network_same_subnet", NOW, NOW, "constraint")


def paused(hours: float, **values: object) -> Scene:
    fields = {
        "violation_type": "network_same_subnet",
        "violation_since": EARLIER,
        "last_constraint_check": NOW - timedelta(hours=hours),
        "pause_reason": "constraint",
    }
    return scene(monitor(1, "paused", **(fields | values)), *SEVEN, *FIVE)


def test_check_of_an_unresolved_pair_is_recorded() -> None:
    expected = PairRecord(1, PairStatus.PAUSED, "network_same_subnet", EARLIER, NOW, "constraint")
    assert record(paused(8, ip=CLOSE), 1) == expected
    assert record(paused(7.9, ip=CLOSE), 1) is None
    assert record(paused(8, ip=CLOSE, pause_reason="excess"), 1) == expected


def test_freed_pair_has_no_violation() -> None:
    assert record(paused(8), 1) == PairRecord(1, PairStatus.CANDIDATE, None, None, NOW, None)


def test_a_resolved_pair_that_has_to_wait_stays_due() -> None:
    waiting = [
        monitor(number, "paused", pause_reason="constraint", violation_type="account", last_constraint_check=last)
        for number, last in ((1, None), (2, None), (3, EARLIER))
    ]
    there = scene(*waiting, *SEVEN, *FIVE)
    assert record(there, 3) == PairRecord(3, PairStatus.PAUSED, None, None, EARLIER, "constraint")
    later = there.after(there.review())
    assert record(later, 3) == PairRecord(3, PairStatus.CANDIDATE, None, None, later.now, None)


def test_next_review_writes_nothing_more() -> None:
    first = scene(monitor(1, "active", account_id=5, limit=0), monitor(2, "candidate", ip=CLOSE))
    second = first.after(first.review())
    assert second.review().records == ()
