"""Test the promises in `testbed/selection` over random worlds."""

import pytest
from hypothesis import given

from testbed.random_inputs import scaled
from testbed.selection import promises, proof
from testbed.selection import rule_promises as rules
from testbed.selection.strategies import examples, scenes
from testbed.selection.worlds import Scene

# ---- promises about every review -----------------------------------------------------------------------------------


@examples(15)
@given(scenes())
def test_at_most_one_change_per_monitor_and_review(scene: Scene) -> None:
    promises.at_most_one_change_per_monitor(scene, scene.review())


@examples(15)
@given(scenes())
def test_targets_are_kept(scene: Scene) -> None:
    promises.targets_are_kept(scene, scene.review())


@examples(15)
@given(scenes())
def test_limits_are_kept(scene: Scene) -> None:
    promises.limits_are_kept(scene, scene.review())


@examples(15)
@given(scenes())
def test_no_promotion_violates_a_constraint_after_the_other_changes(scene: Scene) -> None:
    promises.no_promotion_violates_a_constraint(scene, scene.review())


@examples(15)
@given(scenes())
def test_server_never_goes_from_some_active_to_none(scene: Scene) -> None:
    promises.never_from_some_active_to_none(scene, scene.review())


@examples(10)
@given(scenes())
def test_the_order_of_rows_does_not_matter(scene: Scene) -> None:
    promises.the_order_of_rows_does_not_matter(scene, scene.review())


# ---- promises about many reviews -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1727, 2357, 15616, 29749, 30590, 32015, 32348, 35612])
def test_world_that_once_broke_a_promise_keeps_them_all(seed: int) -> None:
    proof.hold_all_in_time(seed)


@pytest.mark.parametrize("part", range(4))
def test_random_worlds_keep_every_promise(part: int) -> None:
    """Each world has at least three reviews, which are checked against every promise in this file."""
    worlds = scaled(40, thorough=2_000)
    for seed in range(part * worlds, (part + 1) * worlds):
        proof.hold_all_in_time(seed)


@pytest.mark.parametrize("part", range(2))
def test_random_worlds_keep_every_promise_with_the_preference_for_healthy_monitors(part: int) -> None:
    worlds = scaled(30, thorough=2_000)
    for seed in range(part * worlds, (part + 1) * worlds):
        proof.hold_all_with_preference(seed)


@examples(15)
@given(scenes(paused=False))
def test_server_settles_within_30_reviews(scene: Scene) -> None:
    proof.selection_settles(scene)


@examples(8)
@given(scenes(at_least=25))
def test_server_settles_although_paused_pairs_are_freed_two_per_review(scene: Scene) -> None:
    proof.selection_settles(scene)


@examples(15)
@given(scenes())
def test_server_does_not_starve(scene: Scene) -> None:
    proof.selection_does_not_starve(scene)


# ---- promises about each rule --------------------------------------------------------------------------------------


@examples(15)
@given(scenes())
def test_monitors_that_must_leave_do_so_at_once(scene: Scene) -> None:
    rules.monitors_that_must_leave_do_so_at_once(scene, scene.review())


@examples(15)
@given(scenes())
def test_bad_performance_respects_the_floor(scene: Scene) -> None:
    rules.bad_performance_respects_the_floor(scene, scene.review())


@examples(15)
@given(scenes())
def test_monitors_in_violation_leave_regardless_of_the_floor(scene: Scene) -> None:
    rules.violations_leave(scene, scene.review())


@examples(15)
@given(scenes())
def test_monitor_in_violation_moves_to_testing_only_if_allowed_there(scene: Scene) -> None:
    rules.violating_monitor_moves_to_testing_only_if_it_is_compliant_there(scene, scene.review())


@examples(15)
@given(scenes())
def test_flags_are_fair(scene: Scene) -> None:
    promises.violations_are_assigned_fairly(scene, scene.review())


@examples(15)
@given(scenes())
def test_only_merit_is_promoted(scene: Scene) -> None:
    promises.only_qualified_monitors_are_promoted(scene, scene.review())


@examples(15)
@given(scenes())
def test_free_places_are_filled(scene: Scene) -> None:
    rules.free_places_are_filled(scene, scene.review())


@examples(15)
@given(scenes())
def test_swaps_improve(scene: Scene) -> None:
    rules.swaps_improve(scene, scene.review())


@examples(15)
@given(scenes())
def test_no_swap_cuts_short_the_time_to_collect_results(scene: Scene) -> None:
    rules.no_swap_ends_the_time_to_collect_results(scene, scene.review())


@examples(60)
@given(scenes())
def test_no_swap_readmits_a_recently_unready_monitor(scene: Scene) -> None:
    rules.no_swap_brings_back_a_monitor_that_did_not_become_ready(scene, scene.review())


@examples(15)
@given(scenes())
def test_clearly_better_monitors_get_in(scene: Scene) -> None:
    rules.clearly_better_monitors_enter(scene, scene.review())


@examples(15)
@given(scenes())
def test_exchanges_improve(scene: Scene) -> None:
    rules.exchanges_improve(scene, scene.review())


@examples(15)
@given(scenes())
def test_no_monitor_waits_behind_a_worse_one(scene: Scene) -> None:
    rules.no_monitor_waits_behind_a_worse_one(scene, scene.review())


@examples(15)
@given(scenes())
def test_testing_is_shared_fairly(scene: Scene) -> None:
    rules.testing_is_shared_fairly(scene, scene.review())


@examples(15)
@given(scenes())
def test_reserved_places_are_for_monitors_becoming_ready(scene: Scene) -> None:
    rules.reserved_places_are_for_monitors_that_become_ready(scene, scene.review())


@examples(15)
@given(scenes())
def test_reserve_is_not_given_up(scene: Scene) -> None:
    rules.the_reserve_is_not_given_back(scene, scene.review())


@examples(15)
@given(scenes())
def test_an_empty_testing_is_rescued(scene: Scene) -> None:
    rules.empty_testing_is_filled(scene, scene.review())


@examples(15)
@given(scenes())
def test_paused_pairs_are_freed_in_time(scene: Scene) -> None:
    rules.paused_pairs_are_freed_in_time(scene, scene.review())


@examples(15)
@given(scenes())
def test_violations_are_stored_with_their_first_time(scene: Scene) -> None:
    promises.violations_are_stored_with_their_first_time(scene, scene.review())


@examples(15)
@given(scenes())
def test_best_monitors_come_first(scene: Scene) -> None:
    promises.the_best_come_first(scene, scene.review())
