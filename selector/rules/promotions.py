"""Rules 3, 5 and 6, promotions: free places go to the best eligible monitors.

- Rule 3: testing monitors become active.
- Rule 5, second part: candidates enter testing, both globally active and globally testing ones; the first part has
  already offered the reserved places to the former.
- Rule 6: if no monitor is testing, up to 5 candidates enter testing, healthy ones first, regardless of their number of
  results. Otherwise a server whose candidates have no results yet, or only poor ones, would never be measured often
  enough for a promotion. The rule has its own limit, since nothing is gained by waiting. Constraints apply as for any
  promotion; monitors that are gone, pending, blocked or in violation are not promoted.
"""

from selector.rules.eligibility import (
    no_promotions_to_testing,
    obstacle_to_active,
    obstacle_to_rescue,
    obstacle_to_testing,
)
from selector.rules.model import PairStatus
from selector.rules.preference import preference_note, preferred_first
from selector.rules.world import Entry, Rule, World

PROMOTE_TO_ACTIVE = "rule 3: promote to active"


def promote_to_active(world: World) -> World:
    """Promote the best testing monitors within places and limit; each is checked with those promoted before it."""
    ranked = world.testing
    for entry in preferred_first(world, ranked):
        if no_room_in_active(world):
            break
        if obstacle_to_active(world, entry) is None:
            why = f"{world.active_count} active, target {world.settings.target_active}; {merit(entry)}"
            why += preference_note(world, entry, ranked, obstacle_to_active)
            world = world.move(entry, PairStatus.ACTIVE, PROMOTE_TO_ACTIVE, "emergency: " * world.emergency + why)
    return world


def no_room_in_active(world: World) -> str | None:
    """Return why no monitor can be promoted to active."""
    if world.active_count >= world.settings.target_active:
        return f"all {world.settings.target_active} active places are taken"
    if world.promotions_left <= 0:
        return f"limit of {world.limit} promotions reached"
    return None


def merit(entry: Entry) -> str:
    """Describe the monitor's priority and results."""
    return f"priority {entry.priority}, {entry.monitor.count} results"


def why_not_active(world: World, entry: Entry) -> str | None:
    """Explain why testing monitors do not become active."""
    if entry.status is not PairStatus.TESTING:
        return None
    return obstacle_to_active(world, entry) or no_room_in_active(world)


PROMOTE_TO_ACTIVE_RULE = Rule(
    PROMOTE_TO_ACTIVE, "testing -> active up to the target", promote_to_active, why_not_active
)


PROMOTE_TO_TESTING = "rule 5: promote to testing"


def promote_to_testing(world: World) -> World:
    """Promote the best candidates within places and limit; each is checked with those promoted before it."""
    ranked = world.candidates
    for entry in preferred_first(world, ranked):
        if no_room_in_testing(world):
            break
        if obstacle_to_testing(world, entry) is None:
            why = f"{world.testing_count} testing, target {world.testing_target}; {merit(entry)}"
            why += preference_note(world, entry, ranked, obstacle_to_testing)
            world = world.move(entry, PairStatus.TESTING, PROMOTE_TO_TESTING, why)
    return world


def no_room_in_testing(world: World) -> str | None:
    """Return why no monitor can be promoted to testing."""
    if world.testing_count >= world.testing_target:
        return f"all {world.testing_target} testing places are taken"
    return no_promotions_to_testing(world)


def why_not_testing(world: World, entry: Entry) -> str | None:
    """Explain why candidates do not enter testing."""
    if entry.status is not PairStatus.CANDIDATE:
        return None
    return obstacle_to_testing(world, entry) or no_room_in_testing(world)


PROMOTE_TO_TESTING_RULE = Rule(
    PROMOTE_TO_TESTING, "candidate -> testing up to the target", promote_to_testing, why_not_testing
)


NO_TESTING = "rule 6: no testing at all"


def fill_empty_testing(world: World) -> World:
    """Promote candidates, best first: healthy, then unknown, then unhealthy."""
    if world.testing_count > 0:
        return world
    ranked = world.candidates
    for entry in preferred_first(world, ranked):
        if world.testing_count >= world.settings.rescued_when_no_testing:
            break
        if obstacle_to_rescue(world, entry) is None:
            why = f"none was testing; {entry.health}, {entry.monitor.count} results"
            why += preference_note(world, entry, ranked, obstacle_to_rescue)
            world = world.move(entry, PairStatus.TESTING, NO_TESTING, why)
    return world


def why_not_rescued(world: World, entry: Entry) -> str | None:
    """Explain why candidates do not enter testing, if no monitor was testing when the rule was applied."""
    rescued = [change for change in world.changes if change.rule == NO_TESTING]
    if entry.status is not PairStatus.CANDIDATE or world.testing_count > len(rescued):
        return None
    return obstacle_to_rescue(world, entry) or f"{world.settings.rescued_when_no_testing} others were better"


NO_TESTING_RULE = Rule(NO_TESTING, "none testing: up to 5 candidates -> testing", fill_empty_testing, why_not_rescued)
