"""Test the rules by which monitors enter (3, 5 and 6), the reserve and the emergency, just inside and just outside."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from selector.rules.model import Monitor
from testbed.selection.worlds import NOW, Scene, many, monitor, scene

SILENT = {"count": 0, "avg_step": None, "avg_rtt_ms": None}
SIX = many(range(11, 17), "active")
SEVEN = many(range(11, 18), "active")
FIVE = many(range(21, 26), "testing", global_status="testing")
SHARED = [*many(range(21, 24), "testing"), *FIVE[3:]]
"""Three testing monitors are globally active, so no further place is reserved."""


def moves(of: Scene) -> dict[int, str]:
    """Return the new status of each monitor that moves."""
    return {change.monitor_id: change.to_status.value for change in of.review().changes}


def rules(of: Scene) -> set[str]:
    return {change.rule for change in of.review().changes}


# ---- rule 3: promote to active -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "promoted"),
    [
        ({}, True),
        ({"count": 24}, True),
        ({"count": 23}, False),
        ({"avg_step": 0.0}, True),
        ({"global_status": "testing"}, False),
        ({"global_status": "pending"}, False),
        ({"gone": True}, False),
        (SILENT, False),
        ({"account_id": 11, "limit": 2}, True),
        ({"account_id": 11, "limit": 1}, False),
        ({"ip": "10.11.15.1"}, False),
        ({"ip": "10.11.16.1"}, True),
    ],
)
def test_ready_testing_monitor_becomes_active(values: dict[str, object], promoted: bool) -> None:
    alone = scene(monitor(1, "testing", **values), *SIX)
    assert (moves(alone).get(1) == "active") is promoted
    assert not promoted or rules(alone) == {"rule 3: promote to active"}


def test_active_is_filled_only_up_to_its_target() -> None:
    assert moves(scene(monitor(1, "testing"), *SEVEN, *FIVE[:4])) == {}
    assert moves(scene(*many((1, 2), "testing"), *SIX, *FIVE[:4])) == {1: "active"}


def test_the_best_two_are_promoted() -> None:
    ready = [monitor(number, "testing", avg_rtt_ms=100.0 - number) for number in (1, 2, 3)]
    assert moves(scene(*ready, *SIX[:3])) == {3: "active", 2: "active"}


def test_each_promotion_takes_earlier_ones_into_account() -> None:
    siblings = [monitor(number, "testing", account_id=5, limit=1, avg_rtt_ms=50.0 + number) for number in (1, 2)]
    assert moves(scene(*siblings, *SIX[:3])) == {1: "active"}


# ---- rule 3: swap into active --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rtt", "swapped"), [(95.0, True), (96.0, False)])
def test_a_clearly_better_testing_monitor_takes_the_worst_active_place(rtt: float, swapped: bool) -> None:
    actives = [monitor(number, "active", avg_rtt_ms=80.0 + 2.5 * (number - 10)) for number in range(11, 18)]
    worst = monitor(18, "active", avg_rtt_ms=100.0)
    there = scene(*actives[:6], worst, monitor(1, "testing", avg_rtt_ms=rtt), *FIVE[:4])
    assert moves(there) == ({18: "testing", 1: "active"} if swapped else {})


@pytest.mark.parametrize("values", [{"avg_step": -1.0}, {"gone": True}, SILENT])
def test_healthy_monitor_replaces_one_that_is_not_healthy(values: dict[str, object]) -> None:
    there = scene(*SIX[:4], monitor(2, "active", **values), monitor(1, "testing", avg_rtt_ms=500.0, count=24), *FIVE)
    assert moves(there) == {1: "active"}, "a free place comes before a swap"
    full = scene(*SIX, monitor(2, "active", **values), monitor(1, "testing", avg_rtt_ms=500.0), *FIVE[:4])
    assert moves(full) == {2: "testing", 1: "active"}


def test_a_review_makes_at_most_two_swaps() -> None:
    better = many(range(1, 5), "testing", avg_rtt_ms=10.0)
    assert len(moves(scene(*SEVEN, *better, FIVE[0]))) == 4


def test_better_sibling_replaces_its_sibling_if_it_can_replace_no_other() -> None:
    account = [monitor(number, "active", account_id=5, limit=1, avg_rtt_ms=60.0) for number in (1,)]
    sibling = monitor(2, "testing", account_id=5, limit=1, avg_rtt_ms=20.0)
    worse = many(range(11, 17), "active", avg_rtt_ms=90.0)
    assert moves(scene(*account, *worse, sibling, *FIVE[:4])) == {1: "testing", 2: "active"}


# ---- rule 5: promote and swap to testing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "promoted"),
    [
        ({}, True),
        ({"global_status": "testing"}, True),
        ({"global_status": "pending"}, False),
        ({"global_status": "paused"}, False),
        ({"count": 9}, True),
        ({"count": 8}, False),
        ({"gone": True}, False),
        ({"avg_step": 0.0}, True),
        ({"avg_step": -0.01}, False),
        (SILENT, False),
        ({"account_id": 11, "limit": 1}, True),
        ({"account_id": 11, "limit": 0}, False),
        ({"ip": "10.11.15.1"}, False),
        ({"ip": "10.11.16.1"}, True),
    ],
)
def test_suitable_candidate_enters_testing(values: dict[str, object], promoted: bool) -> None:
    there = scene(monitor(1, "candidate", **values), *SEVEN, *SHARED[:4])
    assert moves(there) == ({1: "testing"} if promoted else {})
    assert not promoted or rules(there) == {"rule 5: promote to testing"}


def test_testing_is_filled_up_to_its_target() -> None:
    waiting = many(range(1, 5), "candidate")
    assert moves(scene(*waiting, *SEVEN, *SHARED)) == {}
    assert moves(scene(*waiting, *SEVEN, *SHARED[:4])) == {1: "testing"}
    assert moves(scene(*waiting, *SEVEN, *SHARED[:1])) == {1: "testing", 2: "testing"}, "2 a review"


def test_promotions_to_active_use_up_the_limit_first() -> None:
    waiting = many(range(1, 5), "candidate", global_status="testing")
    ready = many(range(31, 33), "testing")
    assert moves(scene(*waiting, *ready, *SIX[:5], FIVE[0])) == {31: "active", 32: "active"}
    one = moves(scene(*waiting, *ready[:1], *SIX[:5], FIVE[0]))
    assert one == {31: "active", 1: "testing"}


@pytest.mark.parametrize(("rtt", "swapped"), [(47.0, False), (45.0, True)])
def test_a_clearly_better_candidate_takes_the_worst_testing_place(rtt: float, swapped: bool) -> None:
    there = scene(monitor(1, "candidate", avg_rtt_ms=rtt, global_status="testing"), *SEVEN, *FIVE)
    assert moves(there) == ({25: "candidate", 1: "testing"} if swapped else {})
    assert not swapped or rules(there) == {"rule 5: swap into testing"}


# ---- rule 5: the reserve -------------------------------------------------------------------------------------------

GOOD_BUT_IDLE = many(range(21, 33), "testing", global_status="testing", avg_rtt_ms=1.0)
"""Twelve globally testing monitors: as many as testing can ever have, and better than all others."""


def gathering(*ids: int, **values: object) -> list[Monitor]:
    """Return monitors that are collecting results and have been testing for a minute less than a day."""
    begun = {"last_move": NOW - timedelta(hours=23, minutes=59)}
    return many(ids, "testing", **({"count": 10, "avg_rtt_ms": 90.0} | begun | values))


def test_globally_active_candidates_get_reserved_places_at_any_priority() -> None:
    waiting = many((1, 2, 3), "candidate", avg_rtt_ms=300.0)
    there = scene(*waiting, *SIX, *GOOD_BUT_IDLE[:6])
    assert moves(there) == {26: "candidate", 25: "candidate", 1: "testing", 2: "testing"}
    assert rules(there) == {"rule 5: reserved place in testing"}


@pytest.mark.parametrize(("theirs", "enters"), [(2, True), (3, False)])
def test_half_of_testing_is_reserved_when_all_active_places_are_taken(theirs: int, enters: bool) -> None:
    """Three of five places, whatever the priorities of the monitor that leaves and of one that wants its place back."""
    holders = many(range(41, 41 + theirs), "testing", avg_rtt_ms=300.0)
    idle = GOOD_BUT_IDLE[: 5 - theirs]
    there = scene(monitor(1, "candidate", avg_rtt_ms=290.0), *SEVEN, *holders, *idle)
    assert moves(there) == ({idle[-1].id: "candidate", 1: "testing"} if enters else {})
    back = scene(monitor(1, "candidate", avg_rtt_ms=1.0, global_status="testing"), *SEVEN, *holders, *idle)
    assert moves(back) == ({} if theirs <= 3 else {41: "candidate", 1: "testing"})


def test_globally_testing_monitors_may_fill_testing_if_no_other_waits() -> None:
    assert moves(scene(*SEVEN, *GOOD_BUT_IDLE[:5])) == {}
    assert moves(scene(monitor(1, "candidate", count=8), *SEVEN, *GOOD_BUT_IDLE[:5])) == {}


@pytest.mark.parametrize("better", [20.0, 260.0, 290.0])
def test_clearly_better_globally_active_monitor_takes_a_reserved_place(better: float) -> None:
    holders = many((41, 42, 43), "testing", avg_rtt_ms=300.0)
    there = scene(monitor(1, "candidate", count=9, avg_rtt_ms=better), *SEVEN, *holders, *GOOD_BUT_IDLE[:2])
    assert moves(there) == ({} if better == 290.0 else {43: "candidate", 1: "testing"})


@pytest.mark.parametrize(
    ("hours", "waiting", "renewed"),
    [
        (23.9, {}, False),
        (24, {}, True),
        (None, {}, True),
        (24, {"count": 24}, True),
        (24, {"count": 9}, True),
        (24, {"count": 8}, False),
        (24, {"count": 9, "last_move": NOW - timedelta(days=7)}, True),
        (24, {"count": 9, "last_move": NOW - timedelta(days=6, hours=23)}, False),
        (24, {"count": 24, "last_move": NOW - timedelta(hours=25)}, True),
        (None, {"count": 9}, False),
        (None, {"count": 24}, True),
        (24, {"global_status": "testing"}, False),
        (24, {"avg_step": -0.1}, False),
        (24, {"account_id": 11, "limit": 1}, False),
    ],
)
def test_monitor_not_ready_within_a_day_gives_up_its_reserved_place(
    hours: float | None, waiting: dict[str, object], renewed: bool
) -> None:
    begun = None if hours is None else NOW - timedelta(hours=hours)
    holders = many(range(41, 45), "testing", count=23, last_move=begun)
    there = scene(monitor(1, "candidate", **({"avg_rtt_ms": 300.0} | waiting)), *SIX, *holders, *GOOD_BUT_IDLE[:2])
    assert moves(there) == ({44: "candidate", 1: "testing"} if renewed else {})


A_DAY_AGO = {"last_move": NOW - timedelta(hours=24)}


@pytest.mark.parametrize(
    ("holders", "swapped"),
    [
        ({}, False),
        (A_DAY_AGO, True),
        ({"count": 24}, True),
        ({"last_move": None}, True),
        ({"avg_step": -0.1, "count": 9}, True),
        ({"global_status": "testing"}, True),
    ],
)
@pytest.mark.parametrize("crew", [SIX, SEVEN])
def test_monitor_collecting_results_is_not_replaced_for_a_day(
    crew: Sequence[Monitor], holders: dict[str, object], swapped: bool
) -> None:
    better = monitor(1, "candidate", avg_rtt_ms=1.0, count=24)
    theirs = gathering(41, 42, 43, 44, 45, **holders)
    there = scene(better, *crew, *theirs, *GOOD_BUT_IDLE[: 7 - len(crew)])
    assert (moves(there).get(1) == "testing") is swapped


@pytest.mark.parametrize(
    ("values", "swapped"),
    [
        ({"count": 23}, True),
        ({"count": 23, "last_move": NOW - timedelta(days=7)}, True),
        ({"count": 23, "last_move": NOW - timedelta(days=6, hours=23)}, False),
        ({"count": 24, "last_move": NOW - timedelta(hours=1)}, True),
    ],
)
@pytest.mark.parametrize("count", [24, 23])
def test_recently_unready_monitor_replaces_no_globally_active_one(
    count: int, values: dict[str, object], swapped: bool
) -> None:
    """Monitor 41 cannot become active (its account's limit), so no reserved place protects it, ready or not."""
    better = monitor(1, "candidate", **({"avg_rtt_ms": 1.0} | values))
    theirs = gathering(41, 42, 43, 44, 45, count=count, account_id=11, limit=1, **A_DAY_AGO)
    there = scene(better, *SIX, *theirs[:1], *gathering(42, 43, 44, 45), *GOOD_BUT_IDLE[:1])
    assert moves(there) == ({41: "candidate", 1: "testing"} if swapped else {})


def test_ready_monitor_keeps_its_place_however_long_it_has_been_testing() -> None:
    """All active places are taken, so it has to wait although it is ready."""
    holders = many(range(41, 45), "testing", count=24, last_move=None, global_status="active")
    there = scene(monitor(1, "candidate", avg_rtt_ms=300.0), *SEVEN, *holders, *GOOD_BUT_IDLE[:1])
    assert moves(there) == {}


@pytest.mark.parametrize(("held", "enters"), [(4, False), (3, True)])
def test_four_places_are_reserved_while_active_places_are_free(held: int, enters: bool) -> None:
    holders = gathering(*range(41, 41 + held))
    there = scene(monitor(1, "candidate", avg_rtt_ms=300.0), *SIX, *holders, *GOOD_BUT_IDLE[: 6 - held])
    assert (moves(there).get(1) == "testing") is enters


@pytest.mark.parametrize(
    "values",
    [
        {"account_id": 11, "limit": 1},
        SILENT,
        {"gone": True},
        {"ip": "10.11.15.1"},
    ],
)
def test_monitor_that_cannot_become_active_holds_no_reserved_place(values: dict[str, object]) -> None:
    idle = gathering(41, **values)
    holders = gathering(42, 43, 44)
    there = scene(monitor(1, "candidate", avg_rtt_ms=300.0), *SIX, *idle, *holders, *GOOD_BUT_IDLE[:2])
    assert moves(there).get(1) == "testing"


def test_reserved_places_are_not_lost_to_swaps() -> None:
    better = monitor(1, "candidate", global_status="testing", avg_rtt_ms=1.0)
    holders = gathering(41, 42, 43, 44)
    assert moves(scene(better, *SIX, *holders, *GOOD_BUT_IDLE[:2])) == {}
    fifth = gathering(41, 42, 43, 44, 45, **A_DAY_AGO)
    assert moves(scene(better, *SIX, *fifth, *GOOD_BUT_IDLE[:1])) == {45: "candidate", 1: "testing"}


def test_reserved_places_are_not_lost_when_too_many_are_testing() -> None:
    holders = gathering(41, 42, 43, 44)
    assert moves(scene(*SIX, *holders, *GOOD_BUT_IDLE[:4])) == {24: "candidate", 23: "candidate"}


def test_globally_testing_neighbour_gives_way_even_if_places_are_free() -> None:
    neighbour = monitor(2, "testing", global_status="testing", ip="10.1.15.1", avg_rtt_ms=1.0)
    assert moves(scene(monitor(1, "candidate"), neighbour, *SIX)) == {2: "candidate", 1: "testing"}


# ---- rule 6: no testing at all -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "rescued"),
    [
        (SILENT, True),
        ({"count": 1}, True),
        ({"avg_step": -3.0}, True),
        ({"global_status": "testing", **SILENT}, True),
        ({"gone": True}, False),
        ({"global_status": "pending", **SILENT}, False),
        ({"global_status": "deleted", **SILENT}, False),
        ({"ip": "10.11.15.1", **SILENT}, False),
    ],
)
def test_empty_testing_accepts_any_monitor_that_can_measure(values: dict[str, object], rescued: bool) -> None:
    there = scene(monitor(1, "candidate", **values), *SEVEN)
    assert moves(there) == ({1: "testing"} if rescued else {})
    assert not rescued or rules(there) == {"rule 6: no testing at all"}


