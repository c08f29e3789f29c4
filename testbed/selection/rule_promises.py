"""Check each rule's promises about one review; each check raises AssertionError if the promise is broken."""

import itertools
from collections.abc import Mapping
from datetime import timedelta

from selector.rules.model import Monitor
from selector.rules.world import Review
from testbed.selection import oracle
from testbed.selection.oracle import ACTIVE, CANDIDATE, PAUSED, TESTING
from testbed.selection.promises import EXCHANGE, LIVE, RULE_2, RULE_6, promotions, removals
from testbed.selection.worlds import Scene


def monitors_that_must_leave_do_so_at_once(scene: Scene, review: Review) -> None:
    end = oracle.after(scene, review)
    for monitor in scene.judged:
        if monitor.pair_status is PAUSED:
            continue
        if oracle.too_close(scene, monitor):
            assert end[monitor.id] is PAUSED, f"{monitor} is too close and not paused"
        elif monitor.global_status in oracle.LEAVING:
            assert end[monitor.id] is CANDIDATE, f"{monitor} is blocked and keeps a place"
        else:
            assert end[monitor.id] is not PAUSED, f"{monitor} is paused for nothing"


def bad_performance_respects_the_floor(scene: Scene, review: Review) -> None:
    """Check that unhealthy and pending monitors leave exactly while more than 5 (3) remain, worst first."""
    found = {monitor_id: violation.type for monitor_id, violation in review.violations.items()}
    floors = ((ACTIVE, 5), (TESTING, 3))
    for status, floor in floors:
        places = oracle.remaining(scene, status)
        earlier = [c for c in review.changes if c.rule == EXCHANGE or (c.rule == RULE_2 and status is TESTING)]
        places += sum(c.to_status is status for c in earlier)
        places -= sum(c.from_status is status and c.rule == EXCHANGE for c in earlier)
        left = [c for c in review.changes if c.rule == RULE_2 and c.from_status is status]
        for change in left:
            if change.monitor_id not in found or oracle.emergency(scene):
                assert places > floor, f"{change} although only {places} are {status}"
            places -= 1
        gone = {change.monitor_id for change in left}
        exchanged = {change.monitor_id for change in review.changes if change.rule == EXCHANGE}
        out = [m for m in scene.judged if m.pair_status is status and _is_out(scene, m, found)]
        out.sort(key=oracle.rank)
        stay = [monitor for monitor in out if monitor.id not in gone | exchanged]
        if places > floor and len(removals(review, status)) < oracle.limit(scene):
            assert not stay, f"{stay[0]} is out, {places} are {status}, and it stays"
        if stay and left and all(monitor.id not in found for monitor in out):
            worst_kept, best_gone = stay[-1], next(m for m in out if m.id in gone)
            assert oracle.rank(worst_kept) < oracle.rank(best_gone), "not the worst left first"


def _is_out(scene: Scene, monitor: Monitor, found: Mapping[int, object]) -> bool:
    if oracle.leaves_at_once(scene, monitor):
        return False
    return oracle.out_on_its_own(monitor) or (monitor.id in found and not oracle.emergency(scene))


def violations_leave(scene: Scene, review: Review) -> None:
    """Check that flagged monitors leave within the limit, regardless of the floor; not the last active one, and not in
    an emergency."""
    if oracle.emergency(scene):
        removed = {change.monitor_id for change in review.changes if change.rule == RULE_2}
        assert all(
            monitor.global_status == "pending" or oracle.unhealthy(monitor)
            for monitor in scene.judged
            if monitor.id in removed
        ), "a violation removed a testing monitor in an emergency"
        return
    end = oracle.after(scene, review)
    for status in (ACTIVE, TESTING):
        stay = [
            monitor
            for monitor in scene.judged
            if monitor.pair_status is status and end[monitor.id] is status and monitor.id in review.violations
        ]
        room = len(removals(review, status)) < oracle.limit(scene)
        if stay and room:
            # Promotions may follow a removal by rule 2; only then may there be more than one again.
            active = oracle.remaining(scene, ACTIVE) - len([c for c in removals(review, ACTIVE) if c.rule == RULE_2])
            assert status is ACTIVE and active == 1, f"{stay[0]} is flagged and stays {status}"


def violating_monitor_moves_to_testing_only_if_it_is_compliant_there(scene: Scene, review: Review) -> None:
    by_id, end = {monitor.id: monitor for monitor in scene.judged}, oracle.after(scene, review)
    for change in removals(review, ACTIVE):
        if change.to_status is TESTING and change.monitor_id in review.violations:
            monitor = by_id[change.monitor_id]
            found = oracle.violations(monitor, TESTING, oracle.placed(scene, end))
            assert not found, f"{change} violates {found}"
        if change.to_status is CANDIDATE:
            assert change.monitor_id in review.violations or change.rule == EXCHANGE, f"{change} skips testing"


