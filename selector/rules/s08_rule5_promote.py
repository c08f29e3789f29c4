"""Rule 5, second part: free places of testing go to the best candidates.

Globally active and globally testing monitors alike; the reserved places were offered to the former first.
"""

from selector.rules.budget import no_promotions_to_testing
from selector.rules.eligibility import obstacle_to_testing
from selector.rules.model import PairStatus
from selector.rules.s05_rule3_promote import merit
from selector.rules.world import Entry, Rule, World

NAME = "rule 5: promote to testing"


def apply(world: World) -> World:
    """Best first, while places and the budget last; each is judged beside those promoted before it."""
    for entry in world.candidates:
        if no_room(world):
            break
        if obstacle_to_testing(world, entry) is None:
            why = f"{world.testing_count} testing, target {world.testing_target}; {merit(entry)}"
            world = world.move(entry, PairStatus.TESTING, NAME, why)
    return world


def no_room(world: World) -> str | None:
    """Why nobody can be promoted to testing, whoever it be."""
    if world.testing_count >= world.testing_target:
        return f"all {world.testing_target} testing places are taken"
    return no_promotions_to_testing(world)


def stays(world: World, entry: Entry) -> str | None:
    """The candidates."""
    if entry.status is not PairStatus.CANDIDATE:
        return None
    return obstacle_to_testing(world, entry) or no_room(world)


RULE = Rule(NAME, "candidate -> testing up to the target", apply, stays)
