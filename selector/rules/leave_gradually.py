"""Rule 2, gradual removal: monitors that are out leave, worst first, from active to testing, from testing to candidate.

Poor performance removes a monitor only while more than `target - 2` places (at least one) are held: poor measurements
are better than too few. Violations of constraints also remove monitors below that, but never the last active one. An
active monitor that leaves because of a violation enters testing only if it violates no constraint there.
"""

from selector.rules.eligibility import out_because, would_violate
from selector.rules.model import PairStatus, State
from selector.rules.world import Entry, Rule, World

NAME = "rule 2: out"


def apply(world: World) -> World:
    """Remove from active first, since this adds to testing, then from testing."""
    for entry in reversed(world.active):
        if entry.state is State.OUT and obstacle_from_active(world, entry) is None:
            world = world.move(entry, demoted_to(world, entry), NAME, out_because(entry))
    for entry in reversed(world.testing):
        if entry.state is State.OUT and obstacle_from_testing(world, entry) is None:
            world = world.move(entry, PairStatus.CANDIDATE, NAME, out_because(entry))
    return world


def demoted_to(world: World, entry: Entry) -> PairStatus:
    """Return the status after demotion: testing, or candidate if a violation would persist in testing."""
    if entry.violation is not None and would_violate(world, entry, PairStatus.TESTING) is not None:
        return PairStatus.CANDIDATE
    return PairStatus.TESTING


def obstacle_from_active(world: World, entry: Entry) -> str | None:
    """Return why an active monitor that is out may not leave yet."""
    if world.moved(entry):
        return "already moved in this review"
    if world.active_removals_left <= 0:
        return f"limit of {world.limit} active removals reached"
    if world.active_count <= 1:
        return "the last active monitor never leaves gradually"
    floor = _floor(world, world.settings.target_active)
    if entry.violation is None and world.active_count <= floor:
        return f"only violations leave when {floor} or fewer are active"
    return None


def obstacle_from_testing(world: World, entry: Entry) -> str | None:
    """Return why a testing monitor that is out may not leave yet."""
    if world.moved(entry):
        return "already moved in this review"
    if world.testing_removals_left <= 0:
        return f"limit of {world.limit} testing removals reached"
    floor = _floor(world, world.settings.target_testing)
    if (entry.violation is None or world.emergency) and world.testing_count <= floor:
        return f"only violations leave when {floor} or fewer are testing"
    return None


def _floor(world: World, target: int) -> int:
    return max(1, target - world.settings.floor_below_target)


def stays(world: World, entry: Entry) -> str | None:
    """Explain why monitors that are out still hold a place."""
    if entry.state is not State.OUT:
        return None
    if entry.status is PairStatus.ACTIVE:
        return f"{out_because(entry)}, but {obstacle_from_active(world, entry)}"
    if entry.status is PairStatus.TESTING:
        return f"{out_because(entry)}, but {obstacle_from_testing(world, entry)}"
    return None


RULE = Rule(NAME, "out, worst first: active -> testing, testing -> candidate", apply, stays)
