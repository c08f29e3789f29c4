"""Rules 1.5 and 2.5, surplus: the worst monitors above the target leave active for testing, and testing for candidate.

Rule 2 has already removed the monitors that are out, or has reached the limit of removals, which also applies here. So
these rules remove the worst of the others: first monitors with unknown health, then the worst healthy ones. Holders of
reserved places stay while active places are free, and are removed last otherwise.
"""

from selector.rules.model import PairStatus, State
from selector.rules.reserved_places import is_short, protected
from selector.rules.world import Entry, Rule, World

TOO_MANY_ACTIVE = "rule 1.5: too many active"


def demote_surplus_active(world: World) -> World:
    """Demote active monitors, worst first, down to the target, which is never zero."""
    for entry in reversed(world.active):
        if _too_many_active(world) and world.active_removals_left > 0 and _may_be_demoted(world, entry):
            why = f"{world.active_count} active, target {world.settings.target_active}"
            world = world.move(entry, PairStatus.TESTING, TOO_MANY_ACTIVE, why)
    return world


def why_still_active(world: World, entry: Entry) -> str | None:
    """Explain why surplus monitors are still active."""
    if _too_many_active(world) and world.statuses[entry.id] is PairStatus.ACTIVE and _may_be_demoted(world, entry):
        return f"too many active, but the limit of {world.limit} active removals is reached"
    return None


def _too_many_active(world: World) -> bool:
    return world.active_count > world.settings.target_active


def _may_be_demoted(world: World, entry: Entry) -> bool:
    return entry.state is not State.OUT and not world.moved(entry)


TOO_MANY_ACTIVE_RULE = Rule(
    TOO_MANY_ACTIVE, "more active than the target: the worst -> testing", demote_surplus_active, why_still_active
)


TOO_MANY_TESTING = "rule 2.5: too many testing"


def demote_surplus_testing(world: World) -> World:
    """Demote testing monitors, worst first, down to the target."""
    kept = protected(world)
    worst_first = world.testing[::-1]
    worst_first.sort(key=lambda entry: entry.id in kept)
    for entry in worst_first:
        if not _too_many_testing(world):
            break
        if obstacle_to_demotion(world, entry) is None:
            why = f"{world.testing_count} testing, target {world.testing_target}"
            world = world.move(entry, PairStatus.CANDIDATE, TOO_MANY_TESTING, why)
    return world


def obstacle_to_demotion(world: World, entry: Entry) -> str | None:
    """Return why this testing monitor does not leave although there are too many."""
    if world.moved(entry):
        return "already moved in this review"
    if world.testing_removals_left <= 0:
        return f"limit of {world.limit} testing removals reached"
    return "holds a reserved place" if is_short(world) and entry.id in protected(world) else None


def _too_many_testing(world: World) -> bool:
    return world.testing_count > world.testing_target


def why_still_testing(world: World, entry: Entry) -> str | None:
    """Explain why surplus monitors are still testing."""
    if entry.status is not PairStatus.TESTING or not _too_many_testing(world):
        return None
    return obstacle_to_demotion(world, entry)


TOO_MANY_TESTING_RULE = Rule(
    TOO_MANY_TESTING, "more testing than the target: the worst -> candidate", demote_surplus_testing, why_still_testing
)
