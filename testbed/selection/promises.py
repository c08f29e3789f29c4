"""Check the selector's promises about one review; each check raises AssertionError if the promise is broken.

The Hypothesis tests, the stateful test and the mutations all run these same checks.
"""

import itertools
import random
from dataclasses import replace

from selector.rules.model import Change, Monitor, Skipped
from selector.rules.world import Review
from testbed.selection import oracle
from testbed.selection.oracle import ACTIVE, CANDIDATE, PAUSED, RANK, TESTING
from testbed.selection.worlds import Scene

RULE_1, RULE_2, RULE_6 = "rule 1: leave at once", "rule 2: out", "rule 6: no testing at all"
EXCHANGE = "rule 3: exchange across a constraint"
LIVE = ("active", "testing")


def promotions(review: Review) -> list[Change]:
    return [change for change in review.changes if RANK[change.to_status] > RANK[change.from_status] > 0]


def removals(review: Review, status: object) -> list[Change]:
    """Return the gradual removals from a place."""
    return [
        change
        for change in review.changes
        if change.from_status is status and RANK[change.to_status] < RANK[change.from_status] and change.rule != RULE_1
    ]


def swapped(change: Change) -> bool:
    return (
        "swap" in change.rule
        or change.rule == EXCHANGE
        or ("reserved" in change.rule and change.to_status is CANDIDATE)
    )


# ---- one review ----------------------------------------------------------------------------------------------------


def at_most_one_change_per_monitor(scene: Scene, review: Review) -> None:
    ids = [change.monitor_id for change in review.changes]
    assert len(ids) == len(set(ids)), "a monitor is changed twice"
    held = {row.id for row in scene.monitors if isinstance(row, Skipped)}
    assert not held & set(ids), "a left-out monitor is moved"
    begin = oracle.before(scene)
    for change in review.changes:
        assert change.from_status is begin[change.monitor_id], f"{change} starts elsewhere"
        assert change.from_status is not change.to_status, f"{change} is none"


def limits_are_kept(scene: Scene, review: Review) -> None:
    limit = oracle.limit(scene)
    for status in (ACTIVE, TESTING):
        assert len(removals(review, status)) <= limit, f"more than {limit} {status} monitors removed"
    rescued = [change for change in promotions(review) if change.rule == RULE_6]
    others = [change for change in promotions(review) if change.rule != RULE_6]
    assert len(others) <= limit, f"more than {limit} promotions"
    assert sum(change.to_status is TESTING for change in others) <= 2, "more than 2 candidates entered testing"
    assert len(rescued) <= 5, "more than 5 candidates rescued"
    freed = [change for change in review.changes if change.from_status is PAUSED]
    assert len(freed) <= 2, "more than 2 paused pairs freed"


def targets_are_kept(scene: Scene, review: Review) -> None:
    """Check that no place beyond a target is filled, and that a surplus shrinks as fast as the limit allows."""
    end, limit = oracle.after(scene, review), oracle.limit(scene)
    active, testing = oracle.count(end, ACTIVE), oracle.count(end, TESTING)
    remained = oracle.remaining(scene, ACTIVE)
    assert active <= max(7, remained - limit, oracle.held(scene, ACTIVE)), f"{active} active of {remained}"
    entered = [c for c in promotions(review) if c.to_status is TESTING and not swapped(c) and c.rule != RULE_6]
    gave_way = [c for c in review.changes if c.from_status is TESTING and "reserved" in c.rule]
    if len(entered) > len(gave_way):
        assert testing <= oracle.testing_target(end), "testing filled beyond its target"
    if testing > oracle.testing_target(end) and len(removals(review, TESTING)) < limit:
        movable = [m for m in scene.judged if end.get(m.id) is TESTING and m.pair_status is TESTING]
        assert not movable, "too many testing, and nothing stops the next removal"


def no_promotion_violates_a_constraint(scene: Scene, review: Review) -> None:
    """Check promotions against the state after the review's other changes; in an emergency, only unchangeable
    constraints count."""
    by_id, end = {monitor.id: monitor for monitor in scene.judged}, oracle.after(scene, review)
    for change in promotions(review):
        monitor = by_id[change.monitor_id]
        assert oracle.too_close(scene, monitor) is None, f"{change} is too close to the server"
        if not oracle.emergency(scene):
            found = oracle.violations(monitor, change.to_status, oracle.placed(scene, end))
            assert not found, f"{change} violates {found}"


def only_qualified_monitors_are_promoted(scene: Scene, review: Review) -> None:
    by_id = {monitor.id: monitor for monitor in scene.judged}
    for change in promotions(review):
        monitor = by_id[change.monitor_id]
        assert monitor.global_status in LIVE, f"{change} of a monitor that is globally {monitor.global_status}"
        assert not monitor.gone, f"{change} of a monitor that is gone"
        if change.rule == RULE_6:
            continue
        assert oracle.healthy(monitor), f"{change} of a monitor that is not healthy"
        if change.to_status is ACTIVE:
            assert change.from_status is TESTING or change.rule == EXCHANGE, f"{change} skips testing"
            assert monitor.global_status == "active", f"{change} of a globally testing monitor"
            enough = 9 if oracle.emergency(scene) or (change.rule == EXCHANGE and _last_is_out(scene)) else 24
            assert monitor.count >= enough, f"{change} with {monitor.count} results"
        else:
            assert monitor.count >= 9, f"{change} with {monitor.count} results"


