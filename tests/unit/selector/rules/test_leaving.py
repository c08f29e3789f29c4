"""Test the rules by which monitors leave (1, 2, 1.5, 2.5 and 7), each just inside and just outside."""

from datetime import timedelta

import pytest

from selector.rules.model import Monitor, Skipped
from testbed.selection.worlds import NOW, SERVER, Scene, many, monitor, scene

CLOSE = "192.0.2.77"
BAD = {"avg_step": -1.0}
SEVEN = many(range(11, 18), "active")
"""Seven good active monitors, so that nothing else has to happen."""
FIVE = many(range(21, 26), "testing", global_status="testing")


def moves(of: Scene) -> dict[int, str]:
    """Return the new status of each monitor that moves."""
    return {change.monitor_id: change.to_status.value for change in of.review().changes}


def rules(of: Scene) -> set[str]:
    return {change.rule for change in of.review().changes}


# ---- rule 1: leave at once -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["paused", "deleted"])
@pytest.mark.parametrize("place", ["active", "testing"])
def test_a_blocked_monitor_leaves_at_once(status: str, place: str) -> None:
    blocked = scene(monitor(1, place, global_status=status), *SEVEN[1:], *FIVE[1:])
    assert moves(blocked) == {1: "candidate"}
    assert rules(blocked) == {"rule 1: leave at once"}


def test_all_blocked_monitors_leave_at_once_even_if_none_remains() -> None:
    blocked = many(range(1, 8), "active", global_status="paused")
    assert moves(scene(*blocked)) == dict.fromkeys(range(1, 8), "candidate")


@pytest.mark.parametrize("place", ["active", "testing", "candidate"])
@pytest.mark.parametrize("values", [{"ip": CLOSE}, {"account_id": SERVER.account_id}])
@pytest.mark.parametrize("globally", ["active", "paused"])
def test_monitor_too_close_to_the_server_is_paused(place: str, values: dict[str, object], globally: str) -> None:
    close = scene(monitor(1, place, global_status=globally, **values), *SEVEN, *FIVE)
    assert moves(close) == {1: "paused"}


def test_skipped_monitor_is_never_moved() -> None:
    assert moves(scene(Skipped(id=1, name="m1", pair_status=None, reason="r"), *SEVEN, *FIVE)) == {}


# ---- rule 2: out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [BAD, {"global_status": "pending"}])
@pytest.mark.parametrize(("good", "leaves"), [(4, False), (5, True)])
def test_bad_monitor_leaves_active_while_more_than_5_are_active(
    values: dict[str, object], good: int, leaves: bool
) -> None:
    out = scene(monitor(1, "active", **values), *SEVEN[:good])
    assert moves(out) == ({1: "testing"} if leaves else {})


@pytest.mark.parametrize(("good", "leaves"), [(2, False), (3, True)])
def test_bad_monitor_leaves_testing_while_more_than_3_are_testing(good: int, leaves: bool) -> None:
    assert moves(scene(monitor(1, "testing", **BAD), *FIVE[:good], *SEVEN)) == ({1: "candidate"} if leaves else {})


def test_the_worst_two_leave_first() -> None:
    bad = [
        monitor(1, "active", avg_step=-1.0),
        monitor(2, "active", avg_step=-3.0),
        monitor(3, "active", avg_step=-2.0),
    ]
    assert moves(scene(*bad, *SEVEN[:5], *FIVE[:3])) == {2: "testing", 3: "testing"}


def test_three_leave_when_two_others_were_blocked() -> None:
    bad = many(range(1, 5), "active", **BAD)
    blocked = many((5, 6), "active", global_status="paused")
    left = moves(scene(*bad, *blocked, *SEVEN, *FIVE[:2]))
    assert sum(status == "testing" for status in left.values()) == 3
    one_blocked = moves(scene(*bad, *blocked[:1], *SEVEN, *FIVE[:2]))
    assert sum(status == "testing" for status in one_blocked.values()) == 2


def test_unknown_monitors_are_not_out() -> None:
    silent = many(range(1, 3), "active", count=0, avg_step=None, avg_rtt_ms=None)
    gone = many(range(3, 8), "active", gone=True, avg_step=-5.0)
    assert moves(scene(*silent, *gone, *FIVE)) == {}


def test_outage_of_our_own_moves_no_monitor() -> None:
    all_gone = many(range(1, 8), "active", gone=True) + many(range(8, 13), "testing", gone=True)
    assert moves(scene(*all_gone, *many(range(13, 30), "candidate", gone=True))) == {}


def neighbours(*statuses: str, **values: object) -> list[Monitor]:
    """Return monitors in one /20, the best first."""
    return [
        monitor(number, status, ip=f"10.99.16.{number}", avg_rtt_ms=50.0 + number, **values)
        for number, status in enumerate(statuses, start=1)
    ]


def test_monitors_in_violation_leave_even_below_the_floor() -> None:
    assert moves(scene(*neighbours("active", "active", "testing"))) == {2: "candidate", 3: "candidate"}


def test_violations_never_remove_the_last_active_monitor() -> None:
    over = [monitor(number, "active", account_id=5, limit=0) for number in (1, 2, 3)]
    left = moves(scene(*over))
    assert left == {2: "candidate", 3: "candidate"}, "the best stays, as the last active monitor"
    assert moves(scene(over[0])) == {}