def free_places_are_filled(scene: Scene, review: Review) -> None:
    """Check that, while the limit lasts, no monitor that could take a free place is left without one."""
    end, begin = oracle.after(scene, review), oracle.before(scene)
    made = [change for change in promotions(review) if change.rule != RULE_6]
    if len(made) >= oracle.limit(scene):
        return
    emergency, places = oracle.emergency(scene), oracle.placed(scene, end)
    for monitor in scene.judged:
        still = begin.get(monitor.id) is end.get(monitor.id)
        if (
            not still
            or not oracle.healthy(monitor)
            or monitor.global_status not in LIVE
            or monitor.id in review.violations
        ):
            continue
        up = {TESTING: ACTIVE, CANDIDATE: TESTING}.get(end[monitor.id])
        if up is ACTIVE and monitor.global_status == "active" and oracle.count(end, ACTIVE) < 7:
            ready = monitor.count >= (9 if emergency else 24)
            free = emergency or not oracle.violations(monitor, ACTIVE, places)
            assert not (ready and free), f"{monitor} could be active"
        if up is TESTING and oracle.count(end, TESTING) < oracle.testing_target(end):
            if sum(change.to_status is TESTING for change in made) >= 2 or removals(review, TESTING):
                continue
            free = emergency or not oracle.violations(monitor, TESTING, places)
            assert not (monitor.count >= 9 and free), f"{monitor} could be testing"


def empty_testing_is_filled(scene: Scene, review: Review) -> None:
    end = oracle.after(scene, review)
    rescued = [change.monitor_id for change in review.changes if change.rule == RULE_6]
    by_id = {monitor.id: monitor for monitor in scene.judged}
    if rescued:
        assert oracle.count(end, TESTING) == len(rescued), "rescued although somebody was testing"
        waiting = [m for m in scene.judged if oracle.before(scene).get(m.id) is CANDIDATE is end[m.id]]
        for monitor in waiting:
            if oracle.healthy(monitor) and not all(oracle.healthy(by_id[one]) for one in rescued):
                found = oracle.violations(monitor, TESTING, oracle.placed(scene, end))
                assert monitor.global_status not in LIVE or found, f"{monitor} is healthy and was passed over"
    if oracle.count(end, TESTING) == 0:
        for monitor in scene.judged:
            if monitor.pair_status is not CANDIDATE or end[monitor.id] is not CANDIDATE or monitor.gone:
                continue
            found = oracle.violations(monitor, TESTING, oracle.placed(scene, end))
            assert monitor.global_status not in LIVE or (found and not oracle.emergency(scene)), f"{monitor} could test"


def swaps_improve(scene: Scene, review: Review) -> None:
    """Check that in a swap the monitor that leaves is clearly worse than its replacement."""
    by_id = {monitor.id: monitor for monitor in scene.judged}
    for status in (ACTIVE, TESTING):
        swaps = [change for change in review.changes if "swap into " + status in change.rule]
        for out, into in zip(swaps[::2], swaps[1::2], strict=True):
            assert (out.from_status, into.to_status) == (status, status), f"{out} and {into} are no swap"
            winner, loser = by_id[into.monitor_id], by_id[out.monitor_id]
            assert oracle.clearly_better(winner, loser), f"{winner} is not clearly better than {loser}"


def no_swap_brings_back_a_monitor_that_did_not_become_ready(scene: Scene, review: Review) -> None:
    """Check that, while active places are free, a monitor that left testing unready within a week replaces no healthy,
    globally active one."""
    by_id = {monitor.id: monitor for monitor in scene.judged}
    if oracle.count(oracle.after(scene, review), ACTIVE) >= 7:
        return
    swaps = [change for change in review.changes if change.rule == "rule 5: swap into testing"]
    for out, into in zip(swaps[::2], swaps[1::2], strict=True):
        winner, loser = by_id[into.monitor_id], by_id[out.monitor_id]
        waited = winner.last_move is None or scene.now - winner.last_move >= timedelta(days=7)
        kept = oracle.healthy(loser) and loser.global_status == "active"
        assert winner.count >= 24 or waited or not kept, f"{into} although it left testing unready within a week"


def no_swap_ends_the_time_to_collect_results(scene: Scene, review: Review) -> None:
    """Check that a healthy, globally active monitor may gather results for a day after it enters testing."""
    by_id = {monitor.id: monitor for monitor in scene.judged}
    for change in review.changes:
        if change.rule == "rule 5: swap into testing" and change.from_status is TESTING:
            assert not _gathers(scene, by_id[change.monitor_id]), f"{change} before its day is over"


def _gathers(scene: Scene, monitor: Monitor) -> bool:
    began = monitor.last_move
    early = began is not None and scene.now - began < timedelta(hours=24)
    return early and monitor.count < 24 and oracle.healthy(monitor) and monitor.global_status == "active"