def _last_is_out(scene: Scene) -> bool:
    """Return whether the only active monitor must leave as soon as another one can take over."""
    active = [m for m in scene.judged if m.pair_status is ACTIVE and not oracle.leaves_at_once(scene, m)]
    return oracle.remaining(scene, ACTIVE) == 1 and all(oracle.out_on_its_own(one) for one in active)


def never_from_some_active_to_none(scene: Scene, review: Review) -> None:
    if oracle.remaining(scene, ACTIVE) > 0:
        assert oracle.count(oracle.after(scene, review), ACTIVE) > 0, "the last active monitor was removed"


def violations_are_assigned_fairly(scene: Scene, review: Review) -> None:
    """Check that flagged monitors violate a constraint, and that the others violate none among themselves."""
    stay = [m for m in scene.judged if m.pair_status in (ACTIVE, TESTING) and not oracle.leaves_at_once(scene, m)]
    places = [(monitor, oracle.before(scene)[monitor.id]) for monitor in stay]
    kept = [place for place in places if place[0].id not in review.violations]
    for monitor, status in places:
        flagged = monitor.id in review.violations
        found = oracle.violations(monitor, status, places if flagged else kept)
        assert bool(found) is flagged, f"{monitor} flagged {flagged}, violates {found}"
        if flagged:
            assert review.violations[monitor.id].type in found, (
                f"{monitor} flagged with {review.violations[monitor.id]}"
            )
    for first, second in itertools.combinations(stay, 2):
        _the_worse_monitor_has_the_violation(scene, review, first, second)


def _the_worse_monitor_has_the_violation(scene: Scene, review: Review, first: Monitor, second: Monitor) -> None:
    """Check that of two monitors in equal places that exclude only each other, the worse one is flagged."""
    alone = [
        one for one in scene.judged if one.pair_status in (ACTIVE, TESTING) and not oracle.leaves_at_once(scene, one)
    ]
    if len(alone) != 2 or first.pair_status is not second.pair_status or first.pair_status is None:
        return
    if "pending" in (first.global_status, second.global_status) or len(review.violations) != 1:
        return
    if oracle.violations(first, first.pair_status, [(second, first.pair_status)]):
        worse = max(first, second, key=oracle.rank)
        assert worse.id in review.violations or min(first.limit, second.limit) == 0, f"{worse} is worse, not flagged"


def violations_are_stored_with_their_first_time(scene: Scene, review: Review) -> None:
    """Check that, once written, the ledger has all violations and the times since when they exist."""
    stored = {monitor.id: monitor for monitor in scene.after(review).judged}
    end = oracle.after(scene, review)
    for old in scene.judged:
        new = stored[old.id]
        assert new.pair_status is end.get(old.id), f"{old} is stored as {new.pair_status}"
        if new.violation_type is not None and old.violation_type == new.violation_type:
            assert new.violation_since == old.violation_since or old.violation_since is None, "first time lost"
        elif new.violation_type is not None:
            assert new.violation_since == scene.now, f"{new} is violated since now"
        if end[old.id] is PAUSED and (old.pair_status is not PAUSED or oracle.is_due(scene, old)):
            close = oracle.too_close(scene, old)
            assert new.violation_type == close, f"{new} violates {close}"
            assert new.last_constraint_check == scene.now or close is None, "the look is not noted"
            assert new.pause_reason == "constraint" or close is None, f"{new} is paused for a constraint"
        if end[old.id] in (ACTIVE, TESTING):
            found = oracle.violations(old, end[old.id], oracle.placed(scene, end))
            assert new.violation_type is None or new.violation_type in found, f"{new} violates {found}"
        if end[old.id] is CANDIDATE:
            assert (new.violation_type, new.pause_reason) == (None, None) or review.changes == (), f"{new} is clean"


def the_order_of_rows_does_not_matter(scene: Scene, review: Review) -> None:
    rows = list(scene.monitors)
    for seed in (1, 2):
        random.Random(seed).shuffle(rows)
        other = replace(scene, monitors=tuple(rows)).review()
        assert other.changes == review.changes, "another order of rows, another review"
        assert sorted(other.records, key=str) == sorted(review.records, key=str), "another order, other records"
        assert other.violations == review.violations, "another order, other violations"


def preference_decides_between_equals(scene: Scene, review: Review) -> None:
    """Check that labels decide only where they are said to: for the healthier of two, of which none beats the other."""
    by_name = {monitor.name: monitor for monitor in scene.judged}
    by_id = {monitor.id: monitor for monitor in scene.judged}
    for change in review.changes:
        _, said, rest = change.reason.partition("; preferred to ")
        if not said:
            continue
        assert scene.settings.prefer_healthy, f"{change} without the setting"
        passed, chosen = by_name[rest.partition(",")[0]], by_id[change.monitor_id]
        if change.to_status is not change.from_status and RANK[change.to_status] < RANK[change.from_status]:
            continue  # the one that gives way, for the same reason
        assert oracle.standing(chosen) < oracle.standing(passed), f"{change}: {chosen} is not healthier than {passed}"
        assert oracle.rank(passed) < oracle.rank(chosen), f"{change}: {passed} would not have come first"
        assert not oracle.clearly_better(passed, chosen), f"{change}: {passed} is clearly better"


def the_best_come_first(scene: Scene, review: Review) -> None:
    """Check that the rules see the monitors in the order of priority."""
    expected = sorted((one for one in scene.judged if one.pair_status is not None), key=oracle.rank)
    assert [entry.id for entry in review.world.entries] == [one.id for one in expected], "not in the order of merit"
