"""Check all promises of the selector: about one review, and about many (that it settles, and starves no server).

As a program (`python -m testbed.selection.proof WORLDS [FIRST]`) it checks this many random worlds, and their
development over time, against every promise. It exits with 1 at the first broken one.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from selector.rules.world import Review
from testbed.selection import oracle, promises
from testbed.selection import rule_promises as rules
from testbed.selection.oracle import ACTIVE, CANDIDATE, PAUSED, TESTING
from testbed.selection.worlds import Scene, preferring, random_scene

MOST_REVIEWS = 30


def settle(scene: Scene, most: int = 300, *, relabelled: int | None = None) -> tuple[int, Scene, Review]:
    """Review until nothing changes; return the number of reviews with changes, and the final scene and review.

    An hour passes between reviews. No assignment may occur twice, since it would then recur for ever.

    Args:
        relabelled: give all monitors other labels of health before each review, from this seed on.
    """
    seen = {_assignment(scene)}
    for reviews in range(most):
        scene = scene if relabelled is None else preferring(scene, relabelled + reviews)
        review = scene.review()
        if not review.changes:
            return reviews, scene.after(review), review
        scene = scene.after(review)
        assert _assignment(scene) not in seen, "an assignment recurs"
        seen.add(_assignment(scene))
    raise AssertionError(f"still changing after {most} reviews")


def _assignment(scene: Scene) -> tuple[tuple[int, str], ...]:
    return tuple(sorted(oracle.before(scene).items()))


def selection_settles(scene: Scene) -> None:
    """Check that at most 30 reviews change something; paused pairs, freed two per review, may take longer.

    (60 active monitors, the worst case, take 27 reviews because of the limit of removals alone.)
    """
    waiting = oracle.count(oracle.before(scene), PAUSED)
    reviews, settled, _ = settle(scene)
    assert reviews <= MOST_REVIEWS + (waiting + 1) // 2, f"{reviews} reviews changed something"
    for _ in range(17):  # until every paused pair has been checked again
        later = replace(settled, now=settled.now + timedelta(hours=8))
        _, settled, review = settle(later)
    assert not review.changes


def selection_does_not_starve(scene: Scene) -> None:
    """Check that no settled server lacks active monitors while one that may be active waits, unless 4 are gathering
    results."""
    _, settled, _ = settle(scene)
    statuses = oracle.before(settled)
    if oracle.count(statuses, ACTIVE) >= 7:
        return
    places, emergency = oracle.placed(settled, statuses), oracle.emergency(settled)
    needed = 9 if emergency else 24
    able = [
        monitor
        for monitor in settled.judged
        if statuses.get(monitor.id) in (TESTING, CANDIDATE)
        and monitor.global_status == "active"
        and oracle.healthy(monitor)
        and oracle.too_close(settled, monitor) is None
        and (emergency or not oracle.violations(monitor, ACTIVE, places))
    ]
    gathering = [one for one in able if statuses[one.id] is TESTING and one.count < needed]
    waiting = [one for one in able if one.count >= 24]
    assert not waiting or len(gathering) >= 4, f"{waiting[0]} waits; only {len(gathering)} are gathering results"


def labels_move_nothing(scene: Scene) -> None:
    """Check that labels which change all the time do not keep a server from settling, and never move a settled one."""
    waiting = oracle.count(oracle.before(scene), PAUSED)
    reviews, settled, _ = settle(scene, relabelled=1_000)
    assert reviews <= MOST_REVIEWS + (waiting + 1) // 2, f"{reviews} reviews changed something"
    # At the time of the last review, which changed nothing: later, deadlines may.
    settled = replace(settled, now=settled.now - timedelta(hours=1))
    for seed in range(5):
        assert not preferring(settled, seed).review().changes, "labels moved a monitor of a settled server"


ONE_REVIEW: tuple[Callable[[Scene, Review], None], ...] = (
    promises.at_most_one_change_per_monitor,
    promises.limits_are_kept,
    promises.targets_are_kept,
    promises.no_promotion_violates_a_constraint,
    promises.only_qualified_monitors_are_promoted,
    promises.never_from_some_active_to_none,
    promises.violations_are_assigned_fairly,
    promises.violations_are_stored_with_their_first_time,
    promises.the_order_of_rows_does_not_matter,
    promises.the_best_come_first,
    promises.preference_decides_between_equals,
    rules.monitors_that_must_leave_do_so_at_once,
    rules.bad_performance_respects_the_floor,
    rules.violations_leave,
    rules.violating_monitor_moves_to_testing_only_if_it_is_compliant_there,
    rules.free_places_are_filled,
    rules.empty_testing_is_filled,
    rules.swaps_improve,
    rules.no_swap_brings_back_a_monitor_that_did_not_become_ready,
    rules.no_swap_ends_the_time_to_collect_results,
    rules.clearly_better_monitors_enter,
    rules.exchanges_improve,
    rules.no_monitor_waits_behind_a_worse_one,
    rules.testing_is_shared_fairly,
    rules.reserved_places_are_for_monitors_that_become_ready,
    rules.the_reserve_is_not_given_back,
    rules.paused_pairs_are_freed_in_time,
)
MANY_REVIEWS: tuple[Callable[[Scene], None], ...] = (selection_settles, selection_does_not_starve)


def hold_all(scene: Scene) -> None:
    """Check one review of the scene against every promise about one review."""
    review = scene.review()
    for promise in ONE_REVIEW:
        promise(scene, review)


def hold_all_in_time(seed: int) -> None:
    """Check the random world of this seed, and its development over time, against every promise."""
    _hold_all_of(_random(seed))


def hold_all_with_preference(seed: int) -> None:
    """Check the random world of this seed again, with the preference for healthy monitors and random labels."""
    scene = preferring(_random(seed), seed)
    _hold_all_of(scene)
    labels_move_nothing(scene)


def _random(seed: int) -> Scene:
    return random_scene(seed, most=(8, 20, 60)[seed % 3])


def _hold_all_of(scene: Scene) -> None:
    for _ in range(3):
        hold_all(scene)
        scene = scene.after(scene.review())
    for many in MANY_REVIEWS:
        many(scene)


def main(worlds: int, first: int = 0) -> int:
    """Check ``worlds`` random worlds, from seed ``first`` on, against every promise; return 1 at the first broken
    one."""
    for seed in range(first, first + worlds):
        try:
            hold_all_in_time(seed)
            hold_all_with_preference(seed)
        except (AssertionError, ValueError) as broken:
            sys.stdout.write(f"world {seed}: {type(broken).__name__}: {str(broken)[:200]}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3])))
