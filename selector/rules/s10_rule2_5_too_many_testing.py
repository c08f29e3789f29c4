"""Rule 2.5: more testing monitors than the target: the worst become candidates.

Reserved places are not given back while active places are free, and come last otherwise.
"""

from selector.rules.model import PairStatus
from selector.rules.reserve import is_short, protected
from selector.rules.world import Entry, Rule, World

NAME = "rule 2.5: too many testing"


def apply(world: World) -> World:
    """Worst first, down to the target."""
    kept = protected(world)
    worst_first = world.testing[::-1]
    worst_first.sort(key=lambda entry: entry.id in kept)
    for entry in worst_first:
        if not _too_many(world):
            break
        if obstacle(world, entry) is None:
            why = f"{world.testing_count} testing, target {world.testing_target}"
            world = world.move(entry, PairStatus.CANDIDATE, NAME, why)
    return world


def obstacle(world: World, entry: Entry) -> str | None:
    """Why this testing monitor does not leave although there are too many."""
    if world.moved(entry):
        return "already moved in this review"
    if world.testing_removals_left <= 0:
        return f"limit of {world.limit} testing removals reached"
    return "holds a reserved place" if is_short(world) and entry.id in protected(world) else None


def _too_many(world: World) -> bool:
    return world.testing_count > world.testing_target


def stays(world: World, entry: Entry) -> str | None:
    """The testing ones, if there are still too many."""
    if entry.status is not PairStatus.TESTING or not _too_many(world):
        return None
    return obstacle(world, entry)


RULE = Rule(NAME, "more testing than the target: the worst -> candidate", apply, stays)
