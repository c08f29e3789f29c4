"""Rule 3, swap into active: a clearly better testing monitor replaces an active one.

The worst active monitor is replaced first, by the best testing monitor that is clearly better and may be active after
the removal. If every replacement would violate a constraint, the next worst is considered: a better monitor may be able
to replace only a monitor of its own account.
"""

from selector.rules.eligibility import obstacle_to_active, versus
from selector.rules.leave_gradually import demoted_to
from selector.rules.model import PairStatus
from selector.rules.preference import preference_note, preferred_first
from selector.rules.ranking import beats
from selector.rules.world import Entry, Rule, World

NAME = "rule 3: swap into active"


def apply(world: World) -> World:
    """Swap monitors one after the other within both limits."""
    for loser in reversed(world.active):
        if no_room(world):
            break
        if not world.moved(loser):
            world = _replace(world, loser)
    return world


def _replace(world: World, loser: Entry) -> World:
    """Return the world after the best possible swap for ``loser``, or unchanged."""
    rivals = [entry for entry in world.testing if entry.globally_active and _beats(world, entry, loser)]
    if not rivals:
        return world
    to = demoted_to(world, loser)
    without = world.move(loser, to, NAME, "makes room")
    eligible = (entry for entry in preferred_first(world, rivals) if obstacle_to_active(without, entry) is None)
    winner = next(eligible, None)
    if winner is None:
        return world
    facts = versus(winner, loser) + preference_note(without, winner, rivals, obstacle_to_active)
    without = world.move(loser, to, NAME, f"gives way to {winner.monitor.name}, {facts}")
    return without.move(winner, PairStatus.ACTIVE, NAME, f"takes the place of {loser.monitor.name}, {facts}")


def _beats(world: World, winner: Entry, loser: Entry) -> bool:
    return winner.healthy and beats(winner.priority, loser.health, loser.priority, world.settings)


def no_room(world: World) -> str | None:
    """Return why no swap is possible for any monitor."""
    if world.promotions_left <= 0:
        return f"limit of {world.limit} promotions reached"
    if world.active_removals_left <= 0:
        return f"limit of {world.limit} active removals reached"
    return None


def stays(world: World, entry: Entry) -> str | None:
    """Explain why eligible testing monitors were not swapped in, and why active ones were not replaced."""
    if entry.status is PairStatus.ACTIVE:
        rival = next((other for other in world.testing if _beats(world, other, entry)), None)
        if rival is None:
            return "no testing monitor is clearly better"
        without = world.move(entry, demoted_to(world, entry), NAME, "makes room")
        return f"{rival.monitor.name} is better, but: {obstacle_to_active(without, rival) or no_room(world)}"
    if entry.status is PairStatus.TESTING and not obstacle_to_active(world, entry):
        losers = [other for other in world.active if not world.moved(other) and _beats(world, entry, other)]
        return no_room(world) if losers else "clearly better than no active monitor"
    return None


RULE = Rule(NAME, "a clearly better testing monitor takes an active place", apply, stays)
