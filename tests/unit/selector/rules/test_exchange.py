"""Test the exchange of rule 3: when a monitor replaces the only one that excludes it, just inside and just outside."""

from datetime import timedelta

import pytest

from selector.rules.explain import verdicts
from selector.rules.model import Monitor
from testbed.selection.worlds import NOW, Scene, many, monitor, scene

EXCHANGE = "rule 3: exchange across a constraint"
SIX = many(range(11, 17), "active", avg_rtt_ms=20.0)
TESTERS = many(range(21, 26), "testing", avg_rtt_ms=20.0)
OLD = monitor(1, "active", ip="10.1.16.1", avg_rtt_ms=100.0)


def neighbour(**values: object) -> Monitor:
    """Return a much better candidate in the same /20 as `OLD`."""
    return monitor(2, "candidate", **({"ip": "10.1.17.1", "avg_rtt_ms": 20.0} | values))


def moves(of: Scene) -> dict[int, str]:
    return {change.monitor_id: change.to_status.value for change in of.review().changes if change.rule == EXCHANGE}


SWAPPED = {2: "active", 1: "candidate"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, SWAPPED),
        ({"count": 24}, SWAPPED),
        ({"count": 23}, {2: "testing", 1: "candidate"}),
        ({"count": 9}, {2: "testing", 1: "candidate"}),
        ({"count": 8}, {}),
        ({"avg_rtt_ms": 95.0}, SWAPPED),
        ({"avg_rtt_ms": 96.0}, {}),
        ({"avg_step": -0.1}, {}),
        ({"gone": True}, {}),
        ({"global_status": "testing"}, {}),
        ({"global_status": "pending"}, {}),
        ({"global_status": "paused"}, {}),
        ({"ip": "10.1.15.1"}, {}),
        ({"ip": "10.1.31.1"}, SWAPPED),
        ({"account_id": 11, "limit": 1}, {}),
        ({"account_id": 900}, {}),
        ({"ip": "10.1.15.1", "account_id": 1, "limit": 1}, {}),
    ],
)
def test_a_candidate_takes_the_place_of_its_worse_neighbour(
    values: dict[str, object], expected: dict[int, str]
) -> None:
    assert moves(scene(OLD, neighbour(**values), *SIX, *TESTERS)) == expected


def test_exchange_gives_readable_reasons() -> None:
    review = scene(OLD, neighbour(), *SIX, *TESTERS).review()
    assert [change.reason for change in review.changes] == [
        "takes the place of m1, same network, priority 20 against 100",
        "gives way to m2, same network, priority 20 against 100",
    ]
    tested = scene(OLD, neighbour(count=23), *SIX, *TESTERS).review()
    assert [change.reason for change in tested.changes if change.rule == EXCHANGE] == [
        "makes way for m2 to be tested, same network, priority 20 against 100",
        "is tested instead of m1, same network, priority 20 against 100",
    ]


@pytest.mark.parametrize(
    ("others", "values", "why"),
    [
        (4, {"count": 23}, "better than m1, but: 23 of 24 results, and cannot be tested beside it"),
        (6, {"account_id": 11, "limit": 1}, "better than m1, but: would also violate limit with other monitors"),
        (7, {}, "better than m1, but: too many are active, and they leave first"),
    ],
)
def test_reason_for_not_exchanging_is_given(others: int, values: dict[str, object], why: str) -> None:
    many_active = many(range(11, 11 + others), "active", avg_rtt_ms=20.0)
    review = scene(OLD, neighbour(**values), *many_active, *TESTERS).review()
    told = {verdict.monitor_id: verdict.reason for verdict in verdicts(review)}
    assert told[2] == f"stays candidate: {why} ({EXCHANGE})"


def test_only_active_monitor_gives_way_only_to_a_ready_one() -> None:
    assert moves(scene(OLD, neighbour(count=24))) == SWAPPED
    assert moves(scene(OLD, neighbour(count=23))) == {}


