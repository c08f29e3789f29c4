"""The reserved places of testing, which belong to globally active monitors; and rule 5, first part, which fills them.

A globally testing monitor cannot become active. If such monitors filled testing, those who could become active would
never get in to gather their results, so half of testing (rounded up) is for globally active monitors. While fewer than
the target are active it is at least 4 places, and they count only while their monitors can still become active: a
globally active monitor whose account already has its two active places, or that answers nothing, would otherwise keep
the reserve full and the server short of active monitors just the same.

A reserved place is for those who are getting ready. Who has been testing for a day and still has not the results of an
active monitor (its host runs for half the day) is overdue: it gives way to who has them, or to who has not tried yet.

The rule fills a free place of testing if there is one. Else, or if a constraint keeps everybody out of it, it takes the
place of a testing monitor that cannot become active, whatever its priority: the worst globally testing one, and if
there is none, the worst of those that may not become active for another reason. While all active places are taken, only
globally testing ones give way. When all reserved places are held, one that is overdue is given up.
"""

from selector.rules.eligibility import no_promotions_to_testing, obstacle_to_testing, would_violate
from selector.rules.model import PairStatus, State
from selector.rules.promotions import merit
from selector.rules.world import Entry, Rule, World


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
