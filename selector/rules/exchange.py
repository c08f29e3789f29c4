"""Rule 3, exchange across a constraint: a clearly better monitor replaces the active monitor that blocks it.

Two monitors of one /20 (/44), or too many of one account, may not all hold places, so the first would block a better
one indefinitely. The better one cannot enter testing beside it, so no swap of rules 3 and 5 finds it. This rule moves
both in one review, so that a server is never without an active monitor:

- A monitor with enough results for active takes the active place directly, also from testing, which it would otherwise
  have to leave because of the violation.
- A monitor with too few results enters testing, and the active place stays free for the best testing monitor. This
  requires enough other active monitors, and each monitor gets one attempt per week; otherwise one that never collects
  enough results would enter again and again.

The rule runs before rule 2, which removes monitors in violation from testing.
"""

from collections.abc import Iterator

from selector.rules.assess import out_on_its_own
from selector.rules.constraints import entangled
from selector.rules.eligibility import no_promotions_to_testing, out_because, versus, would_violate
from selector.rules.model import GlobalStatus, PairStatus, State
from selector.rules.ranking import beats
from selector.rules.reserved_places import may_try_again
from selector.rules.world import Entry, Rule, World

NAME = "rule 3: exchange across a constraint"


def apply(world: World) -> World:
    """Exchange active monitors, worst first, each for the best one that may replace it."""
    if world.emergency:
        return world
    waiting = [entry for entry in (*world.testing, *world.candidates) if _obstacle(world, entry) is None]
    for loser in reversed(world.active) if waiting else ():
        if no_room(world):
            break
        if not world.moved(loser):
            world = next(_exchanges(world, loser, waiting), world)
    return world


def no_room(world: World) -> str | None:
    """Return why no exchange is possible for any monitor."""
    if world.active_count > world.settings.target_active:
        return "too many are active, and they leave first"
    if world.promotions_left <= 0:
        return f"limit of {world.limit} promotions reached"
    if world.active_removals_left <= 0:
        return f"limit of {world.limit} active removals reached"
    return None


def _obstacle(world: World, entry: Entry) -> str | None:
    """Return why this monitor is not eligible for any exchange."""
    if world.moved(entry):
        return "already moved in this review"
    if not entry.globally_active:
        return f"globally {entry.monitor.global_status}: only a globally active monitor becomes active"
    if not entry.healthy or entry.state is State.BLOCK:
        return "is not healthy"
    if entry.violation is not None and entry.violation.unchangeable:
        return out_because(entry)
    if entry.monitor.count < world.settings.results_for_testing:
        return f"{entry.monitor.count} of {world.settings.results_for_testing} results"
    if would_violate(world, entry, PairStatus.TESTING) is None:
        return "no constraint keeps it out"
    return None


def _exchanges(world: World, loser: Entry, waiting: list[Entry]) -> Iterator[World]:
    """Yield the world after each possible exchange of ``loser``, best first."""
    for winner in waiting:
        if winner is loser or world.moved(winner) or not _displaces(world, winner, loser):
            continue
        after = (
            _into_active(world, winner, loser) if ready(world, winner, loser) else _into_testing(world, winner, loser)
        )
        if after is not None:
            yield after


def _displaces(world: World, winner: Entry, loser: Entry) -> bool:
    """Return whether the two can conflict, and the first is clearly better or the second has to leave anyway."""
    return entangled(winner.monitor, loser.monitor) and (
        out_on_its_own(loser.monitor.global_status, loser.health)
        or beats(winner.priority, loser.health, loser.priority, world.settings)
    )


def ready(world: World, winner: Entry, loser: Entry) -> bool:
    """Return whether it has enough results for active; fewer are enough if the last active monitor has to leave."""
    settings = world.settings
    last = world.active_count == 1 and out_on_its_own(loser.monitor.global_status, loser.health)
    return winner.monitor.count >= (settings.results_for_active_in_emergency if last else settings.results_for_active)


def _into_active(world: World, winner: Entry, loser: Entry) -> World | None:
    """Exchange the two if the winner violates no constraint then; the loser enters testing if it violates none."""
    if would_violate(world.move(loser, PairStatus.CANDIDATE, NAME, ""), winner, PairStatus.ACTIVE) is not None:
        return None
    came = world.move(
        winner, PairStatus.ACTIVE, NAME, f"takes the place of {loser.monitor.name}, {_facts(winner, loser)}"
    )
    to = PairStatus.CANDIDATE if would_violate(came, loser, PairStatus.TESTING) else PairStatus.TESTING
    return came.move(loser, to, NAME, f"gives way to {winner.monitor.name}, {_facts(winner, loser)}")


def _into_testing(world: World, winner: Entry, loser: Entry) -> World | None:
    """Remove the loser so that the winner can enter testing, if enough others are active."""
    floor = max(1, world.settings.target_active - world.settings.floor_below_target)
    if winner.status is not PairStatus.CANDIDATE or world.active_count <= floor or not may_try_again(world, winner):
        return None
    facts = _facts(winner, loser)
    without = world.move(
        loser, PairStatus.CANDIDATE, NAME, f"makes way for {winner.monitor.name} to be tested, {facts}"
    )
    if without.testing_count >= without.testing_target or no_promotions_to_testing(without):
        return None
    if any(would_violate(without, winner, status) for status in (PairStatus.ACTIVE, PairStatus.TESTING)):
        return None
    return without.move(winner, PairStatus.TESTING, NAME, f"is tested instead of {loser.monitor.name}, {facts}")


def _facts(winner: Entry, loser: Entry) -> str:
    """Describe what the two share, and the comparison that decided."""
    shared = "account" if loser.monitor.account_id == winner.monitor.account_id is not None else "network"
    if loser.monitor.global_status is GlobalStatus.PENDING:
        return f"same {shared}, globally {winner.monitor.global_status} against pending"
    return f"same {shared}, {versus(winner, loser)}"


def stays(world: World, entry: Entry) -> str | None:
    """Explain candidates and testing monitors that a constraint blocks although an active monitor is clearly worse."""
    if world.emergency or entry.status not in (PairStatus.CANDIDATE, PairStatus.TESTING) or _obstacle(world, entry):
        return None
    losers = [other for other in reversed(world.active) if not world.moved(other) and _displaces(world, entry, other)]
    if not losers:
        return None
    return f"better than {losers[0].monitor.name}, but: {no_room(world) or _why_not_exchanged(world, entry, losers[0])}"


def _why_not_exchanged(world: World, winner: Entry, loser: Entry) -> str:
    without = world.move(loser, PairStatus.CANDIDATE, NAME, "")
    if violation := would_violate(without, winner, PairStatus.ACTIVE):
        return f"would also violate {violation} with other monitors"
    return f"{winner.monitor.count} of {world.settings.results_for_active} results, and cannot be tested beside it"


RULE = Rule(NAME, "a clearly better monitor takes the active place that keeps it out", apply, stays)
