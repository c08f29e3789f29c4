"""Rule 1.5: more active monitors than the target: the worst go to testing.

Who is out has left by rule 2, or is still there because the limit of removals is used up, which then holds here too.
So those who go here are the worst of the others: monitors that nothing is known about first, then the worst healthy.
"""

from selector.rules.model import PairStatus, State
from selector.rules.world import Entry, Rule, World

NAME = "rule 1.5: too many active"


def apply(world: World) -> World:
    """Worst first, down to the target, which is never zero."""
    for entry in reversed(world.active):
        if _too_many(world) and world.active_removals_left > 0 and _may_go(world, entry):
            why = f"{world.active_count} active, target {world.settings.target_active}"
            world = world.move(entry, PairStatus.TESTING, NAME, why)
    return world


def stays(world: World, entry: Entry) -> str | None:
    """The active ones, if there are still too many."""
    if _too_many(world) and world.statuses[entry.id] is PairStatus.ACTIVE and _may_go(world, entry):
        return f"too many active, but the limit of {world.limit} active removals is reached"
    return None


def _too_many(world: World) -> bool:
    return world.active_count > world.settings.target_active


def _may_go(world: World, entry: Entry) -> bool:
    return entry.state is not State.OUT and not world.moved(entry)


RULE = Rule(NAME, "more active than the target: the worst -> testing", apply, stays)