def test_active_monitor_over_the_limit_moves_to_testing_if_allowed() -> None:
    three = [monitor(number, "active", account_id=5) for number in (1, 2, 3)]
    assert moves(scene(*three, *SEVEN[:4])) == {3: "testing"}
    fourth = monitor(4, "testing", account_id=5)
    assert moves(scene(*three, fourth, *SEVEN[:4])) == {3: "candidate"}, "3 together are allowed: 1, 2 and 4"


def test_unhealthy_monitor_is_replaced_at_once_by_a_better_neighbour() -> None:
    bad, good = neighbours("active", "testing")
    worse = monitor(1, "active", ip="10.99.16.1", avg_step=-1.0)
    assert bad.id == worse.id
    assert moves(scene(worse, good, *SEVEN[:3])) == {1: "candidate", 2: "active"}


# ---- rules 1.5 and 2.5: too many -----------------------------------------------------------------------------------


def test_the_worst_of_more_than_7_active_go_to_testing() -> None:
    better = many(range(1, 4), "active", avg_rtt_ms=1.0)
    assert moves(scene(*SEVEN, *FIVE[:3])) == {}
    eight = scene(*SEVEN, *better[:1], *FIVE[:3])
    assert moves(eight) == {17: "testing"}
    assert rules(eight) == {"rule 1.5: too many active"}
    assert moves(scene(*SEVEN, *better, *FIVE[:3])) == {17: "testing", 16: "testing"}


def test_unknown_monitors_leave_before_healthy_ones() -> None:
    silent = monitor(1, "active", count=0, avg_step=None, avg_rtt_ms=None)
    assert moves(scene(silent, *SEVEN, *FIVE[:3])) == {1: "testing"}


def test_the_worst_of_too_many_testing_become_candidates() -> None:
    more = many(range(1, 5), "testing", global_status="testing", avg_rtt_ms=99.0)
    assert moves(scene(*SEVEN, *FIVE)) == {}
    six = scene(*SEVEN, *FIVE, more[0])
    assert moves(six) == {1: "candidate"}
    assert rules(six) == {"rule 2.5: too many testing"}
    assert moves(scene(*SEVEN, *FIVE, *more)) == {3: "candidate", 4: "candidate"}


@pytest.mark.parametrize("active", [5, 6, 7])
def test_testing_target_grows_with_free_active_places(active: int) -> None:
    testing = many(range(21, 21 + 5 + 7 - active), "testing", global_status="testing")
    assert moves(scene(*SEVEN[:active], *testing)) == {}
    assert moves(scene(*SEVEN[:active], *testing, monitor(40, "testing", global_status="testing"))) == {40: "candidate"}


def test_surplus_active_monitors_do_not_shrink_testing() -> None:
    held = many(range(1, 4), "active", avg_rtt_ms=1.0)
    assert "candidate" not in moves(scene(*SEVEN, *held, *FIVE[:3])).values()


def test_skipped_monitor_keeps_its_place() -> None:
    broken = Skipped(id=1, name="m1", pair_status=SEVEN[0].pair_status, reason="broken")
    ready = many(range(31, 34), "testing")
    assert moves(scene(broken, *SEVEN[:6], *ready, *FIVE[:2])) == {}, "7 are active"
    assert moves(scene(broken, *SEVEN, *FIVE[:3])) == {17: "testing"}, "8 are active"
    flagged = monitor(2, "active", account_id=5, limit=0)
    assert moves(scene(broken, flagged, *FIVE)) == {2: "testing"}, "it is not the last one"


# ---- rule 7: paused pairs ------------------------------------------------------------------------------------------


def paused(number: int, hours: float | None, **values: object) -> Monitor:
    """Return a paused pair that was last checked that many hours ago."""
    fields: dict[str, object] = {
        "pause_reason": "constraint",
        "violation_type": "network_same_subnet",
        "violation_since": NOW - timedelta(days=9),
        "last_constraint_check": None if hours is None else NOW - timedelta(hours=hours),
    }
    return monitor(number, "paused", **(fields | values))


@pytest.mark.parametrize(
    ("reason", "hours", "freed"),
    [
        ("constraint", 8.0, True),
        ("constraint", 7.999, False),
        ("excess", 8.0, True),
        ("excess", 7.999, False),
        (None, 8.0, True),
        (None, 7.999, False),
        ("constraint", None, True),
    ],
)
def test_resolved_pair_is_freed_when_it_is_checked(reason: str | None, hours: float | None, freed: bool) -> None:
    pair = paused(1, hours, pause_reason=reason)
    assert moves(scene(pair, *SEVEN, *FIVE)) == ({1: "candidate"} if freed else {})


def test_an_unresolved_pair_stays_paused() -> None:
    assert moves(scene(paused(1, 99, ip=CLOSE), *SEVEN, *FIVE)) == {}


def test_two_pairs_are_freed_per_review_longest_wait_first() -> None:
    waiting = [paused(1, 9), paused(2, 11), paused(3, 10), paused(4, 11)]
    assert moves(scene(*waiting, *SEVEN, *FIVE)) == {2: "candidate", 4: "candidate"}


def test_the_pair_of_a_blocked_monitor_stays_paused() -> None:
    assert moves(scene(paused(1, 99, global_status="deleted"), *SEVEN, *FIVE)) == {}
