"""Rule 5, third part: a candidate that is clearly better takes the place of a testing monitor.

As with active places the worst gives way first, to the best candidate that beats it and may be testing once it has
gone. Reserved places are not given back this way.
"""

from itertools import takewhile

from selector.eligibility import obstacle_to_testing
from selector.model import PairStatus
from selector.priority import beats
from selector.reserve import protected
from selector.rules.budget import no_promotions_to_testing
from selector.rules.s05_rule3_swap import versus
from selector.world import Entry, Rule, World

NAME = "rule 5: swap into testing"


def apply(world: World) -> World:
    """One swap after the other, while the budget lasts."""
    for loser in reversed(world.testing):
        if no_room(world):
            break
        if not world.moved(loser) and loser.id not in protected(world):
            world = _replace(world, loser)
    return world


def _replace(world: World, loser: Entry) -> World:
    """The world after the best possible swap for ``loser``, or as it was."""
    rivals = list(takewhile(lambda entry: _beats(world, entry, loser), world.candidates))
    if not rivals:
        return world
    without = world.move(loser, PairStatus.CANDIDATE, NAME, "makes room")
    winner = next((entry for entry in rivals if obstacle_to_testing(without, entry) is None), None)
    if winner is None:
        return world
    facts = versus(winner, loser)
    without = world.move(loser, PairStatus.CANDIDATE, NAME, f"gives way to {winner.monitor.name}, {facts}")
    return without.move(winner, PairStatus.TESTING, NAME, f"takes the place of {loser.monitor.name}, {facts}")


def _beats(world: World, winner: Entry, loser: Entry) -> bool:
    return winner.healthy and beats(winner.priority, loser.health, loser.priority, world.settings)


def no_room(world: World) -> str | None:
    """Why no swap is possible, whoever it be."""
    if world.testing_removals_left <= 0:
        return f"limit of {world.limit} testing removals reached"
    return no_promotions_to_testing(world)


def stays(world: World, entry: Entry) -> str | None:
    """Candidates that were free to swap in, and testing monitors that nobody replaced."""
    if entry.status is PairStatus.TESTING:
        rival = next((other for other in world.candidates if _beats(world, other, entry)), None)
        if rival is None:
            return "no candidate is clearly better"
        if entry.id in protected(world):
            return "holds a reserved place"
        without = world.move(entry, PairStatus.CANDIDATE, NAME, "makes room")
        return f"{rival.monitor.name} is better, but: {obstacle_to_testing(without, rival) or no_room(world)}"
    if entry.status is PairStatus.CANDIDATE and not obstacle_to_testing(world, entry):
        losers = [other for other in world.testing if not world.moved(other) and _beats(world, entry, other)]
        return no_room(world) if losers else "clearly better than no testing monitor"
    return None


RULE = Rule(NAME, "a clearly better candidate takes a testing place", apply, stays)
