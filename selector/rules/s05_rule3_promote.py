"""Rule 3: free active places go to the best testing monitors that may have them."""

from selector.rules.eligibility import obstacle_to_active
from selector.rules.model import PairStatus
from selector.rules.world import Entry, Rule, World

NAME = "rule 3: promote to active"


def apply(world: World) -> World:
    """Best first, while places and the limit last; each is judged beside those promoted before it."""
    for entry in world.testing:
        if no_room(world):
            break
        if obstacle_to_active(world, entry) is None:
            why = f"{world.active_count} active, target {world.settings.target_active}; {merit(entry)}"
            world = world.move(entry, PairStatus.ACTIVE, NAME, "emergency: " * world.emergency + why)
    return world


def no_room(world: World) -> str | None:
    """Why nobody can be promoted to active, whoever it be."""
    if world.active_count >= world.settings.target_active:
        return f"all {world.settings.target_active} active places are taken"
    if world.promotions_left <= 0:
        return f"limit of {world.limit} promotions reached"
    return None


def merit(entry: Entry) -> str:
    """What speaks for a monitor."""
    return f"priority {entry.priority}, {entry.monitor.count} results"


def stays(world: World, entry: Entry) -> str | None:
    """The testing monitors."""
    if entry.status is not PairStatus.TESTING:
        return None
    return obstacle_to_active(world, entry) or no_room(world)


RULE = Rule(NAME, "testing -> active up to the target", apply, stays)
