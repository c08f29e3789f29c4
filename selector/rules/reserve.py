"""The places of testing that belong to globally active monitors.

A globally testing monitor cannot become active. If such monitors filled testing, those who could become active would
never get in to gather their results, so half of testing (rounded up) is for globally active monitors. While fewer than
the target are active it is at least 4 places, and they count only while their monitors can still become active: a
globally active monitor whose account already has its two active places, or that answers nothing, would otherwise keep
the reserve full and the server short of active monitors just the same.

A reserved place is for those who are getting ready. Who has been testing for a day and still has not the results of an
active monitor (its host runs for half the day) is overdue: it gives way to who has them, or to who has not tried yet.
"""

from selector.rules.eligibility import would_violate
from selector.rules.model import PairStatus, State
from selector.rules.world import Entry, World


def reserved(world: World) -> list[Entry]:
    """The testing monitors that hold a reserved place, best first."""
    return [entry for entry in world.testing if fits(world, entry)]


def is_short(world: World) -> bool:
    """Whether active places are free."""
    return world.active_count < world.settings.target_active


def places(world: World) -> int:
    """How many places are reserved (never more than testing has)."""
    half = world.testing_target - world.testing_target // 2
    most = max(half, world.settings.reserved_for_globally_active) if is_short(world) else half
    return min(most, world.testing_target)


def fits(world: World, entry: Entry) -> bool:
    """Whether this monitor may hold a reserved place: while active places are free, it needs nothing else but results.

    The constraints are forgotten only while really nobody is active: an emergency that this review has ended will not
    excuse a violation in the next one.
    """
    if not entry.globally_active or not entry.healthy or entry.state is not State.IN:
        return False
    beside = world.active_count if is_short(world) else 0
    return beside == 0 or would_violate(world, entry, PairStatus.ACTIVE) is None


def is_ready(world: World, entry: Entry) -> bool:
    """Whether it has the results of an active monitor."""
    return entry.monitor.count >= world.settings.results_for_active


def is_overdue(world: World, entry: Entry) -> bool:
    """Whether this testing monitor has had its time to get ready; so has one of which no begin is known."""
    since = entry.monitor.last_move
    return not is_ready(world, entry) and (since is None or world.now - since >= world.settings.time_to_gather)


def may_try_again(world: World, entry: Entry) -> bool:
    """Whether this candidate may be let in to gather results: not if it was testing less than a week ago."""
    left = entry.monitor.last_move
    return left is None or world.now - left >= world.settings.next_try


def yields_to(world: World, holder: Entry, entry: Entry) -> bool:
    """Whether the holder of a reserved place has to give it up for this candidate."""
    if not is_overdue(world, holder):
        return False
    # When somebody began of whom the ledger remembers nothing is anyone's guess, so only what is certain displaces it.
    return is_ready(world, entry) or (holder.monitor.last_move is not None and may_try_again(world, entry))


def protected(world: World) -> frozenset[int]:
    """The monitors that no swap and no clean-up takes out of testing: giving one up would leave too few."""
    holders = reserved(world)
    return frozenset(entry.id for entry in holders) if len(holders) <= places(world) else frozenset()
