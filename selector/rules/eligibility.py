"""Decide which monitors may be promoted, and give the reason if one may not.

The rules share these functions, so that a promotion and its explanation cannot differ.
"""

from selector.rules.assess import BLOCKED
from selector.rules.constraints import conflict
from selector.rules.model import GlobalStatus, Health, PairStatus, State, ViolationType
from selector.rules.world import Entry, World, is_promotion


def obstacle_to_active(world: World, entry: Entry) -> str | None:
    """Return why this testing monitor may not become active now, apart from places and limits.

    In an emergency 9 results are enough, and constraints between monitors do not prevent the promotion.
    """
    if not entry.globally_active:
        return f"globally {entry.monitor.global_status}: only a globally active monitor becomes active"
    settings = world.settings
    needed = settings.results_for_active_in_emergency if world.emergency else settings.results_for_active
    return _obstacle(world, entry, needed) or obstacle_of_place(world, entry, PairStatus.ACTIVE)


def obstacle_to_testing(world: World, entry: Entry) -> str | None:
    """Return why this candidate may not enter testing now, apart from places and limits."""
    needed = world.settings.results_for_testing
    return _obstacle(world, entry, needed) or obstacle_of_place(world, entry, PairStatus.TESTING)


def obstacle_to_rescue(world: World, entry: Entry) -> str | None:
    """Return why this candidate may not enter testing while it is empty; health and count do not matter then."""
    if world.moved(entry):
        return _MOVED
    if entry.monitor.gone:
        return "is gone"
    if _out_for_other_than_health(world, entry):
        return out_because(entry)
    return obstacle_of_place(world, entry, PairStatus.TESTING)


def obstacle_of_place(world: World, entry: Entry, status: PairStatus) -> str | None:
    """Return the constraint that prevents the monitor from holding that place; none does in an emergency."""
    violation = None if world.emergency else would_violate(world, entry, status)
    return None if violation is None else f"would violate {violation} as {status}"


def would_violate(world: World, entry: Entry, status: PairStatus) -> ViolationType | None:
    """Return the constraint that the monitor would violate in the place ``status`` with all others as they are now."""
    return conflict(entry.monitor, status, world.placed)


def out_because(entry: Entry) -> str:
    """Return why the monitor is blocked or out."""
    if entry.monitor.global_status in BLOCKED or entry.monitor.global_status is GlobalStatus.PENDING:
        return f"globally {entry.monitor.global_status}"
    if entry.violation is not None:
        return f"violates {entry.violation}"
    return f"unhealthy: average step {entry.monitor.avg_step:.2f}"


_MOVED = "already moved in this review"


def _obstacle(world: World, entry: Entry, needed: int) -> str | None:
    """Return the reason against any promotion by merit."""
    if world.moved(entry):
        return _MOVED
    if entry.state is State.OUT or entry.state is State.BLOCK:
        return out_because(entry)
    if entry.health is Health.UNKNOWN:
        return "is gone" if entry.monitor.gone else "no results in 24 h"
    if entry.monitor.count < needed:
        return f"{entry.monitor.count} of {needed} results"
    return None


def _out_for_other_than_health(world: World, entry: Entry) -> bool:
    """Return whether the monitor is blocked, pending or in violation, and not merely unhealthy."""
    if entry.state is State.BLOCK or entry.monitor.global_status is GlobalStatus.PENDING:
        return True
    return entry.violation is not None and (entry.violation.unchangeable or not world.emergency)


def no_promotions_to_testing(world: World) -> str | None:
    """Return why no further candidate may enter testing in this review."""
    if world.promotions_left <= 0:
        return f"limit of {world.limit} promotions reached"
    entered = sum(is_promotion(change) and change.to_status is PairStatus.TESTING for change in world.changes)
    most = world.settings.testing_promotions
    return f"{most} candidates have entered testing in this review" if entered >= most else None


def versus(winner: Entry, loser: Entry) -> str:
    """Describe the comparison that decided a swap."""
    if not loser.healthy:
        return f"healthy against {loser.health}"
    return f"priority {winner.priority} against {loser.priority}"
