"""Rule 5, third part, swap into testing: a clearly better candidate replaces a testing monitor.

As for active places, the worst monitor is replaced first, by the best candidate that is clearly better and may be
testing after the removal. A holder of a reserved place is replaced only by a candidate that may hold the place, and
while active places are free only by one that has enough results for active.

Two restrictions prevent endless cycles. A healthy, globally active monitor has a day to collect results and cannot be
replaced during it; otherwise an active monitor that was removed for it would return before it is ready. While active
places are free, a candidate that left testing within a week without enough results cannot replace such a monitor;
otherwise it would give up its reserved place and soon replace a worse one, and the two would alternate. Globally
testing monitors can be replaced, since the reserved places are not theirs.
"""

from collections.abc import Callable
from itertools import takewhile

from selector.rules.eligibility import no_promotions_to_testing, obstacle_to_testing, versus
from selector.rules.model import PairStatus
from selector.rules.preference import preference_note, preferred_first
from selector.rules.ranking import beats
from selector.rules.reserved_places import fits, is_overdue, is_ready, is_short, may_try_again, protected
from selector.rules.world import Entry, Rule, World

NAME = "rule 5: swap into testing"


def apply(world: World) -> World:
    """Swap monitors one after the other within the limits."""
    for loser in reversed(world.testing):
        if no_room(world):
            break
        if not world.moved(loser):
            world = _replace(world, loser)
    return world


def _replace(world: World, loser: Entry) -> World:
    """Return the world after the best possible swap for ``loser``, or unchanged."""
    rivals = list(takewhile(lambda entry: _beats(world, entry, loser), world.candidates))
    if not rivals:
        return world
    without = world.move(loser, PairStatus.CANDIDATE, NAME, "makes room")
    obstacle = _obstacles(world, loser)
    winner = next((entry for entry in preferred_first(world, rivals) if obstacle(without, entry) is None), None)
    if winner is None:
        return world
    facts = versus(winner, loser) + preference_note(without, winner, rivals, obstacle)
    without = world.move(loser, PairStatus.CANDIDATE, NAME, f"gives way to {winner.monitor.name}, {facts}")
    return without.move(winner, PairStatus.TESTING, NAME, f"takes the place of {loser.monitor.name}, {facts}")


def _beats(world: World, winner: Entry, loser: Entry) -> bool:
    return winner.healthy and beats(winner.priority, loser.health, loser.priority, world.settings)


def _obstacles(world: World, loser: Entry) -> Callable[[World, Entry], str | None]:
    """Return a function that gives the reason why a candidate may not replace ``loser``, in the world without it."""
    reserved = loser.id in protected(world)
    welcome = loser.globally_active and loser.healthy
    gathering = welcome and not is_ready(world, loser) and not is_overdue(world, loser)
    once_a_week = welcome and is_short(world)

    def obstacle(without: World, entry: Entry) -> str | None:
        if gathering:
            return "it still has time to collect results"
        if reserved and not (fits(without, entry) and (is_ready(without, entry) or not is_short(without))):
            return "it holds a reserved place"
        if once_a_week and not (is_ready(without, entry) or may_try_again(without, entry)):
            return "left testing within a week without enough results"
        return obstacle_to_testing(without, entry)

    return obstacle


def no_room(world: World) -> str | None:
    """Return why no swap is possible for any monitor."""
    if world.testing_removals_left <= 0:
        return f"limit of {world.limit} testing removals reached"
    return no_promotions_to_testing(world)


def stays(world: World, entry: Entry) -> str | None:
    """Explain why eligible candidates were not swapped in, and why testing monitors were not replaced."""
    if entry.status is PairStatus.TESTING:
        rival = next((other for other in world.candidates if _beats(world, other, entry)), None)
        if rival is None:
            return "no candidate is clearly better"
        without = world.move(entry, PairStatus.CANDIDATE, NAME, "makes room")
        why = _obstacles(world, entry)(without, rival) or no_room(world)
        return f"{rival.monitor.name} is better, but: {why}"
    if entry.status is PairStatus.CANDIDATE and not obstacle_to_testing(world, entry):
        losers = [other for other in world.testing if not world.moved(other) and _beats(world, entry, other)]
        return no_room(world) if losers else "clearly better than no testing monitor"
    return None


RULE = Rule(NAME, "a clearly better candidate takes a testing place", apply, stays)
