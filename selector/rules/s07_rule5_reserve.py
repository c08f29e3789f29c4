"""Rule 5, first part: reserved places of testing go to globally active candidates.

Into a free place of testing if there is one; else, or if a constraint keeps everybody out of it, in place of a testing
monitor that cannot become active, whatever its priority: the worst globally testing one, and if there is none, the
worst of those that may not become active for another reason. While all active places are taken, only globally testing
ones give way. When all reserved places are held, one that is overdue is given up. `selector.rules.reserve` says what is
reserved and why.
"""

from selector.rules.budget import no_promotions_to_testing
from selector.rules.eligibility import obstacle_to_testing
from selector.rules.model import PairStatus
from selector.rules.reserve import fits, is_short, places, reserved, yields_to
from selector.rules.s05_rule3_promote import merit
from selector.rules.world import Entry, Rule, World

NAME = "rule 5: reserved place in testing"


def apply(world: World) -> World:
    """Until the reserve is full of those who are getting ready, nobody is left for it, or the budget is used up."""
    while no_promotions_to_testing(world) is None:
        after = _renew_one(world) if is_full(world) else _fill_one(world)
        if after is world:
            break
        world = after
    return world


def is_full(world: World) -> bool:
    """Whether all reserved places are held."""
    return len(reserved(world)) >= places(world)


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


def _renew_one(world: World) -> World:
    """The world with one reserved place given up by who is overdue, worst first, or as it was."""
    if not is_short(world) or world.testing_removals_left <= 0:
        return world
    for loser in reversed(reserved(world)):
        if world.moved(loser):
            continue
        rivals = [entry for entry in world.candidates if yields_to(world, loser, entry)]
        if not rivals:
            continue
        why = f"{loser.monitor.count} of {world.settings.results_for_active} results after its time to gather them"
        without = world.move(loser, PairStatus.CANDIDATE, NAME, why)
        winner = next((entry for entry in rivals if _obstacle(without, entry) is None), None)
        if winner is not None:
            return _enter(without, winner)
    return world


def _displaceable(world: World) -> list[Entry]:
    """Testing monitors without a reserved place, worst first, globally testing ones before others."""
    holders = {entry.id for entry in reserved(world)}
    free = [entry for entry in reversed(world.testing) if entry.id not in holders and not world.moved(entry)]
    if not is_short(world):
        return [entry for entry in free if not entry.globally_active]
    return sorted(free, key=lambda entry: entry.globally_active)


def _best(world: World) -> Entry | None:
    return next((entry for entry in world.candidates if _obstacle(world, entry) is None), None)


def _obstacle(world: World, entry: Entry) -> str | None:
    """Why this candidate may not have a reserved place."""
    if not entry.globally_active:
        return f"globally {entry.monitor.global_status}: reserved places are for globally active monitors"
    if obstacle := obstacle_to_testing(world, entry):
        return obstacle
    return None if fits(world, entry) else "could not become active without a violation"


def _enter(world: World, winner: Entry) -> World:
    why = f"{len(reserved(world))} of {places(world)} reserved places held; {merit(winner)}"
    return world.move(winner, PairStatus.TESTING, NAME, why)


def stays(world: World, entry: Entry) -> str | None:
    """The candidates."""
    if entry.status is not PairStatus.CANDIDATE:
        return None
    if is_full(world):
        return f"all {places(world)} reserved places are held"
    return _obstacle(world, entry) or no_promotions_to_testing(world) or "nobody gives way to it"


RULE = Rule(NAME, "reserved places of testing: globally active candidates -> testing", apply, stays)
