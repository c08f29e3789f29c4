"""Rule 6: nobody is testing at all: up to 5 candidates enter testing, healthy first, whatever their count of results.

Without this a server whose candidates have no results yet, or only bad ones, would never be measured well
enough for anybody to be promoted. It has its own number, since waiting helps nobody. Constraints count as
for any promotion; who is gone, pending, blocked or in violation is not taken.
"""

from selector.rules.eligibility import obstacle_to_rescue
from selector.rules.model import PairStatus
from selector.rules.world import Entry, Rule, World

NAME = "rule 6: no testing at all"


def apply(world: World) -> World:
    """Best first: healthy, then unknown, then unhealthy."""
    if world.testing_count > 0:
        return world
    for entry in world.candidates:
        if world.testing_count >= world.settings.rescued_when_no_testing:
            break
        if obstacle_to_rescue(world, entry) is None:
            why = f"nobody was testing; {entry.health}, {entry.monitor.count} results"
            world = world.move(entry, PairStatus.TESTING, NAME, why)
    return world


def stays(world: World, entry: Entry) -> str | None:
    """The candidates, if nobody was testing when the rule was reached."""
    rescued = [change for change in world.changes if change.rule == NAME]
    if entry.status is not PairStatus.CANDIDATE or world.testing_count > len(rescued):
        return None
    return obstacle_to_rescue(world, entry) or f"{world.settings.rescued_when_no_testing} others came first"


RULE = Rule(NAME, "nobody testing: up to 5 candidates -> testing", apply, stays)