@pytest.mark.parametrize("values", [{"global_status": "pending"}, {"avg_step": -0.1}])
@pytest.mark.parametrize("rtt", [20.0, 100.0, 300.0])
def test_leaving_monitor_gives_way_whatever_the_priorities(values: dict[str, object], rtt: float) -> None:
    """The last active one even gives way to a neighbour with 9 results, as in an emergency."""
    old = monitor(1, "active", ip="10.1.16.1", avg_rtt_ms=100.0, **values)
    assert moves(scene(old, neighbour(avg_rtt_ms=rtt, count=9))) == SWAPPED
    assert moves(scene(old, neighbour(avg_rtt_ms=rtt, count=8))) == {}
    assert moves(scene(old, neighbour(avg_rtt_ms=rtt, count=23), SIX[0])) == {}
    assert moves(scene(old, neighbour(avg_rtt_ms=rtt, count=24), SIX[0])) == SWAPPED


def test_better_neighbour_in_testing_takes_over_instead_of_leaving() -> None:
    testing = monitor(2, "testing", ip="10.1.17.1", avg_rtt_ms=20.0)
    assert moves(scene(OLD, testing, *SIX, *TESTERS)) == SWAPPED
    unready = monitor(2, "testing", ip="10.1.17.1", avg_rtt_ms=20.0, count=23)
    review = scene(OLD, unready, *SIX, *TESTERS).review()
    assert [(change.monitor_id, change.rule) for change in review.changes][:1] == [(2, "rule 2: out")]


def test_siblings_exchange_places_only_if_a_constraint_excludes_one() -> None:
    """The account may have one active monitor, and two active and testing ones together."""
    old = monitor(1, "active", account_id=5, limit=1, avg_rtt_ms=100.0)
    tester = monitor(3, "testing", account_id=5, limit=1, avg_rtt_ms=200.0)
    better = monitor(2, "candidate", account_id=5, limit=1, avg_rtt_ms=20.0)
    assert moves(scene(old, better, tester, *SIX, *TESTERS[:4])) == {2: "active", 1: "candidate"}
    two = monitor(3, "testing", account_id=5, limit=2, avg_rtt_ms=20.0)
    assert moves(scene(old, two, *SIX, *TESTERS[:4])) == {}, "no constraint keeps it out: a swap"


def test_worst_monitor_gives_way_first_and_to_the_best() -> None:
    worse = monitor(3, "active", ip="10.3.16.1", avg_rtt_ms=200.0)
    rivals = [monitor(number, "candidate", ip=f"10.3.{number}.1", avg_rtt_ms=30.0 + number) for number in (17, 18, 19)]
    assert moves(scene(OLD, worse, neighbour(), *rivals, *SIX[:5], *TESTERS)) == {
        17: "active",
        3: "candidate",
        2: "active",
        1: "candidate",
    }


def test_exchanges_respect_the_limits() -> None:
    old = [monitor(number, "active", ip=f"10.{number}.16.1", avg_rtt_ms=100.0 + number) for number in (101, 102, 103)]
    new = [monitor(number, "candidate", ip=f"10.{number - 100}.17.1") for number in (201, 202, 203)]
    assert moves(scene(*old, *new, *SIX[:4], *TESTERS)) == {
        203: "active",
        103: "candidate",
        202: "active",
        102: "candidate",
    }


@pytest.mark.parametrize(
    ("days", "again"),
    [(None, True), (7, True), (6.99, False), (0, False)],
)
def test_unready_monitor_is_admitted_for_testing_once_a_week(days: float | None, again: bool) -> None:
    begun = None if days is None else NOW - timedelta(days=days)
    new = neighbour(count=23, last_move=begun)
    assert moves(scene(OLD, new, *SIX, *TESTERS)) == ({2: "testing", 1: "candidate"} if again else {})
    assert moves(scene(OLD, neighbour(count=24, last_move=begun), *SIX, *TESTERS)) == SWAPPED


@pytest.mark.parametrize(("others", "made"), [(5, True), (4, False)])
def test_no_monitor_makes_way_for_a_test_while_few_are_active(others: int, made: bool) -> None:
    there = scene(OLD, neighbour(count=23), *SIX[:others], *TESTERS)
    assert moves(there) == ({2: "testing", 1: "candidate"} if made else {})


def test_there_is_no_exchange_without_active_monitors() -> None:
    gone = monitor(1, "active", ip="10.1.16.1", global_status="deleted", avg_rtt_ms=100.0)
    assert moves(scene(gone, neighbour())) == {}


def test_a_paused_pair_is_not_exchanged() -> None:
    paused = monitor(2, "paused", ip="10.1.17.1", avg_rtt_ms=20.0, pause_reason="constraint")
    assert moves(scene(OLD, paused, *SIX, *TESTERS)) == {}