def clearly_better_monitors_enter(scene: Scene, review: Review) -> None:
    """Check that, while limits last, no monitor waits that is clearly better than one that it could replace without a
    violation."""
    end, begin, limit = oracle.after(scene, review), oracle.before(scene), oracle.limit(scene)
    if len(promotions(review)) >= limit or oracle.emergency(scene):
        return
    still = [m for m in scene.judged if m.id in end and end[m.id] is begin[m.id] and m.id not in review.violations]
    if not removals(review, ACTIVE):  # one swap may make another one possible, which then happens in the next review
        for winner, loser in itertools.product(still, still):
            if end[winner.id] is TESTING and end[loser.id] is ACTIVE and oracle.clearly_better(winner, loser):
                ready = winner.global_status == "active" and winner.count >= 24
                swap = end | {loser.id: TESTING, winner.id: ACTIVE}
                free = not oracle.violations(winner, ACTIVE, oracle.placed(scene, swap))
                assert not (ready and free), f"{winner} could replace {loser}"
    entered = sum(change.to_status is TESTING for change in promotions(review))
    if not removals(review, TESTING) and entered < 2 and oracle.count(end, ACTIVE) >= 7:
        for winner, loser in itertools.product(still, still):
            if end[winner.id] is CANDIDATE and end[loser.id] is TESTING and oracle.clearly_better(winner, loser):
                if _gathers(scene, loser):
                    continue
                ready = winner.global_status in LIVE and winner.count >= 9
                if winner.global_status == "testing" and _share_is_used_up(scene, end, review):
                    continue
                swap = end | {loser.id: CANDIDATE, winner.id: TESTING}
                free = not oracle.violations(winner, TESTING, oracle.placed(scene, swap))
                assert not (ready and free), f"{winner} could replace {loser}"


def _share_is_used_up(scene: Scene, end: oracle.Statuses, review: Review) -> bool:
    """Return whether no more than half of testing is left to globally active monitors."""
    theirs = [
        one
        for one in scene.judged
        if end.get(one.id) is TESTING
        and one.global_status == "active"
        and oracle.healthy(one)
        and one.id not in review.violations
    ]
    return bool(2 * len(theirs) <= oracle.testing_target(end) + 1)


def exchanges_improve(scene: Scene, review: Review) -> None:
    """Check that a monitor changes places with one that excludes it only if it is clearly better, or the other must
    leave."""
    by_id, end = {monitor.id: monitor for monitor in scene.judged}, oracle.after(scene, review)
    made = [change for change in review.changes if change.rule == EXCHANGE]
    assert len(made) % 2 == 0, "half an exchange"
    for pair in zip(made[::2], made[1::2], strict=True):
        out, into = sorted(pair, key=lambda change: change.from_status is not ACTIVE)
        winner, loser = by_id[into.monitor_id], by_id[out.monitor_id]
        assert out.from_status is ACTIVE and into.from_status in (CANDIDATE, TESTING), f"{out} and {into}"
        assert winner.global_status == "active" and oracle.healthy(winner), f"{winner} is let in"
        assert oracle.entangled(winner, loser), f"{winner} and {loser} share nothing"
        worse = oracle.out_on_its_own(loser) or oracle.clearly_better(winner, loser)
        assert worse, f"{winner} is not clearly better than {loser}"
        if into.to_status is TESTING:
            assert winner.count >= 9 and into.from_status is CANDIDATE, f"{into} with {winner.count} results"
            assert oracle.remaining(scene, ACTIVE) > 5, f"{out} although few are active"
            begun = winner.last_move
            assert begun is None or scene.now - begun >= timedelta(days=7), f"{into} again"
        if out.to_status is TESTING:
            assert not oracle.violations(loser, TESTING, oracle.placed(scene, end)), f"{out} into a violation"


def no_monitor_waits_behind_a_worse_one(scene: Scene, review: Review) -> None:
    """Check that, while limits last, a monitor takes the place of the only one that excludes it, if it may."""
    full = len(promotions(review)) >= oracle.limit(scene) or len(removals(review, ACTIVE)) >= oracle.limit(scene)
    if full or oracle.emergency(scene) or oracle.remaining(scene, ACTIVE) > 7:
        return
    end, begin = oracle.after(scene, review), oracle.before(scene)
    still = {one for one in end if end[one] is begin[one]}
    for winner, loser in oracle.exchanges(scene, end):
        before = oracle.violations(winner, TESTING, oracle.placed(scene, begin))
        if {winner.id, loser.id} <= still and before and winner.id not in review.violations:
            without = [place for place in oracle.placed(scene, begin) if place[0].id != loser.id]
            assert oracle.violations(winner, ACTIVE, without), f"{winner} could be active instead of {loser}"


