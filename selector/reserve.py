"""The places of testing that belong to globally active monitors while active places are free.

A globally testing monitor cannot become active. If such monitors filled testing, a server that lacks active monitors
would lack them for ever, since those who could become active cannot get in to gather their results. So, while
fewer than the target are active, up to 4 places of testing are reserved.

A place counts as reserved only while its monitor can still become active: globally active, healthy, not out, and
violating nothing as an active monitor. A globally active monitor whose account already has its two active places, or
that answers nothing, would otherwise keep the reserve full and the server short of active monitors just the same.
"""

from selector.eligibility import would_violate
from selector.model import PairStatus, State
from selector.world import Entry, World


def reserved(world: World) -> list[Entry]:
    """The testing monitors that hold a reserved place, best first; empty when no active place is free."""
    if not is_needed(world):
        return []
    return [entry for entry in world.testing if may_become_active(world, entry)]


def is_needed(world: World) -> bool:
    """Whether active places are free, so that testing has reserved ones."""
    return world.active_count < world.settings.target_active


def places(world: World) -> int:
    """How many places are reserved (never more than testing has)."""
    return min(world.settings.reserved_for_globally_active, world.testing_target)


def may_become_active(world: World, entry: Entry) -> bool:
    """Whether this monitor needs nothing but results to take an active place.

    The constraints are forgotten only while really nobody is active: an emergency that this review has ended will not
    excuse a violation in the next one.
    """
    return (
        entry.globally_active
        and entry.healthy
        and entry.state is State.IN
        and (world.active_count == 0 or would_violate(world, entry, PairStatus.ACTIVE) is None)
    )


def protected(world: World) -> frozenset[int]:
    """The monitors that no swap and no clean-up takes out of testing: giving one up would leave too few."""
    holders = reserved(world)
    return frozenset(entry.id for entry in holders) if len(holders) <= places(world) else frozenset()