def test_one_testing_monitor_prevents_the_rescue() -> None:
    assert moves(scene(monitor(1, "candidate", **SILENT), *SEVEN, FIVE[0])) == {}


def test_rescue_takes_five_healthy_before_unknown_before_unhealthy() -> None:
    bad, unknown = many((1, 2, 3), "candidate", avg_step=-1.0), many((4, 5), "candidate", **SILENT)
    healthy = many((6, 7), "candidate", count=3)
    assert moves(scene(*bad, *unknown, *healthy, *SEVEN)) == dict.fromkeys((1, 4, 5, 6, 7), "testing")


# ---- the emergency -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "promoted"),
    [
        ({"count": 9}, True),
        ({"count": 8}, False),
        ({"account_id": 5, "limit": 0}, True),
        ({"avg_step": -0.1}, False),
        ({"gone": True}, False),
        ({"global_status": "testing"}, False),
        ({"ip": "192.0.2.50"}, False),
    ],
)
def test_emergency_requires_9_results_and_ignores_most_constraints(values: dict[str, object], promoted: bool) -> None:
    assert (moves(scene(monitor(1, "testing", **values))).get(1) == "active") is promoted


def test_an_emergency_promotes_four_at_once_whatever_their_network() -> None:
    ready = [monitor(number, "testing", ip=f"10.5.16.{number}") for number in range(1, 7)]
    assert moves(scene(*ready)) == dict.fromkeys((1, 2, 3, 4), "active")


def test_server_losing_all_active_monitors_gets_new_ones_in_one_review() -> None:
    blocked = many(range(11, 14), "active", global_status="paused")
    left = moves(scene(*blocked, *gathering(1, 2)))
    assert left == {11: "candidate", 12: "candidate", 13: "candidate", 1: "active", 2: "active"}


def test_violations_do_not_empty_testing_in_an_emergency() -> None:
    idle = [monitor(number, "testing", global_status="testing", ip=f"10.5.16.{number}") for number in range(1, 4)]
    assert moves(scene(*idle)) == {}
    assert moves(scene(*idle, SIX[0])) == {2: "candidate", 3: "candidate"}, "with an active monitor they leave"


def test_one_active_monitor_is_no_emergency() -> None:
    assert moves(scene(SIX[0], *gathering(1, 2))) == {}
