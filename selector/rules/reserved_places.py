"""Rule 5, first part, reserved places: globally active candidates fill the testing places that are reserved for them.

A globally testing monitor cannot become active. If such monitors filled testing, those that can become active would
never collect the results for it, so half of testing (rounded up) is reserved for globally active monitors. While fewer
than the target are active, at least 4 places are reserved, and only monitors that can still become active count as
holders. Otherwise a globally active monitor whose account already has its two active places, or that does not respond,
would occupy a reserved place while the server lacks active monitors.

A reserved place gives a monitor time to collect results. A monitor that has been testing for a day without enough
results for active (for example, its host runs for half the day) is overdue: it gives way to a candidate that has enough
results, or to one that has not tried yet.

The rule first fills a free testing place. If there is none, or constraints prevent all candidates from entering it, the
candidate replaces a testing monitor that cannot become active, regardless of priority: the worst globally testing one,
or else the worst of those that cannot become active for another reason. While all active places are held, only globally
testing monitors give way. If all reserved places are held, an overdue monitor gives way.
"""

from collections.abc import Sequence

from selector.rules.eligibility import no_promotions_to_testing, obstacle_to_testing, would_violate
from selector.rules.model import PairStatus, State
from selector.rules.preference import preference_note, preferred_first
from selector.rules.promotions import merit
from selector.rules.world import Entry, Rule, World


def reserved(world: World) -> list[Entry]:
    """Return the testing monitors that hold a reserved place, best first."""
    return [entry for entry in world.testing if fits(world, entry)]


def is_short(world: World) -> bool:
    """Return whether active places are free."""
    return world.active_count < world.settings.target_active


def places(world: World) -> int:
    """Return the number of reserved places, at most the testing target."""
    half = world.testing_target - world.testing_target // 2
    most = max(half, world.settings.reserved_for_globally_active) if is_short(world) else half
    return min(most, world.testing_target)


def fits(world: World, entry: Entry) -> bool:
    """Return whether this monitor may hold a reserved place: while active places are free, it may lack only results.

    Constraints are ignored only while no monitor is active: the emergency may have ended within this review, and the
    next review would not tolerate a violation.
    """
    if not entry.globally_active or not entry.healthy or entry.state is not State.IN:
        return False
    beside = world.active_count if is_short(world) else 0
    return beside == 0 or would_violate(world, entry, PairStatus.ACTIVE) is None


def is_ready(world: World, entry: Entry) -> bool:
    """Return whether it has enough results for active."""
    return entry.monitor.count >= world.settings.results_for_active


def is_overdue(world: World, entry: Entry) -> bool:
    """Return whether this testing monitor has used up its time to collect results, or its start is unknown."""
    since = entry.monitor.last_move
    return not is_ready(world, entry) and (since is None or world.now - since >= world.settings.time_to_gather)


def may_try_again(world: World, entry: Entry) -> bool:
    """Return whether this candidate may enter testing to collect results: not if it was testing within a week."""
    left = entry.monitor.last_move
    return left is None or world.now - left >= world.settings.next_try


def yields_to(world: World, holder: Entry, entry: Entry) -> bool:
    """Return whether the holder of a reserved place has to give it up for this candidate."""
    if not is_overdue(world, holder):
        return False
    # If the ledger does not have the holder's start, only a candidate with enough results displaces it.
    return is_ready(world, entry) or (holder.monitor.last_move is not None and may_try_again(world, entry))


def protected(world: World) -> frozenset[int]:
    """Return the monitors that no swap or clean-up may remove from testing, since too few would remain."""
    holders = reserved(world)
    return frozenset(entry.id for entry in holders) if len(holders) <= places(world) else frozenset()


NAME = "rule 5: reserved place in testing"


def apply(world: World) -> World:
    """Fill and renew reserved places until no eligible candidate remains or the limit is reached."""
    while no_promotions_to_testing(world) is None:
        after = _renew_one(world) if is_full(world) else _fill_one(world)
        if after is world:
            break
        world = after
    return world


def is_full(world: World) -> bool:
    """Return whether all reserved places are held."""
    return len(reserved(world)) >= places(world)


def _fill_one(world: World) -> World:
    """Return the world with one more reserved place filled, or unchanged."""
    if not any(entry.globally_active and entry.healthy for entry in world.candidates):
        return world
    if world.testing_count < world.testing_target:
        winner = _best(world, world.candidates)
        if winner is not None:
            return _enter(world, winner, world.candidates)
    if world.testing_removals_left > 0:
        for loser in _displaceable(world):
            without = world.move(loser, PairStatus.CANDIDATE, NAME, "makes room for a globally active monitor")
            winner = _best(without, without.candidates)
            if winner is not None:
                return _enter(without, winner, without.candidates)
    return world


def _renew_one(world: World) -> World:
    """Return the world after a candidate has replaced one overdue holder, worst first, or unchanged."""
    if not is_short(world) or world.testing_removals_left <= 0:
        return world
    for loser in reversed(reserved(world)):
        if world.moved(loser):
            continue
        rivals = [entry for entry in world.candidates if yields_to(world, loser, entry)]
        if not rivals:
            continue
        why = f"{loser.monitor.count} of {world.settings.results_for_active} results after its time to collect them"
        without = world.move(loser, PairStatus.CANDIDATE, NAME, why)
        winner = _best(without, rivals)
        if winner is not None:
            return _enter(without, winner, rivals)
    return world


def _displaceable(world: World) -> list[Entry]:
    """Return testing monitors without a reserved place, worst first, globally testing ones before others."""
    holders = {entry.id for entry in reserved(world)}
    free = [entry for entry in reversed(world.testing) if entry.id not in holders and not world.moved(entry)]
    if not is_short(world):
        return [entry for entry in free if not entry.globally_active]
    return sorted(free, key=lambda entry: entry.globally_active)


def _best(world: World, ranked: Sequence[Entry]) -> Entry | None:
    return next((entry for entry in preferred_first(world, ranked) if _obstacle(world, entry) is None), None)


def _obstacle(world: World, entry: Entry) -> str | None:
    """Return why this candidate may not hold a reserved place."""
    if not entry.globally_active:
        return f"globally {entry.monitor.global_status}: reserved places are for globally active monitors"
    if obstacle := obstacle_to_testing(world, entry):
        return obstacle
    return None if fits(world, entry) else "could not become active without a violation"


def _enter(world: World, winner: Entry, ranked: Sequence[Entry]) -> World:
    why = f"{len(reserved(world))} of {places(world)} reserved places held; {merit(winner)}"
    why += preference_note(world, winner, ranked, _obstacle)
    return world.move(winner, PairStatus.TESTING, NAME, why)


def stays(world: World, entry: Entry) -> str | None:
    """Explain why candidates do not get a reserved place."""
    if entry.status is not PairStatus.CANDIDATE:
        return None
    if is_full(world):
        return f"all {places(world)} reserved places are held"
    return _obstacle(world, entry) or no_promotions_to_testing(world) or "no monitor gives way to it"


RULE = Rule(NAME, "reserved places of testing: globally active candidates -> testing", apply, stays)