def testing_is_shared_fairly(scene: Scene, review: Review) -> None:
    """Check that, while limits last, globally testing monitors hold at most half of testing while others wait for
    it."""
    end, begin = oracle.after(scene, review), oracle.before(scene)
    entered = [change for change in promotions(review) if change.to_status is TESTING and change.rule != RULE_6]
    spent = len(promotions(review)) >= oracle.limit(scene) or len(removals(review, TESTING)) >= oracle.limit(scene)
    if spent or len(entered) >= 2 or not _share_is_used_up(scene, end, review):
        return
    theirs = [m for m in scene.judged if end.get(m.id) is TESTING and m.global_status == "testing"]
    if 2 * len(theirs) <= oracle.testing_target(end) or 2 * len(theirs) <= oracle.testing_target(begin) + 1:
        return
    places = oracle.placed(scene, end)
    staying = [one for one in theirs if begin.get(one.id) is TESTING]
    for monitor in scene.judged:
        if not (begin.get(monitor.id) is CANDIDATE is end.get(monitor.id) and monitor.global_status == "active"):
            continue
        if oracle.healthy(monitor) and monitor.count >= 9 and not oracle.too_close(scene, monitor) and staying:
            shut = oracle.violations(monitor, TESTING, places) or oracle.violations(monitor, ACTIVE, places)
            # Once this review has ended an emergency, violations are no longer allowed.
            assert shut and oracle.count(end, ACTIVE), f"{monitor} waits for one of {len(theirs)} globally testing ones"


def reserved_places_are_for_monitors_that_become_ready(scene: Scene, review: Review) -> None:
    """Check that, while limits last, no monitor with too few results after a day of testing excludes one with
    enough."""
    end, begin = oracle.after(scene, review), oracle.before(scene)
    entered = [change for change in promotions(review) if change.to_status is TESTING and change.rule != RULE_6]
    spent = len(promotions(review)) >= oracle.limit(scene) or len(removals(review, TESTING)) >= oracle.limit(scene)
    if spent or len(entered) >= 2 or oracle.count(end, ACTIVE) >= 7 or oracle.emergency(scene):
        return
    places = oracle.placed(scene, end)
    late = [
        one
        for one in scene.judged
        if begin.get(one.id) is TESTING is end.get(one.id)
        and one.count < 24
        and (one.last_move is None or scene.now - one.last_move >= timedelta(hours=24))
    ]
    for monitor in scene.judged:
        waits = begin.get(monitor.id) is CANDIDATE is end.get(monitor.id) and monitor.global_status == "active"
        if waits and oracle.healthy(monitor) and monitor.count >= 24 and not oracle.too_close(scene, monitor) and late:
            shut = oracle.violations(monitor, TESTING, places) or oracle.violations(monitor, ACTIVE, places)
            assert shut, f"{monitor} waits, and {late[0]} does not get ready"


def the_reserve_is_not_given_back(scene: Scene, review: Review) -> None:
    """Check that, while active places are free, no swap or clean-up leaves fewer than 4 testing monitors that may
    become active."""
    end = oracle.after(scene, review)
    if oracle.count(end, ACTIVE) >= 7:
        return
    given = [c for c in removals(review, TESTING) if c.rule != RULE_2]
    places = oracle.placed(scene, end)

    def fit(monitor: Monitor) -> bool:
        return (
            monitor.global_status == "active"
            and oracle.healthy(monitor)
            and (monitor.id not in review.violations or oracle.emergency(scene))
            and (oracle.count(end, ACTIVE) == 0 or not oracle.violations(monitor, ACTIVE, places))
        )

    by_id = {monitor.id: monitor for monitor in scene.judged}
    for change in given:
        if fit(by_id[change.monitor_id]) and not _last_place_was_taken(review):
            holders = [m for m in scene.judged if end.get(m.id) is TESTING and fit(m)]
            assert len(holders) >= 4, f"{change} leaves {len(holders)} that may become active"


def _last_place_was_taken(review: Review) -> bool:
    """Return whether candidates entered, which may prevent others from becoming active."""
    return any(change.to_status is TESTING for change in review.changes)


def paused_pairs_are_freed_in_time(scene: Scene, review: Review) -> None:
    end = oracle.after(scene, review)
    freed = [change.monitor_id for change in review.changes if change.from_status is PAUSED]
    for monitor in scene.judged:
        if monitor.pair_status is not PAUSED:
            continue
        resolved = oracle.is_due(scene, monitor) and oracle.too_close(scene, monitor) is None
        if monitor.id in freed:
            assert resolved and end[monitor.id] is CANDIDATE, f"{monitor} is freed too early"
        elif resolved and monitor.global_status not in oracle.LEAVING:
            assert len(freed) == 2, f"{monitor} is resolved and nothing stops it from being freed"
