"""Rule 5, first part: while active places are free, reserved places of testing go to globally active candidates.

Into a free place of testing if there is one; else, or if a constraint keeps everybody out of it, in place of a testing
monitor that cannot become active, whatever its priority: the worst globally testing one, and if there is none, the
worst of those that may not become active for another reason. `selector.reserve` says what is reserved and why.
"""

from selector.eligibility import obstacle_to_testing
from selector.model import PairStatus
from selector.reserve import is_needed, may_become_active, places, reserved
from selector.rules.budget import no_promotions_to_testing
from selector.rules.s04_rule3_promote import merit
from selector.world import Entry, Rule, World

NAME = "rule 5: reserved place in testing"


def apply(world: World) -> World:
    """Until the reserve is full, nobody is left to fill it, or the budget is used up."""
    while no_need(world) is None and no_promotions_to_testing(world) is None:
        after = _fill_one(world)
        if after is world:
            break
        world = after
    return world


def no_need(world: World) -> str | None:
    """Why no reserved place has to be filled."""
    if not is_needed(world):
        return "no active place is free, so testing has no reserved places"
    if len(reserved(world)) >= places(world):
        return f"all {places(world)} reserved places are held"
    return None


def _fill_one(world: World) -> World:
    """The world with one more reserved place filled, or as it was."""
    if not any(entry.globally_active and entry.healthy for entry in world.candidates):
        return world
    if world.testing_count < world.testing_target:
        winner = _best(world)
        if winner is not None:
            return _enter(world, winner)
    if world.testing_removals_left > 0:
        for loser in _displaceable(world):
            without = world.move(loser, PairStatus.CANDIDATE, NAME, "makes room for a globally active monitor")
            winner = _best(without)
            if winner is not None:
                return _enter(without, winner)
    return world


def _displaceable(world: World) -> list[Entry]:
    """Testing monitors without a reserved place, worst first, globally testing ones before others."""
    holders = {entry.id for entry in reserved(world)}
    free = [entry for entry in reversed(world.testing) if entry.id not in holders and not world.moved(entry)]
    return sorted(free, key=lambda entry: entry.globally_active)


def _best(world: World) -> Entry | None:
    return next((entry for entry in world.candidates if _obstacle(world, entry) is None), None)


def _obstacle(world: World, entry: Entry) -> str | None:
    """Why this candidate may not have a reserved place."""
    if not entry.globally_active:
        return f"globally {entry.monitor.global_status}: reserved places are for globally active monitors"
    if obstacle := obstacle_to_testing(world, entry):
        return obstacle
    return None if may_become_active(world, entry) else "could not become active without a violation"


def _enter(world: World, winner: Entry) -> World:
    why = f"{len(reserved(world))} of {places(world)} reserved places held; {merit(winner)}"
    return world.move(winner, PairStatus.TESTING, NAME, why)


def stays(world: World, entry: Entry) -> str | None:
    """The candidates, while places are reserved."""
    if entry.status is not PairStatus.CANDIDATE or not is_needed(world):
        return None
    return no_need(world) or _obstacle(world, entry) or no_promotions_to_testing(world) or "nobody gives way to it"


RULE = Rule(NAME, "while active places are free: globally active candidates -> testing", apply, stays)
